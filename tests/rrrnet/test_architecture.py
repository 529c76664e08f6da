"""The numbers of the paper's architecture: widths, parameters, MACs."""

import pytest

from rrrnet.errors import UsageError
from rrrnet.network import architecture as shapes

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


def test_resnet152_has_the_published_cost() -> None:
    total = shapes.cost(shapes.full(20), 128)["total"]
    assert (round(total["parameters"] / 1e6, 3), round(total["macs"] / 1e6, 1)) == (58.185, 3758.9)
    assert shapes.cost(shapes.full(1000), 224)["total"]["parameters"] == 60_192_808  # torchvision's resnet152


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
