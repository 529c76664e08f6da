"""The images that a checkpoint was trained on, found again, with its own labels."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rrrnet.checkpoint import SPLIT, Checkpoint
from rrrnet.data.dataset import ImageSet, read_again, read_split
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub.reference import is_in_cache
from rrrnet.names import spelled_as

_FOLDERS = ("path", "test_path")


def recorded_data(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the checkpoint records of its data set, empty if it never had one.

    One in the hub's cache tells no folders: they are those of another machine, and what has their names here is no
    affair of whoever uploaded it.
    """
    recorded = checkpoint.training.get("data") or {}
    foreign = _FOLDERS if is_in_cache(checkpoint.path) else ()
    return {key: value for key, value in recorded.items() if key not in foreign}


def why_no_images(recorded: Mapping[str, Any]) -> str:
    """Why the images that a checkpoint or engine records are not here, as the end of a sentence; empty if they are."""
    if not recorded:
        return "never had data"
    folder = recorded.get("path")
    if folder is None:
        return "comes from the hub, and its images are not here"
    return "" if Path(folder).is_dir() else f"remembers its images at {folder}, which is no folder any more"


def data_remedy(split: str, *, recorded: bool) -> str:
    """What to do where a model's images are not here.

    Args:
        split: the part that is asked for; "all" is every image.
        recorded: whether the model knows its split, by names of files.
    """
    if split == "all":
        return "give labelled ones with --data DIR"
    others = "with --data DIR --split all"
    return f"give them with --data DIR, or other labelled ones {others}" if recorded else f"give labelled ones {others}"


def known_images(
    name: object, recorded: Mapping[str, Any], labels: tuple[str, ...], data: Path | None, *, remedy: str
) -> ImageSet:
    """The images that a checkpoint or engine was trained on, or others, with its own labels as classes.

    Args:
        name: of the checkpoint or engine, for messages.
        recorded: what it records of its data set.
        labels: its own, in the order of its outputs.
        data: the other images; None is those that are recorded.
        remedy: what to do where those are not here, for the message.

    Raises:
        UsageError: those are not here.
        ArtifactError: there is a class that it does not know; see `read_again`.
    """
    if data is None and (absent := why_no_images(recorded)):
        raise UsageError(f"{name} {absent}: {remedy}")
    images = read_again(recorded, data)
    classes = spelled_as(images.classes, labels)
    if unknown := sorted(set(classes) - set(labels)):
        raise ArtifactError(
            f"{images.root} has classes that {name} does not know: {', '.join(unknown[:5])}; it knows "
            f"{', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}"
        )
    output_of = [labels.index(each) for each in classes]
    return replace(images, labels=tuple(output_of[label] for label in images.labels), classes=labels)


def remembered_images(checkpoint: Checkpoint, data: Path | None) -> tuple[ImageSet, Mapping[str, str]]:
    """All images, with the checkpoint's labels as classes, and the part of each that its split knows.

    Args:
        checkpoint: remembers its data set and split.
        data: where the images are now; None is where they were.

    Raises:
        UsageError: the checkpoint records no split, or the images are gone.
        ArtifactError: see `known_images`.
    """
    recorded = recorded_data(checkpoint)
    if SPLIT not in checkpoint.files or (data is None and not recorded):
        raise UsageError(
            f"{checkpoint.path} has no record of images that it was trained on: make one that has with "
            f"rrr train --data DIR --weights {checkpoint.path}"
        )
    where = "tell where they are with --data DIR"
    images = known_images(checkpoint.path, recorded, checkpoint.labels, data, remedy=where)
    return images, read_split(checkpoint.path / SPLIT)
