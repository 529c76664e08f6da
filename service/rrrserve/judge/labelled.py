"""Labelled images that claims about answers are judged on: none that the model was fitted on, where that is known."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rrrbuild.manifest import MANIFEST, read_engine
from rrrbuild.repository_document import Repository
from rrrnet import sealed
from rrrnet.checkpoint import SPLIT
from rrrnet.data.dataset import ImageSet, read_split, select
from rrrnet.data.remembered import data_remedy, known_images
from rrrnet.errors import ArtifactError, UsageError

SplitName = Literal["test", "all"]
TEST: SplitName = "test"
SPLITS: tuple[SplitName, ...] = (TEST, "all")


@dataclass(frozen=True)
class Recorded:
    """What a model's engine remembers of its training.

    Attributes:
        parts: "train", "val" or "test" by file; None where no split was recorded, or not found.
        data: of the data set.
    """

    parts: Mapping[str, str] | None = None
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Labelled:
    """Images and their right labels.

    Attributes:
        paths: of the files.
        labels: the right label of each.
        used: which images these are, for people.
    """

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    used: str


def split_name(text: str) -> SplitName:
    """The value of --split.

    Raises:
        UsageError: it is none.
    """
    for name in SPLITS:
        if text == name:
            return name
    raise UsageError(f"--split is {text!r}: allowed are {' and '.join(SPLITS)}")


def recorded_of(repository: Repository | None, model: str, engines: Path) -> Recorded:
    """What is known of a model's training: from its folder in the repository, or the engine that it was made from.

    Args:
        repository: that is served; None where it is not at hand.
        model: its name.
        engines: where engines lie, as DIR/MODEL/TARGET.
    """
    served = next((item for item in repository.models if item.name == model), None) if repository else None
    if repository is None or served is None:
        return Recorded()
    own = repository.path / model / served.version
    others = [engines / model / served.target, *([] if served.engine is None else [Path(served.engine)])]
    made_from = [
        path
        for path in others
        if (path / MANIFEST).is_file() and sealed.sha256_of(path / MANIFEST) == served.engine_sha256
    ]
    found = Recorded()
    for folder in [own, *made_from]:
        if (folder / MANIFEST).is_file():
            manifest = read_engine(folder)
            found = Recorded(found.parts, found.data or manifest.data)
            if SPLIT in manifest.files:
                return Recorded(read_split(folder / SPLIT), manifest.data)
    return found


def trained_on(repository: Repository | None, models: Iterable[str], engines: Path) -> frozenset[str]:
    """Names of the files that some of the models was trained on, where that is known."""
    parts = [recorded_of(repository, model, engines).parts or {} for model in models]
    return frozenset(file for of_model in parts for file, part in of_model.items() if part == "train")


def labelled_images(data: Path | None, recorded: Recorded, known_labels: tuple[str, ...], split: SplitName) -> Labelled:
    """The images of a data set that a model is to be judged on.

    Args:
        data: the data set; None is the one that the model was trained on.
        recorded: of the model.
        known_labels: those that it answers with.
        split: `test`: those of the recorded test split; `all`: all but those that the split has for training and
            validation.

    Raises:
        UsageError: there is no data set.
        ArtifactError: it has a class that the model does not know, or no image in that part.
    """
    remedy = data_remedy(split, recorded=recorded.parts is not None)
    if data is None and not recorded.data:
        raise UsageError(f"it is not known what images the model was trained on: {remedy}")
    images = known_images("the model", recorded.data or {}, known_labels, data, remedy=remedy)
    chosen, used = _chosen(images, recorded.parts, split)
    labels = tuple(images.classes[index] for index in chosen.labels)
    return Labelled(tuple(chosen.path(file) for file in chosen.files), labels, f"{used} of {images.root}")


def _chosen(images: ImageSet, parts: Mapping[str, str] | None, split: SplitName) -> tuple[ImageSet, str]:
    if parts is None:
        if split == TEST:
            raise ArtifactError(
                f"the split of {images.root} is not known, so images that the model was trained on may be among them: "
                "--split all takes all of a data set that it never saw; --repository and --engines name where the "
                "split is recorded"
            )
        return images, f"all {len(images.files)} images (no split is known)"
    if split == TEST:
        chosen = select(images, parts, TEST)
        return chosen, f"{len(chosen.files)} images of the test split"
    unseen = images.take(index for index, file in enumerate(images.files) if parts.get(file, TEST) == TEST)
    if not unseen.files:
        raise ArtifactError(f"the model was trained on every image of {images.root}: give others with --data DIR")
    left_out = len(images.files) - len(unseen.files)
    return unseen, f"{len(unseen.files)} images, without {left_out} of the training and validation split"
