"""What a network starts from, said aloud; a classifier is never random without a word."""

from collections.abc import Callable
from dataclasses import dataclass

from rrrnet.errors import ArtifactError
from rrrnet.images.preprocess import Preprocess, squash_note
from rrrnet.network.architecture import backbone_title
from rrrnet.network.branches import Slices
from rrrnet.network.edges import start_from_edges
from rrrnet.network.ensemble import RRRNet
from rrrnet.network.reduce import load_pretrained
from rrrnet.weights.pretrained import Pretrained, read_pretrained
from rrrnet.weights.warm_start import is_checkpoint, load_checkpoint

Say = Callable[[str], None]


@dataclass(frozen=True)
class Origin:
    """Where weights come from: `--weights`, `--weights-key`, and what they are to serve.

    Attributes:
        weights: "imagenet", "none", a file, or a checkpoint folder.
        key: which network in the file, or None.
        labels: the classes in the order of the outputs.
        ordered: whether a person gave that order.
        trained: whether training follows.
        preprocess: how images will reach the network.
        labels_from: who gave them, where `ordered`.
        rule_told: whether `preprocess` is known to be how the network was trained.
        slices: which channels of a file's convolutions members take.
    """

    weights: str
    key: str | None
    labels: tuple[str, ...]
    ordered: bool
    trained: bool
    preprocess: Preprocess
    labels_from: str = "--labels"
    rule_told: bool = False
    slices: Slices = "first"


def start(model: RRRNet, origin: Origin, say: Say) -> tuple[str, int]:
    """Give `model` the weights it starts from.

    Returns:
        Their origin in words, and how many tensors are fresh.

    Raises:
        UsageError: there is no such file, or a checkpoint of another architecture.
        ArtifactError: the file cannot be used, or its classifier cannot and no training would make another.
    """
    weights = origin.weights
    if weights == "none":
        start_from_edges(model)
        say("--weights none: training starts from random weights and edge filters in conv1")
        return "none: random, conv1 edge filters", len(model.state_dict())
    if is_checkpoint(weights):
        words, fresh = load_checkpoint(model, weights, origin.labels)
        say(f"starting from {words.partition(',')[0]}, {fresh} tensors fresh")
        _about_classifier(origin, f"{weights} was trained with other labels" if fresh else "", say)
        return words, fresh
    pretrained = read_pretrained(weights, key=origin.key, backbone=model.architecture.backbone)
    for note in pretrained.found.notes:
        say(f"note: {note}")
    if model.architecture.is_full:
        _about_classifier(origin, _problem(pretrained, origin), say)
        if weights != "imagenet":
            _about_import(pretrained, origin, say)
    elif origin.trained:
        say(f"--method takes the first blocks of {pretrained.name}: the classifier starts fresh")
    else:
        say("note: this --method has a classifier of its own and --epochs 0 trains nothing: its answers are random")
    fresh = len(load_pretrained(model, pretrained.found.tensors, origin.slices))
    say(f"starting from {pretrained.name}, a {backbone_title(pretrained.found.backbone)}, {fresh} tensors fresh")
    return pretrained.origin, fresh


def _problem(pretrained: Pretrained, origin: Origin) -> str:
    return classifier_problem(pretrained, len(origin.labels), labels_from=origin.labels_from if origin.ordered else "")


def classifier_problem(pretrained: Pretrained, classes: int, *, labels_from: str) -> str:
    """Why the file's classifier cannot be kept; empty if it can.

    Args:
        pretrained: what was read of the file.
        classes: that are wanted.
        labels_from: where a person gave them, as `--labels`; empty where the data did.
    """
    found = pretrained.found
    if found.head_problem:
        return f"{pretrained.name}: {found.head_problem}"
    outputs = len(found.tensors["fc.weight"])
    whose = f"{labels_from} has" if labels_from else "the data have"
    return "" if outputs == classes else f"{pretrained.name}: {found.head} has {outputs} classes, {whose} {classes}"


def _about_classifier(origin: Origin, problem: str, say: Say) -> None:
    """Say that the classifier starts fresh, or refuse where it would stay random."""
    if not problem:
        return
    if not origin.trained:
        raise ArtifactError(
            f"{problem}; with --epochs 0 its answers would be random: train a classifier (leave out --epochs 0), "
            "or take --weights none where only the speed matters"
        )
    say(f"{problem}: the classifier starts fresh")


def _about_import(pretrained: Pretrained, origin: Origin, say: Say) -> None:
    """Say what is assumed of a network that was trained elsewhere."""
    if not _problem(pretrained, origin) and not origin.ordered:
        labels = ", ".join(origin.labels[:5]) + (", ..." if len(origin.labels) > 5 else "")
        say(
            f"note: {pretrained.found.head} of {pretrained.name} is kept; its outputs are taken to be, in this order: "
            f"{labels}; --labels FILE gives another order"
        )
    if not origin.rule_told and (note := squash_note(origin.preprocess)):
        say(note)
