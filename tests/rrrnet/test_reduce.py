"""What a network takes from the pre-trained backbone, tensor by tensor."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rrrnet.network import architecture as shapes
from rrrnet.network.architecture import BACKBONES
from rrrnet.network.branches import output_indices
from rrrnet.network.ensemble import RRRNet
from rrrnet.network.reduce import load_pretrained
from rrrnet.weights.pretrained import read_pretrained


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    state = RRRNet(shapes.full(1000, backbone=backbone)).state_dict()
    for name, value in state.items():
        if "bn" in name or "downsample.1" in name:
            value.copy_(torch.rand(value.shape) + 0.5 if value.is_floating_point() else value)
    path = tmp_path_factory.mktemp("weights") / f"{backbone}.safetensors"
    save_file(state, path)
    return path


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


def test_members_batch_norms_and_classifiers_start_fresh(pretrained: dict[str, Tensor]) -> None:
    model = RRRNet(shapes.ensemble(20, 8))
    fresh = load_pretrained(model, pretrained)
    assert len(fresh) == 8 * (8 * 4 + 2)  # 8 BNs of 4 tensors and a classifier of 2, in each member
    assert all(".bn" in name or "downsample.1" in name or ".fc." in name for name in fresh)
    assert torch.equal(model.state_dict()["members.0.layer3.0.bn1.weight"], torch.ones(79))


def test_reduced_network_gives_the_features_of_the_originals_blocks(pretrained: dict[str, Tensor], backbone: str) -> None:
    torch.manual_seed(5)
    whole, reduced = RRRNet(shapes.full(1000, backbone=backbone)).eval(), RRRNet(shapes.reduced(20)).eval()
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
    model = RRRNet(shapes.full(1000, backbone=backbone))
    assert load_pretrained(model, pretrained) == []
    assert torch.equal(model.state_dict()["fc.weight"], pretrained["fc.weight"])
