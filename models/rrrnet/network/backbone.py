"""Which network saved tensors are: one of the backbones, tensor by tensor, or what else they seem to be."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from rrrnet.errors import ArtifactError
from rrrnet.network.architecture import BACKBONES, Conv, backbone_title, convolutions, full

Tensors = dict[str, Tensor]

*_FIRST, _LAST = (backbone_title(name) for name in BACKBONES)
TAKEN = f"{', '.join(_FIRST)} or {_LAST}"
REMEDY = f"give a {TAKEN} file to --weights, or --weights none"
_BN_SUFFIXES = ("weight", "bias", "running_mean", "running_var")
_RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "ResNet18",
    (False, (3, 4, 6, 3)): "ResNet34",
    (True, (2, 2, 2, 2)): "ResNet26",
    (True, (3, 24, 36, 3)): "ResNet200",
    (True, (1, 1, 1, 1)): "ResNet that was reduced to 5 blocks",
    **{(True, blocks): backbone_title(name) for name, blocks in BACKBONES.items()},
}
_OTHERS = (
    (r"attn|self_attn|attention", "a transformer"),
    (r"denseblock\d", "a DenseNet"),
    (r"conv_stem|conv_dw|depthwise|dwconv|inverted", "an EfficientNet, MobileNet or ConvNeXt"),
    (r"(^|\.)Mixed_\d", "an Inception network"),
    (r"(^|\.)features\.0\.(0\.)?weight", "a VGG, MobileNet or EfficientNet"),
)


def some(names: list[str]) -> str:
    """The first three of them, and how many there are more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def tensor_shapes(conv: Conv) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a convolution and the BN behind it, by name."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{conv.name}.weight": (conv.out_channels, conv.in_channels, conv.kernel, conv.kernel)
    }
    shapes |= {f"{conv.norm}.{suffix}": (conv.out_channels,) for suffix in _BN_SUFFIXES}
    return shapes


def backbone_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a backbone but its classifier's."""
    convs = [conv for _, conv in convolutions(full(2, backbone=backbone)) if conv.name != "fc"]
    return {name: shape for conv in convs for name, shape in tensor_shapes(conv).items()}


def recognise(tensors: Tensors, source: str) -> str:
    """The backbone that these are every tensor of, in its shape, and no other.

    Raises:
        ArtifactError: they are of none; names the network that it is, or what is wrong by the nearest backbone.
    """
    wrong = {name: _wrong(tensors, backbone_shapes(name)) for name in BACKBONES}
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    if not wrong[nearest]:
        return nearest
    if any(name.endswith(".zero_point") for name in tensors):
        raise ArtifactError(f"{source} is quantised: give the network as it was before")
    if name := other_resnet(tensors):
        article = "an" if name.startswith(("SE", "ensemble")) else "a"
        raise ArtifactError(f"{source}: this is {article} {name}, not a {TAKEN}; {REMEDY}")
    told = f"{backbone_title(nearest)} with torchvision's names: {some(wrong[nearest])}"
    raise ArtifactError(f"{source} is not a {told}; {REMEDY}")


def _wrong(tensors: Tensors, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    wrong = [f"{name} is missing" for name in shapes if name not in tensors]
    wrong += [
        f"{name} has shape {tuple(tensor.shape)}, expected {shapes[name]}"
        for name, tensor in tensors.items()
        if name in shapes and tuple(tensor.shape) != shapes[name]
    ]
    return wrong + [f"{name} is no part of it" for name in tensors if name not in shapes]


def other_resnet(tensors: Tensors) -> str:
    """Which relative of the backbones these tensors are; empty for a backbone itself and for what is not known."""
    if "members.0.fc.weight" in tensors:
        return "ensemble of rrr train: give the checkpoint's folder instead"
    blocks = tuple(_count_blocks(tensors, stage) for stage in (1, 2, 3, 4))
    kind = _RESNETS.get(("layer1.0.conv3.weight" in tensors, blocks))
    if kind is None:
        return ""
    first, second = (tensors.get(f"layer1.0.conv{index}.weight") for index in (1, 2))
    if any(re.search(r"\.se(_module)?\.", name) for name in tensors):
        kind = f"SE-{kind}"
    elif "conv1.0.weight" in tensors:
        kind = f"{kind} with a deep stem (timm's {kind.lower()}d or a relative)"
    elif first is not None and second is not None and second.shape[0] == len(first) > second.shape[1]:
        kind = f"ResNeXt{kind.removeprefix('ResNet')} of {len(first) // second.shape[1]} groups"
    elif first is not None and len(first) > 64 and "layer1.0.conv3.weight" in tensors:
        kind = f"Wide {kind} ({len(first)} channels in layer1's blocks in place of 64)"
    return "" if kind in map(backbone_title, BACKBONES) else f"{kind}, of {'-'.join(map(str, blocks))} blocks"


def _count_blocks(names: Iterable[str], stage: int) -> int:
    found = [int(match[1]) for name in names if (match := re.match(rf"layer{stage}\.(\d+)\.", name))]
    return 1 + max(found, default=-1)


def other_family(names: Iterable[str]) -> str | None:
    """What a network without a ResNet's names seems to be."""
    names = list(names)
    return next((kind for pattern, kind in _OTHERS if any(re.search(pattern, name) for name in names)), None)


def check_values(tensors: Tensors, source: str) -> None:
    """Require finite floating-point numbers, and variances of 0 or more.

    Raises:
        ArtifactError: names the first tensors that hold something else.
    """
    wrong = [
        f"{name} holds {str(tensor.dtype).removeprefix('torch.')}: weights must be floating-point numbers"
        for name, tensor in tensors.items()
        if not tensor.is_floating_point()
    ]
    if wrong:
        raise ArtifactError(f"{source}: {some(wrong)}; give the network as it was before it was quantised")
    wrong = [
        f"{name} has values that are not finite numbers"
        for name, tensor in tensors.items()
        if not all(bool(torch.isfinite(bound)) for bound in tensor.float().aminmax())  # NaN passes through
    ]
    wrong = wrong or [
        f"{name} has variances below 0"
        for name, tensor in tensors.items()
        if name.endswith("running_var") and bool((tensor.float() < 0).any())
    ]
    if wrong:
        raise ArtifactError(f"{source}: {some(wrong)}; restore the file from a copy")
