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


def why_no_data(checkpoint: Checkpoint) -> str:
    """Why `remembered_data` is None, as the end of a sentence."""
    return "comes from the hub, and its images are not here" if checkpoint.training.get("data") else "never had data"


def remembered_data(checkpoint: Checkpoint) -> Path | None:
    """The folder of the data set that the checkpoint was trained on; None if there never was one on this machine.

    Raises:
        UsageError: the folder is gone.
    """
    remembered = recorded_data(checkpoint).get("path")
    if remembered is None:
        return None
    data = Path(remembered)
    if not data.is_dir():
        raise UsageError(
            f"checkpoint {checkpoint.name} remembers its images at {data}, which is no folder any more: "
            "tell where they are with --data DIR"
        )
    return data


def remembered_images(checkpoint: Checkpoint, data: Path | None) -> tuple[ImageSet, Mapping[str, str]]:
    """All images, with the checkpoint's labels as classes, and the part of each that its split knows.

    Args:
        checkpoint: remembers its data set and split.
        data: where the images are now; None is where they were.

    Raises:
        UsageError: the checkpoint records no split, or the images are gone.
        ArtifactError: `data` has a class that the checkpoint does not know; see `read_again`.
    """
    root = data if data is not None else remembered_data(checkpoint)
    if root is None and checkpoint.training.get("data"):
        raise UsageError(f"{checkpoint.path} {why_no_data(checkpoint)}: tell where they are with --data DIR")
    if root is None or SPLIT not in checkpoint.files:
        raise UsageError(
            f"{checkpoint.path} has no record of images that it was trained on: make one that has with "
            f"rrr train --data DIR --weights {checkpoint.path}"
        )
    images = read_again(recorded_data(checkpoint), data)
    classes = spelled_as(images.classes, checkpoint.labels)
    if unknown := sorted(set(classes) - set(checkpoint.labels)):
        raise ArtifactError(f"{root} has classes that {checkpoint.path} does not know: {', '.join(unknown[:5])}")
    output_of = [checkpoint.labels.index(name) for name in classes]
    labels = tuple(output_of[label] for label in images.labels)
    return replace(images, labels=labels, classes=checkpoint.labels), read_split(checkpoint.path / SPLIT)
