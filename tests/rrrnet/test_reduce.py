"""What a network takes from the pre-trained backbone, tensor by tensor."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rrrnet.network import architecture as shapes
from rrrnet.network.architecture import BACKBONES, Architecture
from rrrnet.network.backbone import backbone_shapes
from rrrnet.network.branches import output_indices
from rrrnet.network.ensemble import RRRNet
from rrrnet.network.reduce import load_pretrained
from rrrnet.weights.pretrained import read_pretrained


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random in all that is reused; each other tensor is one number, which torch.save keeps once."""
    torch.manual_seed(3)
    shapes_of_all = {**backbone_shapes(backbone), "fc.weight": (5, 2048), "fc.bias": (5,)}
    reused = re.compile(r"(conv1|bn1|layer\d\.0|fc)\.")
    state = {
        name: torch.rand(shape) * (0.1 if len(shape) == 4 else 1) + (0.5 if len(shape) == 1 else -0.05)
        if reused.match(name)
        else torch.ones(1).expand(shape)
        for name, shape in shapes_of_all.items()
    }
    path = tmp_path_factory.mktemp("weights") / f"{backbone}.pth"
    torch.save(state, path)
    return path


def without_values(network: Architecture) -> RRRNet:
    """The network, less the seconds that random numbers for all of it take."""
    with torch.device("meta"):
        model = RRRNet(network)
    return model.to_empty(device="cpu")


@pytest.fixture(scope="module")
def pretrained(file: Path, backbone: str) -> dict[str, Tensor]:
    found = read_pretrained(str(file)).found
    assert found.backbone == backbone
    return found.tensors


def test_stem_of_an_ensemble_equals_the_file(pretrained: dict[str, Tensor]) -> None:
    model = RRRNet(shapes.ensemble(20, 8))
    load_pretrained(model, pretrained)
    reused = {name: value for name, value in model.state_dict().items() if name.startswith(("conv1", "bn1", "layer"))}
    assert {name.split(".")[0] for name in reused} == {"conv1", "bn1", "layer1", "layer2"}
    for name, value in reused.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, pretrained[name]), name


def test_members_take_consecutive_slices_and_begin_again_beyond_the_end(pretrained: dict[str, Tensor]) -> None:
    model = RRRNet(shapes.ensemble(20, 8))
    load_pretrained(model, pretrained)
    state = model.state_dict()
    whole = pretrained["layer3.0.conv2.weight"]
    assert torch.equal(state["members.1.layer3.0.conv2.weight"], whole[79:158, :79])
    assert output_indices(3, 79, 256) == [*range(237, 256), *range(60)]
    assert torch.equal(state["members.3.layer3.0.conv2.weight"], whole[output_indices(3, 79, 256), :79])
    for member in range(8):
        for conv in ("layer3.0.conv1", "layer3.0.conv3", "layer3.0.downsample.0", "layer4.0.conv2", "layer4.0.conv3"):
            found, source = state[f"members.{member}.{conv}.weight"], pretrained[f"{conv}.weight"]
            indices = output_indices(member, found.shape[0], source.shape[0])
            assert torch.equal(found, source[indices, : found.shape[1]]), (member, conv)


def test_matched_slices_read_what_the_member_kept_of_the_convolution_before(
    pretrained: dict[str, Tensor],
) -> None:
    model = RRRNet(shapes.ensemble(20, 8))
    load_pretrained(model, pretrained, "matched")
    state = model.state_dict()
    whole = pretrained["layer3.0.conv2.weight"]
    assert torch.equal(state["members.1.layer3.0.conv2.weight"], whole[79:158, 79:158])
    for member in range(8):
        for conv, before in (("layer3.0.conv1", 512), ("layer3.0.conv3", 79), ("layer4.0.conv1", 316)):
            found, source = state[f"members.{member}.{conv}.weight"], pretrained[f"{conv}.weight"]
            outputs = output_indices(member, found.shape[0], source.shape[0])
            inputs = output_indices(member, before, source.shape[1])
            assert torch.equal(found, source[outputs][:, inputs]), (member, conv)


def test_members_batch_norms_and_classifiers_start_fresh(pretrained: dict[str, Tensor]) -> None:
    model = RRRNet(shapes.ensemble(20, 8))
    fresh = load_pretrained(model, pretrained)
    assert len(fresh) == 8 * (8 * 4 + 2)  # 8 BNs of 4 tensors and a classifier of 2, in each member
    assert all(".bn" in name or "downsample.1" in name or ".fc." in name for name in fresh)
    assert torch.equal(model.state_dict()["members.0.layer3.0.bn1.weight"], torch.ones(79))


def test_reduced_network_gives_the_features_of_the_originals_blocks(
    pretrained: dict[str, Tensor], backbone: str
) -> None:
    whole = without_values(shapes.full(5, backbone=backbone)).eval()
    reduced = RRRNet(shapes.reduced(20, backbone=backbone)).eval()
    whole.load_state_dict(pretrained, strict=False)  # less num_batches_tracked
    load_pretrained(reduced, pretrained)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = torch.relu(whole.bn1(whole.conv1(images)))
        x = torch.max_pool2d(x, 3, 2, 1)
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            x = whole.get_submodule(f"{stage}.0")(x)
        found = reduced.get_submodule("layer4")(reduced.get_submodule("layer3")(reduced.forward_features(images)))
    assert found.shape == (2, 2048, 2, 2)
    assert torch.equal(found, x)


def test_a_fine_tuned_backbone_keeps_its_classifier(pretrained: dict[str, Tensor], backbone: str) -> None:
    model = without_values(shapes.full(5, backbone=backbone))
    assert load_pretrained(model, pretrained) == []
    assert torch.equal(model.state_dict()["fc.weight"], pretrained["fc.weight"])
