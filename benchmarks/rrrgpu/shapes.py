"""Layers, widths and MACs of the paper's networks.

A copy of rrrnet.network.architecture's rules, so that the benchmark runs where this project is not; a test compares
the two.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

RESNET152, REDUCED = (3, 8, 36, 3), (1, 1, 1, 1)
FEATURES = 512  # channels of what the stem hands on, at an eighth of the images' side


class Shape(NamedTuple):
    """A convolution, or the classifier; `part` is "stem" or "member"."""

    part: str
    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int


def network_shapes(blocks: tuple[int, ...], widths: tuple[int, int], classes: int) -> Iterator[Shape]:
    """Every layer once: the stem (conv1 to layer2), then one member (layer3 to fc)."""
    yield Shape("stem", "conv1", 3, 64, 7, 2)
    channels = 64
    for layer, (count, width) in enumerate(zip(blocks, (64, 128, *widths), strict=True), 1):
        part = "stem" if layer < 3 else "member"
        for index in range(count):
            block, stride = f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1
            yield Shape(part, f"{block}.conv1", channels, width, 1, 1)
            yield Shape(part, f"{block}.conv2", width, width, 3, stride)
            yield Shape(part, f"{block}.conv3", width, 4 * width, 1, 1)
            if index == 0:
                yield Shape(part, f"{block}.downsample", channels, 4 * width, 1, stride)
            channels = 4 * width
    yield Shape("member", "fc", channels, classes, 1, 1)


def branch_widths(classes: int, members: int) -> tuple[int, int]:
    """The paper's rule: the widest members that together have no more parameters than the unsplit tail."""

    def parameters(widths: tuple[int, int]) -> int:
        tail = [shape for shape in network_shapes(REDUCED, widths, classes) if shape.part == "member"]
        return sum(s.inputs * s.outputs * s.kernel**2 + s.outputs * (1 if s.name == "fc" else 2) for s in tail)

    base3, base4 = math.floor(256 / math.sqrt(members)), math.floor(512 / math.sqrt(members))
    candidates = [(base3 - shift, base4 - shift) for shift in range(base3)]
    return next(widths for widths in candidates if members * parameters(widths) <= parameters((256, 512)))


def count_macs(blocks: tuple[int, ...], widths: tuple[int, int], classes: int, members: int, pixels: int) -> int:
    """Multiply-accumulates of one image, without the channels that padding adds."""
    total, side = 0, pixels
    for shape in network_shapes(blocks, widths, classes):
        if shape.name.endswith(("conv1", "conv2")):
            side = -(-side // shape.stride)
        work = shape.inputs * shape.outputs * shape.kernel**2 * (1 if shape.name == "fc" else side**2)
        total += work * (members if shape.part == "member" else 1)
        if shape.name == "conv1":
            side = -(-side // 2)  # the max pooling behind it
    return total
