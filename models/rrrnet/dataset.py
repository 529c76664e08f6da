"""Images on disk to arrays: read a data set, split it, select a part, load it.

Both layouts of `rrrnet.dataset_layout` are read. Images that cannot be decoded are left out and listed by name.
Letters: N images, S the network's input size.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rrrnet.dataset_layout import Listing, list_files
from rrrnet.errors import ArtifactError, ImageError, UsageError
from rrrnet.preprocess import Preprocess, Uint8Array, decode, image_to_array

# What a person has on disk may be larger than what the service takes from strangers: a scan, a stitched panorama.
MAX_PIXELS = 200_000_000
SPLIT_COLUMNS = ("file_name", "label", "split")


@dataclass(frozen=True)
class ImageSet:
    """A data set, or a part of one, whose images all decode.

    Attributes:
        name: the data set's name.
        root: its folder, absolute.
        files: N paths relative to `root`, posix.
        labels: N class indices.
        classes: class names by index; a part keeps those of the whole.
        broken: (file, reason) of what was left out because it cannot be used.
        sha256: over names, labels and bytes of all usable files; a part keeps that of the whole.
        max_pixels: width x height of the largest image that was let in.
    """

    name: str
    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    sha256: str
    max_pixels: int = MAX_PIXELS

    def take(self, indices: Iterable[int]) -> "ImageSet":
        """The images at these places, in this order."""
        chosen = list(indices)
        files, labels = tuple(self.files[index] for index in chosen), tuple(self.labels[index] for index in chosen)
        return replace(self, files=files, labels=labels)


def read_dataset(root: Path, *, max_pixels: int = MAX_PIXELS) -> ImageSet:
    """Read the data set at `root`: list its files, decode each once to see that it can be used.

    Args:
        root: the folder.
        max_pixels: width x height of the largest image to take. Decoding takes 4 bytes a pixel, and up to 12 where
            there is transparency.

    Raises:
        ArtifactError: not a data set, or no image of some class can be used.
    """
    listing = list_files(root)
    kept: list[tuple[str, int]] = []
    broken: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for file, label in zip(listing.files, listing.labels, strict=True):
        try:
            data = _read_image(root / file)
            decode(data, max_pixels=max_pixels)
        except ImageError as error:
            broken.append((file, str(error)))
            continue
        kept.append((file, label))
        digest.update(f"{file}\0{listing.classes[label]}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    _check_classes(root, listing, kept, broken)
    return ImageSet(
        name=listing.name,
        root=root.absolute(),
        files=tuple(file for file, _ in kept),
        labels=tuple(label for _, label in kept),
        classes=listing.classes,
        broken=tuple(broken),
        sha256=digest.hexdigest(),
        max_pixels=max_pixels,
    )


def _read_image(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: it is missing, not a regular file (a pipe would block), or unreadable.
    """
    try:
        if not path.exists():
            raise ImageError("missing_image", "the file is missing")
        if not path.is_file():
            raise ImageError("unsupported_image", "not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise ImageError("bad_image", f"the file cannot be read ({error.strerror})") from error


def _check_classes(root: Path, listing: Listing, kept: list[tuple[str, int]], broken: list[tuple[str, str]]) -> None:
    """Refuse a data set in which every image of some class is broken."""
    left = {label for _, label in kept}
    gone = next((label for label in range(len(listing.classes)) if label not in left), None)
    if gone is None:
        return
    label_of = dict(zip(listing.files, listing.labels, strict=True))
    files = [f"{file} ({reason})" for file, reason in broken if label_of[file] == gone]
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    raise ArtifactError(
        f"{root}: no image of class {listing.classes[gone]} can be used: {', '.join(files[:3])}{more}; "
        "restore the files or remove the class"
    )


def split_dataset(images: ImageSet, *, seed: int, test_fraction: float = 0.5) -> tuple[str, ...]:
    """Assign "train" or "test" to each file, the same share of each class.

    Files are ranked by a hash of the seed, class and name, so the answer depends on neither their order, nor the
    other classes, nor a random generator's version.

    Raises:
        UsageError: `test_fraction` is not between 0 and 1.
        ArtifactError: a class has fewer than 2 images, so it cannot be both trained and tested.
    """
    if not 0 < test_fraction < 1:
        raise UsageError(f"test_fraction is {test_fraction}: allowed is more than 0 and less than 1")
    counts = Counter(images.labels)
    parts = ["train"] * len(images.files)
    for label, name in enumerate(images.classes):
        if counts[label] < 2:
            raise ArtifactError(
                f"{images.root}: class {name} has {counts[label]} usable image(s); at least 2 are needed, "
                "one to train and one to test: add images or remove the class"
            )
        members = [index for index, found in enumerate(images.labels) if found == label]
        members.sort(key=lambda index: hashlib.sha256(f"{seed}\0{name}\0{images.files[index]}".encode()).digest())
        tests = min(max(1, round(len(members) * test_fraction)), len(members) - 1)
        for index in members[:tests]:
            parts[index] = "test"
    return tuple(parts)


def write_split(path: Path, images: ImageSet, parts: Sequence[str]) -> None:
    """Record the split: a csv file with file_name, label (the class name) and split of each image."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SPLIT_COLUMNS)
        for name, label, part in zip(images.files, images.labels, parts, strict=True):
            writer.writerow((name, images.classes[label], part))


def read_split(path: Path) -> dict[str, str]:
    """Part ("train" or "test") by file name, as `write_split` recorded it.

    Raises:
        ArtifactError: the file is missing or not a recorded split.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path} cannot be read as the record of a split: {error}") from error
    if tuple(header) != SPLIT_COLUMNS:
        raise ArtifactError(f"{path} is not the record of a split: its columns must be {', '.join(SPLIT_COLUMNS)}")
    parts = {}
    for line, row in enumerate(rows, 2):
        if len(row) != 3 or row[2] not in ("train", "test"):
            raise ArtifactError(f"{path} line {line}: {','.join(row)!r} does not end in train or test")
        parts[row[0]] = row[2]
    return parts


def select(images: ImageSet, parts: Mapping[str, str], which: Literal["train", "test", "all"]) -> ImageSet:
    """The images that a recorded split puts into `which`; files the split does not know are left out unless "all".

    Raises:
        ArtifactError: no image is in that part, e.g. because it is another data set.
    """
    if which == "all":
        return images
    chosen = [index for index, file in enumerate(images.files) if parts.get(file) == which]
    if not chosen:
        raise ArtifactError(
            f"no file of {images.root} is in the recorded {which} split ({len(parts)} files, "
            f"e.g. {next(iter(parts), 'none')}): it seems to be another data set; use --split all for every image"
        )
    return images.take(chosen)


def load_arrays(
    images: ImageSet, preprocess: Preprocess, *, progress: Callable[[int], None] | None = None
) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
    """Decode and resize all images.

    Args:
        images: what to load.
        preprocess: how an image becomes the network's input.
        progress: called after each image with the number of images loaded so far.

    Returns:
        Images (N, S, S, 3), uint8 RGB, and labels (N,), int64.

    Raises:
        ArtifactError: a file has become unreadable since the data set was read.
    """
    arrays = np.empty((len(images.files), preprocess.size, preprocess.size, 3), np.uint8)
    for index, file in enumerate(images.files):
        try:
            data = _read_image(images.root / file)
            arrays[index] = image_to_array(data, preprocess, max_pixels=images.max_pixels)
        except ImageError as error:
            raise ArtifactError(f"{images.root / file} was readable a moment ago, but now {error}") from error
        if progress is not None:
            progress(index + 1)
    return arrays, np.asarray(images.labels, dtype=np.int64)
