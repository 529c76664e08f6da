"""The images that a checkpoint was trained on, found again, with its own labels."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rrrnet.checkpoint import SPLIT, Checkpoint
from rrrnet.data.dataset import ImageSet, read_again, read_split
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.names import spelled_as


def remembered_data(checkpoint: Checkpoint) -> Path | None:
    """The folder of the data set that the checkpoint was trained on; None if it never had one.

    Raises:
        UsageError: the folder is gone.
    """
    remembered = checkpoint.training.get("data")
    if remembered is None:
        return None
    data = Path(remembered["path"])
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
    if root is None or SPLIT not in checkpoint.files:
        raise UsageError(
            f"{checkpoint.path} has no record of images that it was trained on: make one that has with "
            f"rrr train --data DIR --weights {checkpoint.path}"
        )
    images = read_again(checkpoint.training.get("data") or {}, data)
    classes = spelled_as(images.classes, checkpoint.labels)
    if unknown := sorted(set(classes) - set(checkpoint.labels)):
        raise ArtifactError(f"{root} has classes that {checkpoint.path} does not know: {', '.join(unknown[:5])}")
    output_of = [checkpoint.labels.index(name) for name in classes]
    labels = tuple(output_of[label] for label in images.labels)
    return replace(images, labels=labels, classes=checkpoint.labels), read_split(checkpoint.path / SPLIT)
