"""Networks of random weights, and the arithmetic of their parts in PyTorch. Letters: N images, M members, C classes."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rrrgpu.shapes import Shape, branch_widths, network_shapes
from rrrgpu.streams import fork, join, on, side_streams

Layer = tuple[Any, Any, int, int]  # weight, bias, stride, groups
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE_STREAMS = 8


class Network:
    """Random weights with BN folded, members padded to `align` channels; the arithmetic of its parts."""

    def __init__(self, name: str, blocks: tuple[int, ...], members: int, classes: int, align: int) -> None:
        self.name, self.blocks, self.members, self.classes = name, blocks, members, classes
        self.widths = (256, 512) if members == 1 else branch_widths(classes, members)
        shapes = list(network_shapes(blocks, self.widths, classes))
        random = np.random.default_rng(members)
        self.stem = {s.name: _random_layer(s, random, 1) for s in shapes if s.part == "stem"}
        tail = [shape for shape in shapes if shape.part == "member"]
        self.tails = [{s.name: _random_layer(s, random, align) for s in tail} for _ in range(members)]
        names = self.tails[0] if members > 1 else ()
        self.merged = {name: _merged_layer(name, [layers[name] for layers in self.tails]) for name in names}
        self.scale: Any = np.array([1 / (255 * std) for std in _STD], np.float32)
        self.shift: Any = np.array([-mean / std for mean, std in zip(_MEAN, _STD, strict=True)], np.float32)
        self.layout = torch.channels_last
        self.separate: set[int] = set()

    def to(self, dtype: torch.dtype, device: str, layout: torch.memory_format = torch.channels_last) -> "Network":
        """A copy whose weights are tensors."""
        copy = object.__new__(Network)
        copy.__dict__ |= self.__dict__

        def tensor(array: Any) -> Any:
            converted = torch.tensor(array, dtype=dtype, device=device)
            return converted.to(memory_format=layout) if array.ndim == 4 else converted

        def convert(layers: dict[str, Layer]) -> dict[str, Layer]:
            return {name: (tensor(layer[0]), tensor(layer[1]), *layer[2:]) for name, layer in layers.items()}

        copy.stem, copy.merged, copy.tails = convert(self.stem), convert(self.merged), [*map(convert, self.tails)]
        copy.scale, copy.shift, copy.layout, copy.separate = tensor(self.scale), tensor(self.shift), layout, set()
        return copy

    def some(self, members: slice) -> "Network":
        """Some of the members alone, merged however few they are, on the same stem."""
        copy = object.__new__(Network)
        copy.__dict__ |= self.__dict__
        copy.tails, copy.separate = self.tails[members], set()
        copy.members = len(copy.tails)
        copy.merged = {name: _merged_layer(name, [layers[name] for layers in copy.tails]) for name in copy.tails[0]}
        return copy

    def _conv(self, x: Any, layer: Layer, *, relu: bool = False, add: Any = None) -> Any:
        """Convolution, bias, then `add` and ReLU if wanted; on a GPU in half precision that is one kernel of cuDNN."""
        weight, bias, stride, groups = layer
        padding = weight.shape[2] // 2
        if x.dtype == torch.float16 and (relu or add is not None) and weight.data_ptr() not in self.separate:
            rest = ([stride] * 2, [padding] * 2, [1, 1], groups)
            try:
                if add is not None:
                    return torch.cudnn_convolution_add_relu(x, weight, add, 1.0, bias, *rest)
                return torch.cudnn_convolution_relu(x, weight, bias, *rest)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError:  # cuDNN has no such kernel for this layer; found out before any capture
                self.separate.add(weight.data_ptr())
        y = F.conv2d(x, weight, bias, stride, padding, 1, groups)
        y = y if add is None else y.add_(add)
        return y.relu_() if relu or add is not None else y

    def _stages(self, x: Any, layers: dict[str, Layer], first: int) -> Any:
        """Two stages of bottleneck blocks."""
        for stage in (first, first + 1):
            for block in (f"layer{stage}.{index}" for index in range(self.blocks[stage - 1])):
                y = self._conv(x, layers[f"{block}.conv1"], relu=True)
                y = self._conv(y, layers[f"{block}.conv2"], relu=True)
                down = layers.get(f"{block}.downsample")
                x = self._conv(y, layers[f"{block}.conv3"], add=self._conv(x, down) if down else x)
        return x

    def forward_stem(self, images: Any) -> Any:
        """(N, S, S, 3) uint8 -> (N, 512, S/8, S/8)."""
        x = torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale).permute(0, 3, 1, 2)
        x = x.contiguous(memory_format=self.layout)  # moves nothing where channels come last
        return self._stages(F.max_pool2d(self._conv(x, self.stem["conv1"], relu=True), 3, 2, 1), self.stem, 1)

    def forward_tail(self, x: Any, layers: dict[str, Layer]) -> Any:
        """One member's logits (N, C), or with the merged layers those of all (N, M*C)."""
        x = self._stages(x, layers, 3).mean((2, 3), keepdim=True)
        return self._conv(x, layers["fc"]).flatten(1)

    def head(self, logits: Any) -> tuple[Any, Any]:
        """(N, M*C) -> logits and probabilities (N, M, C), in float32 or float64."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).view(-1, self.members, self.classes)
        return wide, wide.softmax(2)

    def run_sequential(self, images: Any) -> tuple[Any, Any]:
        """Members one after the other."""
        x = self.forward_stem(images)
        return self.head(torch.cat([self.forward_tail(x, layers) for layers in self.tails], 1))

    def run_merged(self, images: Any) -> tuple[Any, Any]:
        """Members as one chain of grouped convolutions."""
        return self.head(self.forward_tail(self.forward_stem(images), self.merged))

    def run_streams(self, images: Any) -> tuple[Any, Any]:
        """Members on side streams, which fork off and join again within one graph."""
        x = self.forward_stem(images)
        sides = side_streams(min(self.members, _SIDE_STREAMS), on_gpu=images.is_cuda)
        fork(sides)
        logits = []
        for index, layers in enumerate(self.tails):
            with on(sides[index % len(sides)]):
                logits.append(self.forward_tail(x, layers))
        join(sides)
        return self.head(torch.cat(logits, 1))


def _random_layer(shape: Shape, random: np.random.Generator, align: int) -> Layer:
    """Spread so that activations stay near 1 through all blocks; padding adds channels that are exactly zero."""
    gain = {"conv3": 0.25, "fc": 0.7}.get(shape.name.rpartition(".")[2], 1.0)
    spread = gain * math.sqrt(2 / (shape.inputs * shape.kernel**2))
    weight = random.normal(0, spread, (shape.outputs, shape.inputs, shape.kernel, shape.kernel)).astype(np.float32)
    bias = random.normal(0, 0.1, shape.outputs).astype(np.float32)
    more_in, more_out = -shape.inputs % align, 0 if shape.name == "fc" else -shape.outputs % align
    weight = np.pad(weight, ((0, more_out), (0, more_in), (0, 0), (0, 0)))
    return weight, np.pad(bias, (0, more_out)), shape.stride, 1


def _merged_layer(name: str, layers: list[Layer]) -> Layer:
    """All members as one layer: dense where it reads the stem, else with a group per member."""
    weight, bias = (np.concatenate([layer[index] for layer in layers]) for index in (0, 1))
    dense = name in ("layer3.0.conv1", "layer3.0.downsample")
    return weight, bias, layers[0][2], 1 if dense else len(layers)
