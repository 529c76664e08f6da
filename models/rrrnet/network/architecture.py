"""The shape of a network and what it costs: widths, parameters and MACs by arithmetic, without torch.

Source: RRR-Net (arXiv 2310.01157) and its authors' public code; the tail's width rule is `branch_widths`.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rrrnet.errors import UsageError

# Bottleneck blocks in layer1..layer4 of the networks that are taken, by torchvision's and timm's names.
BACKBONES: dict[str, tuple[int, int, int, int]] = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
DEFAULT_BACKBONE = "resnet152"  # the paper's, and that of documents from before there were others
REDUCED_BLOCKS = (1, 1, 1, 1)
STAGE_WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
MAX_MEMBERS = 256


def backbone_title(backbone: str) -> str:
    """What people call a backbone: `resnet50` is a ResNet50."""
    return backbone.replace("resnet", "ResNet")


def check_backbone_name(backbone: str) -> None:
    """Require one of `BACKBONES`.

    Raises:
        UsageError: it is another name; lists what is allowed.
    """
    if backbone not in BACKBONES:
        raise UsageError(f"--backbone {backbone}: no such backbone; allowed are {', '.join(BACKBONES)}")


class Conv(NamedTuple):
    """One convolution (bias-free, followed by BN) or, with `batch_norm` False, the classifier."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    batch_norm: bool = True

    @property
    def parameters(self) -> int:
        """Weights, plus BN's scale and shift or the classifier's bias."""
        weights = self.in_channels * self.out_channels * self.kernel**2
        return weights + self.out_channels * (2 if self.batch_norm else 1)

    @property
    def norm(self) -> str:
        """Name of the BN that follows: `x.conv2` -> `x.bn2`, `x.downsample.0` -> `x.downsample.1`."""
        head, _, last = f".{self.name}".rpartition(".")
        return f"{head}.{'1' if last == '0' else last.replace('conv', 'bn')}".removeprefix(".")


@dataclass(frozen=True)
class Architecture:
    """A backbone, its reduced form, or a reduced ensemble.

    Attributes:
        num_classes: outputs of each classifier.
        blocks: bottleneck blocks kept in layer1..layer4.
        members: branches after layer2, each with its own classifier; 1 means no split.
        widths: mid channels of layer3 and layer4 in each member; a block puts out 4 times as many.
        backbone: a name of `BACKBONES`: what it is, was reduced from, and is compared with.
    """

    num_classes: int
    blocks: tuple[int, int, int, int] = BACKBONES[DEFAULT_BACKBONE]
    members: int = 1
    widths: tuple[int, int] = (256, 512)
    backbone: str = DEFAULT_BACKBONE

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UsageError(f"num_classes is {self.num_classes}: a classifier needs at least 2")
        if not 1 <= self.members <= MAX_MEMBERS:
            raise UsageError(f"members is {self.members}: allowed are 1 to {MAX_MEMBERS}")
        if self.members > 1 and self.blocks != REDUCED_BLOCKS:
            raise UsageError(f"an ensemble keeps the blocks {REDUCED_BLOCKS}, not {self.blocks}")
        if len(self.blocks) != 4 or min(self.blocks) < 1 or min(self.widths) < 1:
            raise UsageError(f"blocks {self.blocks} and widths {self.widths} must all be at least 1")
        check_backbone_name(self.backbone)
        if self.blocks in BACKBONES.values() and not self.is_full:
            raise UsageError(f"blocks {self.blocks} are not those of a {backbone_title(self.backbone)}")

    @property
    def is_full(self) -> bool:
        """Whether all blocks of the backbone are kept."""
        return self.blocks == BACKBONES[self.backbone]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Architecture":
        """Read what `to_json` wrote, also before it named the backbone."""
        first, second, third, fourth = values["blocks"]
        width3, width4 = values["widths"]
        return cls(
            values["num_classes"],
            (first, second, third, fourth),
            values["members"],
            (width3, width4),
            values.get("backbone", DEFAULT_BACKBONE),
        )


def full(num_classes: int, *, backbone: str = DEFAULT_BACKBONE) -> Architecture:
    """The backbone as pre-trained, all its blocks."""
    check_backbone_name(backbone)
    return Architecture(num_classes, BACKBONES[backbone], backbone=backbone)


def reduced(num_classes: int, *, backbone: str = DEFAULT_BACKBONE) -> Architecture:
    """The paper's [C]: the first block of each stage, one branch; of the same shape for every backbone."""
    return Architecture(num_classes, REDUCED_BLOCKS, backbone=backbone)


def ensemble(
    num_classes: int, members: int, *, aligned: bool = False, backbone: str = DEFAULT_BACKBONE
) -> Architecture:
    """The paper's [D]: the first block of each stage, the last two recycled as `members` thin branches.

    Of the same shape for every backbone: these differ only in how often the other blocks of a stage are repeated.
    """
    widths = branch_widths(num_classes, members, aligned=aligned)
    return Architecture(num_classes, REDUCED_BLOCKS, members, widths, backbone)


def branch_widths(num_classes: int, members: int, *, aligned: bool = False) -> tuple[int, int]:
    """Mid widths (layer3, layer4) of one of `members` branches at equal total parameters.

    The paper's rule: w = floor(C / sqrt(N)) - shift for C = 256 and 512, with the smallest shift >= 0 at which N
    branches, classifiers included, have no more parameters than the unsplit tail.

    Args:
        num_classes: classifier outputs; they count towards the parameters.
        members: N.
        aligned: ours, not the paper's: both widths rounded to the nearest multiple of 8 (80/168 at 8 members),
            then layer4 lowered by 8 until the parameters fit, so that vector units run without padding.

    Raises:
        UsageError: the rule leaves no channels, or `aligned` has no fitting multiple of 8.
    """
    if not 1 <= members <= MAX_MEMBERS:
        raise UsageError(f"members is {members}: allowed are 1 to {MAX_MEMBERS}")
    budget = _parameters(_tail(num_classes, 256, 512, (1, 1)))
    base3, base4 = (math.floor(width / math.sqrt(members)) for width in STAGE_WIDTHS[2:])
    for shift in range(base3):
        width3, width4 = base3 - shift, base4 - shift
        if members * _parameters(_tail(num_classes, width3, width4, (1, 1))) <= budget:
            break
    else:
        raise UsageError(f"{members} members with {num_classes} classes leave no channels: use fewer members")
    if not aligned or members == 1:
        return width3, width4
    aligned3, aligned4 = (max(8, 8 * math.floor(width / 8 + 0.5)) for width in (width3, width4))
    while members * _parameters(_tail(num_classes, aligned3, aligned4, (1, 1))) > budget:
        aligned4 -= 8
        if aligned4 < 8:
            raise UsageError(f"no multiple of 8 fits {members} members with {num_classes} classes: drop --aligned")
    return aligned3, aligned4


def convolutions(architecture: Architecture) -> Iterator[tuple[str, Conv]]:
    """Every convolution and classifier once, with the part it belongs to: "stem" or "member" (one member's)."""
    yield "stem", Conv("conv1", 3, 64, 7, 2)
    channels = 64
    for layer, (count, width) in enumerate(zip(architecture.blocks[:2], STAGE_WIDTHS[:2], strict=True), 1):
        for conv in _stage(f"layer{layer}", channels, width, count, stride=1 if layer == 1 else 2):
            yield "stem", conv
        channels = width * EXPANSION
    for conv in _tail(architecture.num_classes, *architecture.widths, architecture.blocks[2:]):
        yield "member", conv


def _stage(name: str, in_channels: int, width: int, count: int, *, stride: int) -> Iterator[Conv]:
    """Bottleneck v1.5 blocks: 1x1, 3x3 (carries the stride), 1x1; the first block has the downsample shortcut."""
    for index in range(count):
        block = f"{name}.{index}"
        step = stride if index == 0 else 1
        yield Conv(f"{block}.conv1", in_channels, width, 1, 1)
        yield Conv(f"{block}.conv2", width, width, 3, step)
        yield Conv(f"{block}.conv3", width, width * EXPANSION, 1, 1)
        if index == 0:
            yield Conv(f"{block}.downsample.0", in_channels, width * EXPANSION, 1, step)
        in_channels = width * EXPANSION


def _tail(num_classes: int, width3: int, width4: int, blocks: tuple[int, int]) -> list[Conv]:
    """Layer3, layer4 and the classifier of one member."""
    return [
        *_stage("layer3", STAGE_WIDTHS[1] * EXPANSION, width3, blocks[0], stride=2),
        *_stage("layer4", width3 * EXPANSION, width4, blocks[1], stride=2),
        Conv("fc", width4 * EXPANSION, num_classes, 1, 1, batch_norm=False),
    ]


def _parameters(convs: list[Conv]) -> int:
    return sum(conv.parameters for conv in convs)


def cost(architecture: Architecture, image_size: int) -> dict[str, dict[str, int]]:
    """Parameters and multiply-accumulates of the stem, of one member, and in total, for one image.

    MACs count convolutions and classifiers (BN folds into them; pooling and activations are not counted).
    """
    totals = {"stem": {"parameters": 0, "macs": 0}, "member": {"parameters": 0, "macs": 0}}
    for part, conv in convolutions(architecture):
        side = 1 if conv.name == "fc" else output_side(conv, image_size)
        totals[part]["parameters"] += conv.parameters
        totals[part]["macs"] += conv.in_channels * conv.out_channels * conv.kernel**2 * side**2
    totals["total"] = {
        key: totals["stem"][key] + architecture.members * totals["member"][key] for key in ("parameters", "macs")
    }
    return totals


def output_side(conv: Conv, image_size: int) -> int:
    """Height of a convolution's output: every stride-2 step halves, rounding up."""
    halvings = {"conv1": 1, "layer1": 2, "layer2": 3, "layer3": 4, "layer4": 5}
    stage, *rest = conv.name.split(".")
    steps = halvings[stage]
    if rest == ["0", "conv1"] and stage in ("layer2", "layer3", "layer4"):
        steps -= 1  # the stride sits in the 3x3, so the first 1x1 still sees the larger map
    side = image_size
    for _ in range(steps):
        side = (side + 1) // 2
    return side
