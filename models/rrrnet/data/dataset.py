"""Images on disk to arrays: read a data set, split it, select a part, load it.

The layouts of `rrrnet.data.layout` are read. What cannot be used is left out and listed by kind and name.
Letters: N images, S the network's input size.
"""

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rrrnet.data import split
from rrrnet.data.layout import list_files
from rrrnet.data.reading import LeftOut, Reader, describe_left_out, read_image
from rrrnet.errors import ArtifactError, ImageError, UsageError
from rrrnet.images.preprocess import Preprocess, Uint8Array, image_to_array
from rrrnet.names import spelled_as

# What a person has on disk may be larger than what the service takes from strangers: a scan, a stitched panorama.
MAX_PIXELS = 200_000_000
SPLIT_COLUMNS = ("file_name", "label", "split")
SPLITS = (split.TRAIN, split.VAL, split.TEST)
# What a checkpoint and its engines remember of the data set, so that `read_again` finds the same images.
REMEMBERED = ("name", "path", "sha256", "test_path", "dropped_classes", "max_pixels")
# Before the names of files that lie in a second folder, which is the test part of the data set.
TEST_DATA = "test-data:"


@dataclass(frozen=True)
class ImageSet:
    """A data set, or a part of one, whose images all decode.

    Attributes:
        name: the data set's name.
        root: its folder, absolute.
        files: N paths relative to `root`, posix; `TEST_DATA` stands before those relative to `test_root`.
        labels: N class indices.
        classes: class names by index; a part keeps those of the whole, as it does all that follows.
        left_out: what was left out because it cannot be used.
        sha256: over names, labels and bytes of all usable files.
        test_root: the folder of the test part, where it is another.
        junk: files by kind that systems leave beside images, and documents beside the classes.
        duplicates: sets of files that have the same bytes.
        given: "train", "val" or "test" by file, where the data set says so.
        given_by: what says so, for people.
        groups: by file, which images belong together.
        dropped: classes that have too few images, and how many they have.
        notes: sentences on what was read in another way than it was written.
        test_fraction: of each class, for testing, unless it is told otherwise.
        max_pixels: width x height of the largest image that was let in.
    """

    name: str
    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    sha256: str
    test_root: Path | None = None
    junk: Mapping[str, int] = field(default_factory=dict)
    duplicates: tuple[tuple[str, ...], ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    given_by: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    test_fraction: float = 0.5
    max_pixels: int = MAX_PIXELS

    def take(self, indices: Iterable[int]) -> "ImageSet":
        """The images at these places, in this order."""
        chosen = list(indices)
        files, labels = tuple(self.files[index] for index in chosen), tuple(self.labels[index] for index in chosen)
        return replace(self, files=files, labels=labels)

    def path(self, file: str) -> Path:
        """Where one of `files` lies."""
        if self.test_root is not None and file.startswith(TEST_DATA):
            return self.test_root / file.removeprefix(TEST_DATA)
        return self.root / file


def read_dataset(
    root: Path,
    *,
    test_data: Path | None = None,
    groups: str | None = None,
    min_per_class: int = 0,
    without: Collection[str] = (),
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read the data set at `root`: list its files, decode each once to see that it can be used.

    Args:
        root: its folder.
        test_data: a second data set of the same classes, which is the test part of the first.
        groups: a column of labels.csv: images with the same cell belong together.
        min_per_class: classes with fewer usable images are dropped.
        without: names of classes that are dropped too.
        max_pixels: width x height of the largest image to take.
        progress: called after each image with how many are done, and of how many.

    Raises:
        ArtifactError: not a data set, or no image of some class can be used.
        UsageError: `groups` or `test_data` do not fit the data set.
    """
    listing = list_files(root, groups=groups)
    reader = Reader(listing.classes, max_pixels, progress)
    reader.read(root, listing)
    dropped = reader.drop(lambda name, count: count < min_per_class or name in without)
    if len(reader.classes) < 2:
        few = ", ".join(f"{name} ({count})" for name, count in list(dropped.items())[:5])
        raise ArtifactError(
            f"{root}: at least 2 classes are needed, and --min-per-class leaves {len(reader.classes)}, without {few}; "
            f"{'. '.join(describe_left_out(reader.left_out)) or 'add images'}"
        )
    reader.check(root)
    given, given_by = dict(listing.parts), listing.parts_from
    if test_data is not None:
        if "test" in given.values():
            raise UsageError(
                f"--test-data {test_data}: {root} has a test part of its own ({given_by}); give one of them"
            )
        _read_test_data(reader, test_data, dropped)
        tests = {file: split.TEST for file, _, _ in reader.kept if file.startswith(TEST_DATA)}
        given, given_by = {**given, **tests}, " and ".join(filter(None, (given_by, f"--test-data {test_data}")))
    return ImageSet(
        name=listing.name,
        root=root.absolute(),
        files=tuple(file for file, _, _ in reader.kept),
        labels=tuple(label for _, label, _ in reader.kept),
        classes=reader.classes,
        left_out=tuple(reader.left_out),
        sha256=reader.sha256(),
        test_root=None if test_data is None else test_data.absolute(),
        junk=dict(sorted(reader.junk.items())),
        duplicates=reader.duplicates(),
        given=given,
        given_by=given_by,
        groups=listing.groups,
        dropped=dropped,
        notes=listing.notes,
        test_fraction=listing.test_fraction,
        max_pixels=max_pixels,
    )


def _read_test_data(reader: Reader, test_data: Path, dropped: Collection[str]) -> None:
    """Read the second data set, whose classes must be among those of the first."""
    listing = list_files(test_data, least_classes=1)
    if listing.parts:
        raise UsageError(
            f"--test-data {test_data} has parts of its own ({listing.parts_from}): give the folder of its test part"
        )
    classes = spelled_as(listing.classes, {*reader.classes, *dropped})
    unknown = sorted(set(classes) - set(reader.classes) - set(dropped))
    if unknown:
        raise ArtifactError(
            f"--test-data {test_data} has classes that the training data have not: {', '.join(unknown[:5])}; "
            f"those have {', '.join(reader.classes[:5])}"
        )
    position = {name: index for index, name in enumerate(reader.classes)}
    chosen = [
        (file, position[classes[label]])
        for file, label in zip(listing.files, listing.labels, strict=True)
        if classes[label] in position
    ]
    files, labels = zip(*chosen, strict=True) if chosen else ((), ())
    reader.read(test_data, replace(listing, files=files, labels=labels), TEST_DATA)


def read_again(recorded: Mapping[str, Any], data: Path | None = None) -> ImageSet:
    """The data set that a checkpoint or an engine remembers as `training.data`, or another one in its place.

    Args:
        recorded: with `path`, and where they were used `test_path`, `dropped_classes` and `max_pixels`.
        data: the other one.

    Raises:
        ArtifactError, UsageError: see `read_dataset`.
    """
    path, test_path = recorded.get("path"), recorded.get("test_path")
    same = data is None or (path is not None and data.resolve() == Path(path).resolve())
    root = data if data is not None else Path(path or "")
    without = recorded.get("dropped_classes") or ()
    most = recorded.get("max_pixels") or MAX_PIXELS
    tests = Path(test_path) if same and test_path else None
    return read_dataset(root, test_data=tests, without=without, max_pixels=most)


def split_dataset(
    images: ImageSet, *, seed: int, test_fraction: float | None = None, val_fraction: float = split.VAL_FRACTION
) -> tuple[str, ...]:
    """Assign "train", "val" or "test" to each file, the same share of each class.

    Parts that the data set gives are kept. For the others, files are ranked by a hash of the seed, class and name, so
    the answer depends on neither their order, nor the other classes, nor a random generator's version: the first of a
    class are tested, the next validate, the rest are trained on. Copies and groups stay together.

    Args:
        images: the data set.
        seed: another one gives other parts.
        test_fraction: of each class, at least one image; None is what the data set's layout has.
        val_fraction: of what is left to train of each class, at least one image where two are left; 0 for none.

    Raises:
        UsageError: `test_fraction` is not between 0 and 1, or the data set has a test part.
        ArtifactError: a class cannot be both trained and tested.
    """
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise UsageError(f"--test-fraction {test_fraction}: allowed is more than 0 and less than 1")
    tested = split.TEST in images.given.values()
    if tested and test_fraction is not None:
        raise UsageError(
            f"--test-fraction {test_fraction}: {images.root} has a test part of its own ({images.given_by})"
        )
    groups: dict[str, list[str]] = {}
    for file, group in images.groups.items():
        groups.setdefault(group, []).append(file)
    if torn := split.crossing(groups.values(), {file: images.given.get(file, split.TRAIN) for file in images.files}):
        group = images.groups[torn[0][0]]
        raise ArtifactError(
            f"--groups: {len(torn)} groups lie in more than one part of the split given by {images.given_by}, e.g. "
            f"{group}: leave --groups out, or mend the split"
        )
    _check_counts(images, tested=tested)
    parts = [images.given.get(file, split.TRAIN) for file in images.files]
    units = split.units_of(images.files, [*images.duplicates, *groups.values()])
    shares = split.Shares(images.files, images.labels, images.classes, units)
    if not tested:
        shares.move(parts, split.TEST, test_fraction or images.test_fraction, seed)
        if split.TEST not in parts:
            raise ArtifactError(
                f"{images.root}: every class is one group or copies of one picture, so that no image is left to test: "
                "add images, or give --test-data DIR"
            )
    if val_fraction and split.VAL not in images.given.values():
        shares.move(parts, split.VAL, val_fraction, seed)
    return tuple(parts)


def _check_counts(images: ImageSet, *, tested: bool) -> None:
    """Refuse a class that has no image to train on, or only one for both training and test."""
    counts = Counter(
        label
        for label, file in zip(images.labels, images.files, strict=True)
        if images.given.get(file, split.TRAIN) == split.TRAIN
    )
    for label, name in enumerate(images.classes):
        if tested and not counts[label]:
            raise ArtifactError(f"{images.root}: class {name} has no image to train on: add some, or remove the class")
        if not tested and counts[label] < 2:
            raise ArtifactError(
                f"{images.root}: class {name} has {counts[label]} usable image(s); at least 2 are needed, one to train "
                "and one to test: add images, remove the class, or drop such classes with rrr train --min-per-class 2"
            )


def write_split(path: Path, images: ImageSet, parts: Sequence[str]) -> None:
    """Record the split: a csv file with file_name, label (the class name) and split of each image."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SPLIT_COLUMNS)
        for name, label, part in zip(images.files, images.labels, parts, strict=True):
            writer.writerow((name, images.classes[label], part))


def read_split(path: Path) -> dict[str, str]:
    """Part ("train", "val" or "test") by file name, as `write_split` recorded it.

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
        if len(row) != 3 or row[2] not in SPLITS:
            raise ArtifactError(f"{path} line {line}: {','.join(row)!r} does not end in train, val or test")
        parts[row[0]] = row[2]
    return parts


def select(images: ImageSet, parts: Mapping[str, str], which: Literal["train", "val", "test", "all"]) -> ImageSet:
    """The images that a recorded split puts into `which`; files the split does not know are left out unless "all".

    Raises:
        ArtifactError: no image is in that part, e.g. because it is another data set.
    """
    if which == "all":
        return images
    chosen = [index for index, file in enumerate(images.files) if parts.get(file) == which]
    if not chosen:
        if which == split.VAL and which not in parts.values():
            raise ArtifactError(
                "the recorded split has no val part: nothing was validated; use --split test, train or all"
            )
        raise ArtifactError(
            f"no file of {images.root} is in the recorded {which} split ({len(parts)} files, "
            f"e.g. {next(iter(parts), 'none')}): it seems to be another data set; use --split all for every image"
        )
    return images.take(chosen)


def even_places(count: int, limit: int) -> npt.NDArray[np.int64]:
    """At most `limit` of the indices 0 to `count` - 1, ascending, evenly spread, the ends among them."""
    return np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64))


def evenly(images: ImageSet, limit: int) -> ImageSet:
    """At most `limit` of the images, spread evenly; they are listed by class, so every class has its share."""
    return images.take(even_places(len(images.files), limit))


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
            data = read_image(images.path(file))
            arrays[index] = image_to_array(data, preprocess, max_pixels=images.max_pixels)
        except ImageError as error:
            raise ArtifactError(f"{images.path(file)} was readable a moment ago, but now {error}") from error
        if progress is not None:
            progress(index + 1)
    return arrays, np.asarray(images.labels, dtype=np.int64)
