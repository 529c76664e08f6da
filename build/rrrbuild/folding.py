"""Trained tensors to the convolutions that an engine runs: batch normalisation folded into weight and bias.

At inference BN is an affine map per output channel, so conv followed by BN is one convolution with bias. The
products are formed in float64 and rounded once, so folding adds no error beyond that rounding.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rrrnet.checkpoint import WEIGHTS, Arrays, Checkpoint, read_weights
from rrrnet.errors import ArtifactError
from rrrnet.network.architecture import Architecture, Conv, convolutions

BN_EPS = 1e-5  # torchvision's; it is not stored with the weights

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """One convolution, or the classifier, as an engine runs it.

    Attributes:
        conv: kernel, stride and channels.
        weight: shape (out, in / groups, kernel, kernel); the classifier's is (classes, in).
        bias: shape (out,).
    """

    conv: Conv
    weight: Float32Array
    bias: Float32Array

    @property
    def groups(self) -> int:
        """Groups of a grouped convolution, 1 for a dense one."""
        return self.conv.in_channels // int(self.weight.shape[1])


Layers = dict[str, Layer]


@dataclass(frozen=True)
class FoldedNetwork:
    """A checkpoint ready for export: the shared stem and the members, each a dict of layers by torchvision's name."""

    architecture: Architecture
    stem: Layers
    members: tuple[Layers, ...]


def fold_network(checkpoint: Checkpoint) -> FoldedNetwork:
    """Read a checkpoint's weights and fold every BN, and the order of the colours: the result takes RGB.

    Raises:
        ArtifactError: a tensor is missing, has another shape than the architecture says, or is not finite.
    """
    arrays = _CheckedArrays(read_weights(checkpoint), checkpoint)
    architecture = checkpoint.architecture
    parts: dict[str, list[Conv]] = {"stem": [], "member": []}
    for part, conv in convolutions(architecture):
        parts[part].append(conv)
    prefixes = [f"members.{index}." for index in range(architecture.members)] if architecture.members > 1 else [""]
    stem = {conv.name: _fold(arrays, conv, "") for conv in parts["stem"]}
    if checkpoint.preprocess.bgr:  # an engine is given RGB; its first convolution takes the colours as they come
        stem["conv1"] = replace(stem["conv1"], weight=np.ascontiguousarray(stem["conv1"].weight[:, ::-1]))
    return FoldedNetwork(
        architecture,
        stem=stem,
        members=tuple({conv.name: _fold(arrays, conv, prefix) for conv in parts["member"]} for prefix in prefixes),
    )


class _CheckedArrays:
    """Tensors by name; each is checked when it is taken, so that an error names the tensor."""

    def __init__(self, arrays: Arrays, checkpoint: Checkpoint) -> None:
        self._arrays = arrays
        self._path = checkpoint.path / WEIGHTS

    def take(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        array = self._arrays.get(name)
        if array is None:
            raise ArtifactError(f"{self._path} has no tensor {name!r}: the weights do not fit the architecture")
        if array.shape != shape:
            raise ArtifactError(f"{self._path}: tensor {name!r} has shape {array.shape}, the architecture says {shape}")
        if not np.isfinite(array).all():
            raise ArtifactError(f"{self._path}: tensor {name!r} holds NaN or infinity: train it again with rrr train")
        return array.astype(np.float64)


def _fold(arrays: _CheckedArrays, conv: Conv, prefix: str) -> Layer:
    out = (conv.out_channels,)
    if not conv.batch_norm:
        weight = arrays.take(f"{prefix}{conv.name}.weight", (conv.out_channels, conv.in_channels))
        return _layer(conv, weight, arrays.take(f"{prefix}{conv.name}.bias", out))
    kernel = (conv.out_channels, conv.in_channels, conv.kernel, conv.kernel)
    weight = arrays.take(f"{prefix}{conv.name}.weight", kernel)
    norm = prefix + conv.norm
    gamma, beta = arrays.take(f"{norm}.weight", out), arrays.take(f"{norm}.bias", out)
    mean, variance = arrays.take(f"{norm}.running_mean", out), arrays.take(f"{norm}.running_var", out)
    scale = gamma / np.sqrt(variance + BN_EPS)
    return _layer(conv, weight * scale[:, None, None, None], beta - mean * scale)


def _layer(conv: Conv, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> Layer:
    return Layer(conv, weight.astype(np.float32), bias.astype(np.float32))
