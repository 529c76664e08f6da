"""REDUCE: which tensors of the pre-trained backbone a network starts from, and which start fresh.

Source: arXiv 2310.01157, and its authors' public code. The stem's blocks are taken whole, BN included. With one
member so are the first blocks of layer3 and layer4. With more, each member gets slices (see `branches`).
"""

from torch import Tensor

from rrrnet.network.architecture import convolutions
from rrrnet.network.backbone import tensor_shapes
from rrrnet.network.branches import Slices, member_slices
from rrrnet.network.ensemble import RRRNet


def load_pretrained(model: RRRNet, pretrained: dict[str, Tensor], slices: Slices = "first") -> list[str]:
    """Copy what the paper reuses of a backbone into `model`; return the names of tensors left fresh.

    The classifier is copied only if the whole backbone is kept and its shape fits (an already fine-tuned model).

    Args:
        model: gets the tensors.
        pretrained: the backbone's, by torchvision's names.
        slices: which channels members take, see `branches`.
    """
    architecture = model.architecture
    source: dict[str, Tensor] = {}
    for part, conv in convolutions(architecture):
        if conv.name == "fc":
            fitting = pretrained.get("fc.weight")
            if architecture.is_full and fitting is not None and len(fitting) == architecture.num_classes:
                source |= {name: pretrained[name] for name in ("fc.weight", "fc.bias")}
        elif part == "member" and architecture.members > 1:
            weight = pretrained[f"{conv.name}.weight"]
            parts = member_slices(weight, architecture.members, conv.out_channels, conv.in_channels, slices)
            source |= {f"members.{index}.{conv.name}.weight": value for index, value in enumerate(parts)}
        else:
            source |= {name: pretrained[name] for name in tensor_shapes(conv)}
    result = model.load_state_dict({name: value.float() for name, value in source.items()}, strict=False)
    return [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
