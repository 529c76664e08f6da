"""Labelled sample images that a repository carries, for people who look at what it serves.

REPO/NAME/samples/labels.csv     file_name and label of each
REPO/NAME/samples/00.jpg         ...

They lie beside the versions of the model whose labels they have: Triton opens numbered folders alone, and no model runs
on them. Needs no compiler.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rrrbuild.repository_document import Repository
from rrrnet.images.image_formats import image_format
from rrrnet.images.preprocess import decode

FOLDER = "samples"
MOST_SAMPLES = 64
_LABELS = "labels.csv"
_COLUMNS = ["file_name", "label"]
# What every browser shows, and a page with dozens of them loads at once; others are written anew.
_SHOWN = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_LARGEST_BYTES = 256 * 1024
_SIDE = 1024


@dataclass(frozen=True)
class Sample:
    """An image that the model was not trained on.

    Attributes:
        path: of its file.
        label: the right one.
        model: of the repository, whose test images it is from.
    """

    path: Path
    label: str
    model: str


def is_sample(name: str) -> bool:
    """Whether a file of a repository, by its path there, is one of the samples."""
    parts = PurePosixPath(name).parts
    return len(parts) == 3 and parts[1] == FOLDER


def write_samples(images: Sequence[tuple[Path, str]], model: Path, *, max_pixels: int) -> None:
    """Write images into a model's folder, before the repository is sealed.

    Args:
        images: file and label of each; they decode.
        model: the model's folder.
        max_pixels: width x height of the largest.
    """
    folder = model / FOLDER
    folder.mkdir()
    with (folder / _LABELS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for number, (path, label) in enumerate(images):
            data, suffix = _shown(path.read_bytes(), max_pixels)
            name = f"{number:02}{suffix}"
            (folder / name).write_bytes(data)
            writer.writerow((name, label))


def read_samples(repository: Repository) -> tuple[Sample, ...]:
    """The samples of a repository, whose files must have been checked."""
    found = []
    for model in repository.models:
        folder = repository.path / model.name / FOLDER
        if f"{model.name}/{FOLDER}/{_LABELS}" not in repository.files:
            continue
        with (folder / _LABELS).open(encoding="utf-8", newline="") as file:
            found += [Sample(folder / row["file_name"], row["label"], model.name) for row in csv.DictReader(file)]
    return tuple(found)


def _shown(data: bytes, max_pixels: int) -> tuple[bytes, str]:
    """The image as it is, or smaller and as JPEG where it is large or no browser shows it; and its suffix."""
    suffix = _SHOWN.get(image_format(data) or "")
    if suffix is not None and len(data) <= _LARGEST_BYTES:
        return data, suffix
    image, buffer = decode(data, max_pixels=max_pixels), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), ".jpg"
