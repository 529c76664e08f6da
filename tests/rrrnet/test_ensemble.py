"""The network: shapes, names, and members that do not touch each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rrrnet.images.preprocess import Preprocess
from rrrnet.network import architecture as shapes
from rrrnet.network.edges import edge_filters, start_from_edges
from rrrnet.network.ensemble import RRRNet, normalise


@pytest.mark.parametrize("members", [1, 2, 8])
def test_logits_have_one_row_for_each_member_and_parameters_are_as_many_as_the_arithmetic_says(members: int) -> None:
    network = shapes.ensemble(20, members)
    model = RRRNet(network).eval()
    assert model(torch.randn(3, 3, 32, 32)).shape == (3, members, 20)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == shapes.cost(network, 128)["total"]["parameters"]


def test_names_are_torchvisions_and_a_members_are_prefixed() -> None:
    whole, split = RRRNet(shapes.full(20)).state_dict(), RRRNet(shapes.ensemble(20, 2)).state_dict()
    assert {"conv1.weight", "bn1.running_var", "layer3.35.conv3.weight", "layer4.0.downsample.1.bias"} <= whole.keys()
    assert whole["fc.weight"].shape == (20, 2048)
    assert split["members.1.layer4.0.conv2.weight"].shape == (356, 356, 3, 3)
    assert not any(name.startswith(("layer3", "layer4", "fc")) for name in split)


def test_a_member_depends_on_no_other_member() -> None:
    model = RRRNet(shapes.ensemble(5, 2)).eval()
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    with torch.no_grad():
        for parameter in model.members[1].parameters():
            parameter.add_(1.0)
    after = model(images)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_normalisation_is_mean_and_std_of_rgb_between_0_and_1() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    preprocess = Preprocess(32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (images[1, 4, 5].float() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
    assert torch.allclose(normalise(images, preprocess)[1, :, 4, 5], expected, atol=1e-6)
    turned = normalise(images, replace(preprocess, bgr=True))
    assert torch.allclose(turned[1, :, 4, 5], expected.flip(0), atol=1e-6)


def test_edge_filters_come_in_pairs_of_unit_norm_without_mean() -> None:
    filters = edge_filters()
    assert filters.shape == (64, 3, 7, 7)
    assert torch.allclose(filters[0::2], -filters[1::2])
    assert torch.allclose(filters.flatten(1).norm(dim=1), torch.ones(64), atol=1e-5)
    assert torch.allclose(filters.sum((2, 3)), torch.zeros(64, 3), atol=1e-5)
    assert torch.linalg.matrix_rank(filters[0::2].flatten(1)) > 20  # not one filter many times


def test_starting_from_edges_changes_conv1_alone() -> None:
    torch.manual_seed(0)
    model = RRRNet(shapes.ensemble(5, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from_edges(model)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["conv1.weight"]
