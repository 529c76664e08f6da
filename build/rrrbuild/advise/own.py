"""One's own network, as far as it is known without training: its backbone, whether its classifier fits, how it sees."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrrnet.checkpoint import DOCUMENT, SPLIT, WEIGHTS, Checkpoint, read_checkpoint
from rrrnet.data.dataset import read_split
from rrrnet.data.remembered import recorded_data
from rrrnet.data.training_data import TrainingData
from rrrnet.errors import UsageError
from rrrnet.hub.reference import check_is_here
from rrrnet.images.preprocess_options import flags_of
from rrrnet.sealed import sha256_of
from rrrnet.weights.pretrained import check_source, read_pretrained
from rrrnet.weights.start import classifier_problem
from rrrnet.weights.warm_start import is_checkpoint


@dataclass(frozen=True)
class Own:
    """What `--weights` is.

    Attributes:
        weights: that its own row starts from.
        body: that the other rows take their first blocks from.
        backbone: a name of `architecture.BACKBONES`.
        origin: which bytes these are, in words.
        problem: why its classifier cannot be kept; empty if it can.
        flags: of `rrr train`, where a checkpoint tells them: how it sees images, and how its own were split.
        learnt: names of the images of its training; None where they are not known.
    """

    weights: str
    body: str
    backbone: str
    origin: str
    problem: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    learnt: frozenset[str] | None = None


def read_own(
    weights: str,
    data: Path,
    *,
    key: str | None,
    ordered: bool,
    read_data: Callable[[Mapping[str, Any]], TrainingData],
) -> tuple[Own, TrainingData]:
    """Read what `--weights` names, then the images.

    Args:
        weights: a file, a checkpoint of the whole network, or "imagenet".
        data: the folder of the images.
        key: `--weights-key`.
        ordered: whether `--labels` gives the order of its outputs.
        read_data: is given the `flags` of a checkpoint; called when the weights have proved good.

    Raises:
        UsageError: there are none, or they are those of a reduced network.
        ArtifactError: they cannot be read, or are those of another network.
    """
    if weights == "none":
        raise UsageError("--weights none: the question is about a network that is there: give its file or checkpoint")
    check_is_here(weights)
    check_source(weights, key=key)
    if is_checkpoint(weights):
        checkpoint = read_checkpoint(Path(weights))
        if not checkpoint.architecture.is_full:
            raise UsageError(
                f"--weights {weights} is a reduced network already: give the whole one that it comes from "
                "(rrr train --method full makes one)"
            )
        flags = {**flags_of(checkpoint.preprocess), **_split_flags(checkpoint, data)}
        images = read_data(flags)
        return _of_checkpoint(Path(weights), checkpoint, flags, images.images.classes), images
    pretrained = read_pretrained(weights, key=key)
    images = read_data({})
    problem = classifier_problem(pretrained, len(images.images.classes), labels_from="--labels" if ordered else "")
    return Own(weights, weights, pretrained.found.backbone, pretrained.origin, problem), images


def _split_flags(checkpoint: Checkpoint, data: Path) -> dict[str, Any]:
    """What splits its images as its training did; of a folder that has none of them only the seed."""
    training, flags = checkpoint.training, {}
    parts = read_split(checkpoint.path / SPLIT) if SPLIT in checkpoint.files else {}
    if any((data / file).is_file() for file in parts):
        asked = training.get("split") or {}
        flags = {name: asked.get(name) for name in ("test_fraction", "groups", "min_per_class")}
        tests = recorded_data(checkpoint).get("test_path")
        flags["test_data"] = Path(tests) if tests and Path(tests).is_dir() else None
    known = {name: value for name, value in flags.items() if value is not None}
    return {"seed": training.get("seed", 0), **known}


def _of_checkpoint(path: Path, checkpoint: Checkpoint, flags: Mapping[str, Any], classes: Collection[str]) -> Own:
    learnt = None
    if SPLIT in checkpoint.files:
        learnt = frozenset(file for file, part in read_split(path / SPLIT).items() if part != "test")
    return Own(
        weights=str(path),
        body=str(path / WEIGHTS),
        backbone=checkpoint.architecture.backbone,
        origin=f"checkpoint {checkpoint.name}, sha256 {sha256_of(path / DOCUMENT)}",
        problem="" if set(checkpoint.labels) == set(classes) else f"{path} was trained with other labels",
        flags=flags,
        learnt=learnt,
    )


def learnt_tests(own: Own, data: TrainingData) -> int:
    """How many test images it is known to have been trained on, by their names."""
    return len(_tests(data) & (own.learnt or frozenset()))


def _tests(data: TrainingData) -> set[str]:
    return {file for file, part in zip(data.images.files, data.parts, strict=True) if part == "test"}


def flattery(own: Own, data: TrainingData) -> str:
    """A sentence where the accuracy of an imported network may be that on images it was trained on; else empty."""
    if own.learnt is None:
        return (
            "if your network was trained on some of the test images, its accuracy flatters it: give images that it "
            "never saw with --test-data DIR"
        )
    seen, tested = learnt_tests(own, data), len(_tests(data))
    if not seen:
        return ""
    return f"your network was trained on {seen} of {tested} test images by their names: its accuracy flatters it"
