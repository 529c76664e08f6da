"""The images of a training: read and split as the user wants, with a sentence for each thing they should know."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rrrnet.checkpoint import SPLIT
from rrrnet.data import split
from rrrnet.data.dataset import MAX_PIXELS, ImageSet, read_dataset, split_dataset
from rrrnet.data.reading import describe_left_out
from rrrnet.errors import ArtifactError, UsageError

_MOST_DOCUMENTED = 20


@dataclass(frozen=True)
class DataOptions:
    """What `rrr train` is asked for about its data; see its help for the meaning of each."""

    strict: bool = False
    test_fraction: float | None = None
    test_data: Path | None = None
    groups: str | None = None
    min_per_class: int | None = None

    def __post_init__(self) -> None:
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UsageError(f"--test-fraction {self.test_fraction}: allowed is more than 0 and less than 1")
        if self.test_fraction is not None and self.test_data is not None:
            raise UsageError("--test-fraction and --test-data both say what is tested: give one of them")
        if self.min_per_class is not None and self.min_per_class < 1:
            raise UsageError(f"--min-per-class {self.min_per_class}: allowed are 1 and more")

    def settings(self) -> dict[str, str]:
        """What a resumed training must have in common with the stopped one, less what was not asked for."""
        return {key: str(value) for key, value in asdict(self).items() if value and key != "strict"}


@dataclass(frozen=True)
class TrainingData:
    """All images, and the part of each.

    Attributes:
        images: of all parts.
        parts: "train", "val" or "test", as `split.csv` records them.
        options: what was asked for.
        seed: that of the split.
    """

    images: ImageSet
    parts: tuple[str, ...]
    options: DataOptions
    seed: int

    def data_document(self) -> dict[str, Any]:
        """What model.json holds as `training.data`; `read_again` reads it."""
        images = self.images
        return {
            "name": images.name,
            "path": str(images.root),
            "test_path": None if images.test_root is None else str(images.test_root),
            "sha256": images.sha256,
            "images": len(images.files),
            "max_pixels": images.max_pixels,
            "left_out": [lost.file for lost in images.left_out],
            "left_out_by_kind": dict(Counter(lost.kind for lost in images.left_out)),
            "junk": dict(images.junk),
            "duplicates": duplicates_document(images),
            "dropped_classes": dict(images.dropped),
        }

    def split_document(self) -> dict[str, Any]:
        """What model.json holds as `training.split`."""
        counts = {f"{part}_images": self.parts.count(part) for part in (split.TRAIN, split.VAL, split.TEST)}
        asked = {name: getattr(self.options, name) for name in ("test_fraction", "groups", "min_per_class")}
        return {"file": SPLIT, "seed": self.seed, "rule": self._rule(), **asked, **counts}

    def _rule(self) -> str:
        fraction = self.options.test_fraction or self.images.test_fraction
        share = "half" if fraction == 0.5 else f"{fraction:g}"
        ranked = f"{share} of each class, ranked by a hash of seed, class and file name"
        given = set(self.images.given.values())
        if not given:
            return ranked
        others = [] if split.TEST in given else [f"test: {ranked}"]
        return "; ".join([f"given by {self.images.given_by}", *others])


def read_training_data(
    data: Path,
    options: DataOptions,
    *,
    seed: int,
    validate: bool,
    max_pixels: int = MAX_PIXELS,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> TrainingData:
    """Read and split; the first line that `say` gets tells how many images each part has.

    Args:
        data: the folder.
        options: what was asked for.
        seed: of the split.
        validate: whether a part of the training images is kept to validate with.
        max_pixels: width x height of the largest image to take.
        say: called with each sentence.
        progress: called after each image with how many are done, and of how many.

    Raises:
        ArtifactError: the data cannot be used, or with `strict`: some file of them.
        UsageError: options do not fit the data.
    """
    images = read_dataset(
        data,
        test_data=options.test_data,
        groups=options.groups,
        min_per_class=options.min_per_class or 0,
        max_pixels=max_pixels,
        progress=progress,
    )
    lost = describe_left_out(images.left_out)
    if options.strict and lost:
        raise ArtifactError(
            f"--strict: {_count(images.left_out, 'file', 'files')} of {images.root} cannot be taken: "
            f"{'. '.join(lost)}; mend them, or leave --strict out"
        )
    fraction = split.VAL_FRACTION if validate else 0
    parts = split_dataset(images, seed=seed, test_fraction=options.test_fraction, val_fraction=fraction)
    train, val, test = (parts.count(part) for part in (split.TRAIN, split.VAL, split.TEST))
    say(
        f"{len(images.files)} images in {len(images.classes)} classes: "
        f"{train} to train on, {val} to validate, {test} to test"
    )
    for sentence in (*(f"left out {line}" for line in lost), *notes(images, parts, options.min_per_class)):
        say(sentence)
    return TrainingData(images, parts, options, seed)


def notes(images: ImageSet, parts: Sequence[str], min_per_class: int | None) -> list[str]:
    """Sentences on classes that were dropped, are not tested or written in two ways, and on copies."""
    said = list(images.notes)
    if images.dropped:
        names = _first([f"{name} ({count})" for name, count in images.dropped.items()])
        said.append(f"--min-per-class {min_per_class} dropped {_count(images.dropped, 'class', 'classes')}: {names}")
    tested = {label for label, part in zip(images.labels, parts, strict=True) if part == split.TEST}
    untested = [name for label, name in enumerate(images.classes) if label not in tested]
    if untested:
        said.append(
            f"warning: no image is tested of {_count(untested, 'class', 'classes')} ({_first(untested)}): "
            + ("the test part has none" if split.TEST in images.given.values() else "all is one group or one picture")
        )
    return said + _duplicate_notes(images, dict(zip(images.files, parts, strict=True)))


def _duplicate_notes(images: ImageSet, parts: dict[str, str]) -> list[str]:
    """Copies: how many, whether a split that was given tears them apart, and those under two labels."""
    if not images.duplicates:
        return []
    copies = sum(len(files) for files in images.duplicates)
    torn, two_labels = split.crossing(images.duplicates, parts), _under_two_labels(images)
    kept = "" if torn else "; all copies of a picture are on one side of the split"
    pictures = _count(images.duplicates, "picture", "pictures")
    said = [f"warning: {copies} files are copies of {pictures}: {_sets(images.duplicates)}{kept}"]
    if torn:
        said.append(
            f"warning: copies of {_count(torn, 'picture', 'pictures')} lie in more than one part of the split given by "
            f"{images.given_by}, so that what was trained on is tested or validated: {_sets(torn)}; remove all but one"
        )
    if two_labels:
        label_of = dict(zip(images.files, images.labels, strict=True))
        one_each = [list({label_of[file]: file for file in reversed(files)}.values())[::-1] for files in two_labels]
        said.append(
            f"warning: copies of {_count(two_labels, 'picture', 'pictures')} lie under two labels, one of which must "
            f"be wrong: {_sets(one_each)}"
        )
    return said


def duplicates_document(images: ImageSet) -> dict[str, Any]:
    """Numbers of copies, and the first sets of them."""
    two_labels = _under_two_labels(images)
    return {
        "pictures": len(images.duplicates),
        "files": sum(len(files) for files in images.duplicates),
        "under_two_labels": len(two_labels),
        "first": [list(files) for files in images.duplicates[:_MOST_DOCUMENTED]],
        "first_under_two_labels": [list(files) for files in two_labels[:_MOST_DOCUMENTED]],
    }


def _under_two_labels(images: ImageSet) -> list[tuple[str, ...]]:
    label_of = dict(zip(images.files, images.labels, strict=True))
    return [files for files in images.duplicates if len({label_of[file] for file in files if file in label_of}) > 1]


def _count(found: Collection[object], one: str, many: str) -> str:
    return f"{len(found)} {one if len(found) == 1 else many}"


def _sets(found: Sequence[Sequence[str]]) -> str:
    return _first([" = ".join(files[:3]) + (" = ..." if len(files) > 3 else "") for files in found])


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
