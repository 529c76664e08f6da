"""The numbers of the paper's architecture: widths, parameters, MACs."""

import pytest

from rrrnet.errors import UsageError
from rrrnet.network import architecture as shapes
from rrrnet.network.architecture import BACKBONES, Architecture

# members: (widths, parameters in millions, MMACs at 128 pixels); 20 classes
PAPER = {
    1: ((256, 512), 8.057, 479.0),
    2: ((175, 356), 8.022, 495.0),
    4: ((119, 247), 8.051, 518.6),
    8: ((79, 170), 8.034, 546.1),
    16: ((51, 115), 7.922, 576.4),
    32: ((32, 77), 7.822, 611.4),
}


@pytest.mark.parametrize("members", PAPER)
def test_widths_parameters_and_macs_are_the_papers(members: int) -> None:
    network = shapes.ensemble(20, members)
    total = shapes.cost(network, 128)["total"]
    widths, parameters, macs = PAPER[members]
    assert network.widths == widths
    assert round(total["parameters"] / 1e6, 3) == parameters
    assert round(total["macs"] / 1e6, 1) == macs


# torchvision's parameters; its GFLOPS, which are our MACs, and how many times the MACs and parameters of 8 members
PUBLISHED = {
    "resnet50": (25_557_032, 4.09, 2.4, 2.9),
    "resnet101": (44_549_160, 7.80, 4.7, 5.3),
    "resnet152": (60_192_808, 11.51, 6.9, 7.2),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_backbone_has_the_published_cost_and_its_own_ratio_to_8_members(backbone: str) -> None:
    parameters, giga_macs, *ratios = PUBLISHED[backbone]
    published = shapes.cost(shapes.full(1000, backbone=backbone), 224)["total"]
    assert (published["parameters"], round(published["macs"] / 1e9, 2)) == (parameters, giga_macs)
    for size in (64, 128, 224):
        whole = shapes.cost(shapes.full(20, backbone=backbone), size)["total"]
        members = shapes.cost(shapes.ensemble(20, 8, backbone=backbone), size)["total"]
        assert [round(whole[key] / members[key], 1) for key in ("macs", "parameters")] == ratios


def cost_by_hand(widths: tuple[int, int], members: int, blocks: tuple[int, ...]) -> tuple[int, int]:
    """Parameters and MACs of a network of 20 classes at 64 pixels, written out block by block."""
    parameters, macs = 64 * 3 * 49 + 2 * 64, 64 * 3 * 49 * 32**2
    inputs = 64
    for stage, (width, side) in enumerate(zip((64, 128, *widths), (16, 8, 4, 2), strict=True)):
        copies = members if stage > 1 else 1
        for block in range(blocks[stage]):
            before = side * 2 if stage and not block else side  # the 3x3 carries the stride
            outside = inputs if block == 0 else 4 * width
            parameters += copies * (outside * width + 9 * width**2 + 4 * width**2 + 2 * (width + width + 4 * width))
            macs += copies * (outside * width * before**2 + (9 + 4) * width**2 * side**2)
            if block == 0:
                parameters += copies * (outside * 4 * width + 2 * 4 * width)
                macs += copies * outside * 4 * width * side**2
        inputs = 4 * width
    classifier = 4 * widths[1] * 20
    return parameters + members * (classifier + 20), macs + members * classifier


@pytest.mark.parametrize("backbone", BACKBONES)
def test_costs_of_1_to_32_members_and_of_the_backbone_are_those_of_arithmetic(backbone: str) -> None:
    for network in (
        shapes.full(20, backbone=backbone),
        *(shapes.ensemble(20, n, backbone=backbone) for n in range(1, 33)),
    ):
        total = shapes.cost(network, 64)["total"]
        expected = cost_by_hand(network.widths, network.members, network.blocks)
        assert (total["parameters"], total["macs"]) == expected, network
        assert network.members == 1 or network.widths == shapes.ensemble(20, network.members).widths


def test_documents_from_before_there_were_other_backbones_are_of_a_resnet152() -> None:
    for backbone in BACKBONES:
        network = shapes.ensemble(20, 8, backbone=backbone)
        document = network.to_json()
        assert Architecture.from_json(document) == network
        del document["backbone"]
        assert Architecture.from_json(document).backbone == "resnet152"


def test_only_all_blocks_of_its_own_backbone_make_a_network_whole() -> None:
    assert shapes.full(20, backbone="resnet50").is_full
    assert not shapes.reduced(20, backbone="resnet50").is_full
    with pytest.raises(UsageError, match=r"blocks \(3, 4, 6, 3\) are not those of a ResNet101"):
        Architecture(20, BACKBONES["resnet50"], backbone="resnet101")
    with pytest.raises(UsageError, match="backbone resnet34: no such backbone; allowed are resnet50, resnet101, resn"):
        shapes.full(20, backbone="resnet34")


@pytest.mark.parametrize(("classes", "widths"), [(62, (77, 168)), (706, (61, 152)), (1000, (54, 145))])
def test_more_classes_make_thinner_members(classes: int, widths: tuple[int, int]) -> None:
    assert shapes.branch_widths(classes, 8) == widths


@pytest.mark.parametrize(("members", "widths"), [(1, (256, 512)), (4, (120, 240)), (8, (80, 168))])
def test_aligned_widths_are_multiples_of_8_within_the_budget(members: int, widths: tuple[int, int]) -> None:
    network = shapes.ensemble(20, members, aligned=True)
    assert network.widths == widths
    budget = shapes.cost(shapes.reduced(20), 128)["total"]["parameters"]
    assert shapes.cost(network, 128)["total"]["parameters"] <= budget


def test_macs_of_odd_image_sizes_round_up_at_each_stride() -> None:
    costs = shapes.cost(shapes.reduced(20), 33)
    first = next(conv for part, conv in shapes.convolutions(shapes.reduced(20)) if conv.name == "conv1")
    assert first.parameters == 3 * 64 * 49 + 128
    assert costs["stem"]["macs"] > shapes.cost(shapes.reduced(20), 32)["stem"]["macs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 8), "needs at least 2"),
        ((20, 0), "allowed are 1 to 256"),
        ((20, 257), "allowed are 1 to 256"),
        ((40_000, 256), "use fewer members"),
    ],
)
def test_impossible_networks_are_refused(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shapes.ensemble(*arguments)
