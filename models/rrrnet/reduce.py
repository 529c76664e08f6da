"""REDUCE: which tensors of the pre-trained ResNet152 a network starts from, and which start fresh.

Source: arXiv 2310.01157, and its authors' public code. The stem's blocks are taken whole, BN included. With one
member so are the first blocks of layer3 and layer4. With more, each member gets slices (see `branches`).
"""

import torch
from torch import Tensor

from rrrnet.architecture import FULL_BLOCKS, Architecture, Conv, convolutions
from rrrnet.branches import member_slices
from rrrnet.ensemble import RRRNet
from rrrnet.errors import ArtifactError

BN_SUFFIXES = ("weight", "bias", "running_mean", "running_var")


def check_pretrained(pretrained: dict[str, Tensor], source: str) -> None:
    """Require every tensor of a ResNet152 backbone in its shape; the classifier may have any number of classes.

    Raises:
        ArtifactError: something is missing, has another shape, or is not finite; names the first such tensors.
    """
    wrong: list[str] = []
    for _, conv in convolutions(Architecture(2, FULL_BLOCKS)):
        if conv.name == "fc":
            continue
        for name, shape in _tensor_shapes(conv).items():
            found = pretrained.get(name)
            if found is None:
                wrong.append(f"{name} is missing")
            elif tuple(found.shape) != shape:
                wrong.append(f"{name} has shape {tuple(found.shape)}, expected {shape}")
            elif not found.is_floating_point() or not bool(torch.isfinite(found).all()):
                wrong.append(f"{name} has values that are not finite numbers")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        message = f"{source} is not a ResNet152 with torchvision's names: {'; '.join(wrong[:3])}{more}"
        raise ArtifactError(f"{message}; give a ResNet152 file to --weights, or --weights none")


def _tensor_shapes(conv: Conv) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{conv.name}.weight": (conv.out_channels, conv.in_channels, conv.kernel, conv.kernel)
    }
    shapes |= {f"{conv.norm}.{suffix}": (conv.out_channels,) for suffix in BN_SUFFIXES}
    return shapes


def load_pretrained(model: RRRNet, pretrained: dict[str, Tensor]) -> list[str]:
    """Copy what the paper reuses from a checked ResNet152 into `model`; return the names of tensors left fresh.

    The classifier is copied only if the whole ResNet152 is kept and its shape fits (an already fine-tuned model).
    """
    architecture = model.architecture
    source: dict[str, Tensor] = {}
    for part, conv in convolutions(architecture):
        if conv.name == "fc":
            fitting = pretrained.get("fc.weight")
            if architecture.blocks == FULL_BLOCKS and fitting is not None and len(fitting) == architecture.num_classes:
                source |= {name: pretrained[name] for name in ("fc.weight", "fc.bias") if name in pretrained}
        elif part == "member" and architecture.members > 1:
            weight = pretrained[f"{conv.name}.weight"]
            slices = member_slices(weight, architecture.members, conv.out_channels, conv.in_channels)
            source |= {f"members.{index}.{conv.name}.weight": value for index, value in enumerate(slices)}
        else:
            source |= {name: pretrained[name] for name in _tensor_shapes(conv)}
    result = model.load_state_dict({name: value.float() for name, value in source.items()}, strict=False)
    return [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
