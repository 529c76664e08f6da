"""Finding a backbone in whatever was saved: keys, prefixes and names of the usual trainers, and its classifier.

Pure functions on tensors and their names; nothing is read from disk here. Names are brought to torchvision's. What is
not understood is refused in words: a network that answers wrongly is worse than none.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from rrrnet.errors import ArtifactError, UsageError
from rrrnet.network.architecture import backbone_title
from rrrnet.network.backbone import REMEDY, TAKEN, Tensors, other_family, recognise, some

FEATURES = 2048
HEAD = ("fc.weight", "fc.bias")
_COUNTER = "num_batches_tracked"
_DEPTH = 5  # of dictionaries in dictionaries
# A network is found by the first convolution of its first stage, whose name tells the scheme; what stands before is the
# prefix. Each scheme: that name, and what its other names become.
_TORCHVISION, _SEQUENTIAL, _TRANSFORMERS = (
    "layer1.0.conv1.weight",  # torchvision and timm
    "4.0.conv1.weight",  # nn.Sequential(*model.children()), fastai's body
    "encoder.stages.0.layers.0.layer.0.convolution.weight",  # Hugging Face transformers
)
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_RENAMED = (
    (re.compile(r"embedder\.embedder\.convolution\."), "conv1."),
    (re.compile(r"embedder\.embedder\.normalization\."), "bn1."),
    (re.compile(r"encoder\.stages\.(\d+)\.layers\."), lambda found: f"layer{int(found[1]) + 1}."),
    (re.compile(r"\.layer\.(\d+)\.convolution\."), lambda found: f".conv{int(found[1]) + 1}."),
    (re.compile(r"\.layer\.(\d+)\.normalization\."), lambda found: f".bn{int(found[1]) + 1}."),
    (re.compile(r"\.shortcut\.convolution\."), ".downsample.0."),
    (re.compile(r"\.shortcut\.normalization\."), ".downsample.1."),
)
# A copy of the network that is not the one that was trained, by a word of its name.
_COPIES = {"ema", "teacher", "momentum", "average", "averaged", "swa", "target"}
# What trainers keep beside the network, by a word of its name; it takes no part in the answer.
_BESIDE = {"criterion", "loss", "losses", "metric", "metrics", "acc", "accuracy", "confmat"}
# How weight normalisation, pruning and other parametrisations name what a matrix is computed from.
_IN_PARTS = re.compile(r"(_g|_v|_orig|_mask|\.parametrizations\..*)$")
_NORMALISATION = ("mean", "std", "pixel_mean", "pixel_std", "image_mean", "image_std")
_BODY = re.compile(r"(conv1|bn1|layer\d+|members)\.")


@dataclass(frozen=True)
class Network:
    """One network among the saved tensors: the dictionary it lies in, what its names begin with, and their scheme."""

    path: str
    prefix: str
    scheme: str

    @property
    def name(self) -> str:
        """What `--weights-key` calls it."""
        return ".".join(part for part in (self.path, self.prefix.rstrip(".")) if part)


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        tensors: the backbone's by torchvision's names; also `fc.weight` and `fc.bias` if the classifier is understood.
        backbone: which one it is.
        head: the classifier's name in the file; empty where it was not understood.
        head_problem: why it was not; empty where it was.
        notes: what was chosen or left aside, for people.
    """

    tensors: Tensors
    backbone: str
    head: str
    head_problem: str
    notes: tuple[str, ...] = ()


def find_resnet(content: object, source: str, *, key: str | None = None) -> Found:
    """Find the ResNet50, 101 or 152 in what a file holds.

    Args:
        content: a dictionary of tensors, or of such dictionaries.
        source: its name, for messages.
        key: which network is meant, where there are several.

    Raises:
        UsageError: `key` names no network.
        ArtifactError: there is none, there are several, or it is another network; says which.
    """
    groups = dict(_groups(content, "", _DEPTH))
    networks = [network for path, tensors in groups.items() for network in _networks(path, tensors)]
    if not networks:
        raise ArtifactError(_no_network(content, groups, source))
    network = _choose(networks, source, key)
    others = [other for other in networks if other != network]
    names = _torchvision_names(network, groups[network.path])
    body = {name: tensor for name, (_, tensor) in names.items() if _BODY.match(name)}
    backbone = recognise(body, source)
    taken = {full for name, (full, _) in names.items() if name in body}
    head, problem, beside = _find_head(_left_over(groups, network, others, taken))
    notes = []
    if key is None and others:
        names_of_others = ", ".join(other.name or "the top level" for other in others)
        notes.append(f"{source}: taking {network.name or 'the top level'}; --weights-key takes {names_of_others}")
    if beside:
        notes.append(f"{source}: not taken, being no part of a {backbone_title(backbone)}: {some(beside)}")
    tensors = body | {ours: tensor for ours, (_, tensor) in zip(HEAD, head, strict=False)}
    head_name = head[0][0].removesuffix("weight").rstrip(".") if head else ""
    return Found(tensors, backbone, head_name, problem, tuple(notes))


def _groups(content: object, path: str, depth: int) -> Iterator[tuple[str, Tensors]]:
    """Every dictionary that holds tensors, by the keys that lead to it."""
    if not isinstance(content, Mapping) or not depth:
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in content.items():
        yield from _groups(value, f"{path}.{name}".lstrip("."), depth - 1)


def _networks(path: str, tensors: Tensors) -> Iterator[Network]:
    for name in tensors:
        for scheme in (_TORCHVISION, _SEQUENTIAL, _TRANSFORMERS):
            prefix = name.removesuffix(scheme)
            if prefix != name and (not prefix or prefix.endswith(".")):
                yield Network(path, prefix, scheme)


def _choose(networks: list[Network], source: str, key: str | None) -> Network:
    """The one that `key` names; without it the only one that is not a copy."""
    if key is not None:
        fitting = [one for one in networks if key == one.name or f".{key}." in f".{one.name}."]
    else:
        fitting = [one for one in networks if not _COPIES & _words(one.name)] or networks
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(one.name for one in networks if one.name) or "none, for it lies at the top level"
    if not fitting:
        raise UsageError(f"--weights-key {key}: {source} holds no network of that name; there are: {names}")
    raise ArtifactError(f"{source} holds {len(fitting)} networks: say which by --weights-key; there are: {names}")


def _words(name: str) -> set[str]:
    return set(re.split(r"[._\d]+", name.lower()))


def _torchvision_names(network: Network, tensors: Tensors) -> dict[str, tuple[str, Tensor]]:
    """The network's tensors by torchvision's names, each with its name in the file."""
    names = {}
    for full, tensor in tensors.items():
        if not full.startswith(network.prefix) or full.endswith(_COUNTER):
            continue
        name = full.removeprefix(network.prefix)
        if network.scheme == _SEQUENTIAL:
            child, dot, rest = name.partition(".")
            name = _CHILDREN.get(child, f"child {child}") + dot + rest
        elif network.scheme == _TRANSFORMERS:
            for pattern, ours in _RENAMED:
                name = pattern.sub(ours, name)
        names[name] = (full, tensor)
    return names


def _left_over(groups: dict[str, Tensors], network: Network, others: list[Network], taken: set[str]) -> Tensors:
    """What lies beside the backbone: in its own dictionary or, if no matrix is there, in those beside it."""
    roots = [_root(other.prefix, network.prefix) for other in others if other.path == network.path]

    def ours(name: str) -> bool:
        inside = name.startswith(network.prefix)
        return not any(name.startswith(root) and not (inside and len(network.prefix) > len(root)) for root in roots)

    own = {
        name: tensor
        for name, tensor in groups[network.path].items()
        if name not in taken and not name.endswith(_COUNTER) and ours(name)
    }
    if any(tensor.ndim > 1 for tensor in own.values()):
        return own
    used = {network.path, *(other.path for other in others)}
    beside = {
        f"{path}.{name}": tensor
        for path, tensors in groups.items()
        if path not in used and any(name.endswith("weight") for name in tensors)
        for name, tensor in tensors.items()
    }
    return own | beside


def _root(other: str, ours: str) -> str:
    """What the names of another network and its classifier begin with: its prefix, as far as it tells it from ours."""
    if ours.startswith(other):
        return other
    parts, our_parts = other.split("."), ours.split(".")
    same = next(index for index, part in enumerate(parts) if part != "".join(our_parts[index : index + 1]))
    return ".".join(parts[: same + 1]) + "."


def _is_beside(name: str) -> bool:
    return bool(_BESIDE & _words(name)) or name.rpartition(".")[2] in _NORMALISATION


def _is_weight(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_quantized


def _find_head(rest: Tensors) -> tuple[list[tuple[str, Tensor]], str, list[str]]:
    """The classifier among what is no backbone: weight (C, 2048) and bias (C,), or why not; and what was left aside."""
    beside = [name for name, tensor in rest.items() if _is_beside(name) or not _is_weight(tensor)]
    rest = {name: tensor for name, tensor in rest.items() if name not in beside}
    matrices = {name: tensor for name, tensor in rest.items() if tensor.ndim > 1}
    shown = some([f"{name} {tuple(tensor.shape)}" for name, tensor in matrices.items()])
    if not matrices:
        more = f" (beside the backbone there is {some(list(rest))})" if rest else ""
        return [], f"it holds no classifier{more}", beside
    if split := [name for name in matrices if _IN_PARTS.search(name)]:
        return (
            [],
            f"its classifier is kept in parts ({some(split)}), not as one matrix: fold them before saving",
            beside,
        )
    if len(matrices) > 1:
        # One that gives as many numbers as the next one takes is a hidden layer.
        several = all(tensor.shape[1] == FEATURES != tensor.shape[0] for tensor in matrices.values())
        kind = f"it holds {len(matrices)} classifiers" if several else "its classifier is an MLP, not one linear layer"
        return [], f"{kind}: {shown}", beside
    (name, weight), bias_name = next(iter(matrices.items())), next(iter(matrices)).removesuffix("weight") + "bias"
    bias = rest.get(bias_name)
    if weight.shape[1:].numel() != FEATURES or weight.shape[1] != FEATURES or not name.endswith("weight"):
        return [], f"its classifier {shown} is not a linear layer of {FEATURES} inputs", beside
    if bias is None:
        remedy = f"if it has none, add torch.zeros({len(weight)}) by that name"
        return [], f"its classifier lacks a tensor: {bias_name} is missing beside {shown} ({remedy})", beside
    if tuple(bias.shape) != (len(weight),):
        return [], f"{bias_name} has shape {tuple(bias.shape)}, and {shown}: they do not fit", beside
    if unknown := [other for other in rest if other not in (name, bias_name)]:
        return [], f"its classifier is not only {shown}: what {some(unknown)} does is not known", beside
    return [(name, weight.reshape(len(weight), FEATURES)), (bias_name, bias)], "", beside


def _no_network(content: object, groups: dict[str, Tensors], source: str) -> str:
    """Why no ResNet was found."""
    if not groups:
        inside = some([str(name) for name in content]) if isinstance(content, Mapping) else type(content).__name__
        return f"{source} holds no tensors of a network (it holds {inside or 'nothing'}); {REMEDY}"
    names = [name for tensors in groups.values() for name in tensors]
    known = other_family(names)
    seems = f"; it seems to be {known}" if known else ""
    return f"{source} is not a {TAKEN} with names that are known{seems} (it holds {some(names)}); {REMEDY}"
