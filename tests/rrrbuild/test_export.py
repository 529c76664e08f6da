from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from rrrbuild.export import export_onnx
from rrrnet.checkpoint import Arrays, Checkpoint
from rrrnet.errors import ArtifactError
from rrrnet.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rrrnet.network.architecture import Architecture


def reference(arrays: Arrays, architecture: Architecture, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The network in torch's own functions and float64, BN not folded."""
    weights = {name: torch.from_numpy(array).double() for name, array in arrays.items()}

    def conv_bn(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{conv}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps=1e-5)

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        y = F.relu(conv_bn(x, f"{name}.conv1", f"{name}.bn1"))
        y = F.relu(conv_bn(y, f"{name}.conv2", f"{name}.bn2", stride))
        y = conv_bn(y, f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in weights:
            x = conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        return F.relu(x + y)

    def stage(x: Tensor, prefix: str, layer: int) -> Tensor:
        for index in range(architecture.blocks[layer - 1]):
            x = block(x, f"{prefix}layer{layer}.{index}", 2 if index == 0 and layer > 1 else 1)
        return x

    x = torch.from_numpy(images).double() / 255
    x = ((x - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(0, 3, 1, 2)
    x = F.max_pool2d(F.relu(conv_bn(x, "conv1", "bn1", 2)), 3, stride=2, padding=1)
    x = stage(stage(x, "", 1), "", 2)
    members = []
    for index in range(architecture.members):
        prefix = f"members.{index}." if architecture.members > 1 else ""
        features = stage(stage(x, prefix, 3), prefix, 4).mean(dim=(2, 3))
        members.append(F.linear(features, weights[f"{prefix}fc.weight"], weights[f"{prefix}fc.bias"]).softmax(dim=1))
    return torch.stack(members, dim=1).numpy()


def run(model: bytes, images: npt.NDArray[np.uint8]) -> Any:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images})[0]


@pytest.fixture
def images() -> npt.NDArray[np.uint8]:
    """White in the middle, black at the border: padding that is not zero after normalisation would show."""
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    images[0] = 0
    images[0, 8:24, 8:24] = 255
    return images


@pytest.mark.parametrize("alone", [False, True], ids=["members", "one member with repeated blocks"])
def test_an_exported_network_gives_what_torch_gives_with_every_batch_norm_folded_away(
    alone: bool,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    checkpoint: Checkpoint,
    one_member: Architecture,
    weights: Callable[..., Arrays],
    images: npt.NDArray[np.uint8],
) -> None:
    network = make_checkpoint(tmp_path / "single", one_member) if alone else checkpoint
    expected = reference(weights(network.architecture), network.architecture, images)

    model = export_onnx(network, plan="sequential", half=False)
    found = run(model, images)

    assert found.shape == (3, 1 if alone else 2, 3)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
    if not alone:
        assert np.abs(expected[:, 0] - expected[:, 1]).max() > 0.05  # the members differ, so their order was tested
    names = [tensor.name for tensor in onnx.load_from_string(model).graph.initializer]
    assert not any("bn" in name or "running" in name for name in names)


def test_a_network_that_wants_bgr_is_given_rgb(
    checkpoint: Checkpoint, weights: Callable[..., Arrays], images: npt.NDArray[np.uint8]
) -> None:
    """Its mean and std are those of red, green and blue all the same."""
    turned = weights(checkpoint.architecture)
    turned["conv1.weight"] = np.ascontiguousarray(turned["conv1.weight"][:, ::-1])
    expected = reference(turned, checkpoint.architecture, images)
    wants_bgr = replace(checkpoint, preprocess=replace(checkpoint.preprocess, bgr=True))
    found = run(export_onnx(wants_bgr, plan="merged", half=False), images)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - run(export_onnx(checkpoint, plan="merged", half=False), images)).max() > 0.01


def test_the_half_precision_graph_keeps_normalisation_and_softmax_in_fp32(
    checkpoint: Checkpoint, weights: Callable[..., Arrays], images: npt.NDArray[np.uint8]
) -> None:
    data = export_onnx(checkpoint, plan="sequential", half=True)
    model = onnx.load_from_string(data)

    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["mean_255"] == kinds["inverse_std_255"] == TensorProto.FLOAT
    assert kinds["conv1.weight"] == kinds["members.1.fc.bias"] == TensorProto.FLOAT16
    casts = {node.name: node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"}
    assert casts == {
        "images.float32": TensorProto.FLOAT,
        "images.float16": TensorProto.FLOAT16,
        "member_logits.float32": TensorProto.FLOAT,
    }
    expected = reference(weights(checkpoint.architecture), checkpoint.architecture, images)
    assert np.abs(run(data, images) - expected).max() < 0.02


def test_the_batch_is_free_and_names_and_types_are_those_of_every_engine(checkpoint: Checkpoint) -> None:
    graph = onnx.load_from_string(export_onnx(checkpoint, plan="sequential", half=False)).graph

    (entry,), (answer,) = graph.input, graph.output
    assert (entry.name, entry.type.tensor_type.elem_type) == ("images", TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim] == ["N", 32, 32, 3]
    assert (answer.name, answer.type.tensor_type.elem_type) == ("probabilities", TensorProto.FLOAT)
    assert [d.dim_param or d.dim_value for d in answer.type.tensor_type.shape.dim] == ["N", 2, 3]


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint: Checkpoint) -> None:
    assert export_onnx(checkpoint, plan="sequential", half=False) == export_onnx(
        checkpoint, plan="sequential", half=False
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("members.1.layer4.0.bn2.bias"), "no tensor 'members.1.layer4.0.bn2.bias'"),
        (lambda arrays: arrays.update({"fc.bias": 0, "conv1.weight": np.zeros((64, 3, 3, 3))}), r"\(64, 3, 3, 3\)"),
        (lambda arrays: arrays["members.0.fc.weight"].fill(np.nan), "'members.0.fc.weight' holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_tensors_name(
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    weights: Callable[..., Arrays],
    checkpoint: Checkpoint,
    change: Callable[[Arrays], object],
    message: str,
) -> None:
    arrays = weights(checkpoint.architecture)
    change(arrays)
    broken = make_checkpoint(tmp_path / "broken", weights=arrays)

    with pytest.raises(ArtifactError, match=message):
        export_onnx(broken, plan="sequential", half=False)
