"""Predictions of a checkpoint or an engine on the images of a data set, as `rrr evaluate` and `rrr report` use them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild import lazy
from rrrbuild.engine import load_engine
from rrrbuild.manifest import MANIFEST, Manifest
from rrrnet import output
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint
from rrrnet.data.dataset import ImageSet, load_arrays, read_again, read_split, select
from rrrnet.data.reading import LeftOut, describe_left_out
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.images.preprocess import Uint8Array
from rrrnet.names import spelled_as

BATCH_SIZE = 32
SPLITS = ("test", "val", "train", "all")


@dataclass(frozen=True)
class EvaluatedModel:
    """What is evaluated: a checkpoint through PyTorch or an engine through its runtime."""

    path: Path
    source: Checkpoint | Manifest
    target: str
    data: Mapping[str, Any]
    predict: Callable[[Uint8Array], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Predictions:
    """Member probabilities of N images.

    Attributes:
        files: N names of images.
        paths: where they lie; some may be in the data set's `test_root`.
        labels: shape (N,), true classes as indices of the subject's labels.
        probabilities: shape (N, M, C).
        root: the data set's folder.
        data_matches: whether these are the images that the subject was trained on and tested with.
        left_out: the files of the data set that cannot be used.
    """

    files: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    root: Path
    data_matches: bool
    left_out: tuple[LeftOut, ...] = ()


def open_model(path: Path) -> EvaluatedModel:
    """The checkpoint or engine at `path`, ready to predict.

    Raises:
        ArtifactError: it is neither, or damaged.
    """
    source: Checkpoint | Manifest
    if (path / DOCUMENT).exists():
        source = read_checkpoint(path)
        target, data, predict = "pytorch", source.training.get("data"), lazy.predictor(source)
    elif (path / MANIFEST).exists():
        engine = load_engine(path)
        source = engine.manifest
        target, data, predict = source.target, source.data, engine
    else:
        message = f"{path} is neither a checkpoint (no {DOCUMENT}) nor an engine (no {MANIFEST})"
        raise ArtifactError(f"{message}; make one with rrr train or rrr build")
    return EvaluatedModel(path, source, target, data or {}, predict)


def predict(subject: EvaluatedModel, data: Path | None, split: str) -> Predictions:
    """Run the subject over a part of a data set, with progress on the terminal.

    Args:
        subject: what predicts.
        data: the data set; None is the one that the subject was trained on.
        split: one of `SPLITS`.

    Raises:
        UsageError: the images are gone.
        ArtifactError: the data set has other classes, or the split is not recorded.
    """
    source, recorded = subject.source, subject.data.get("path")
    root = data if data is not None else Path(recorded) if recorded else None
    if root is None:
        raise UsageError(f"{subject.path} never had images: give labelled ones with --data DIR --split all")
    if data is None and not root.is_dir():
        raise UsageError(f"the images of {subject.path} are no longer at {root}: give the folder with --data DIR")
    with output.progress_bar() as bar:
        task = bar.add_task(f"{source.name} ({subject.target})", total=None, text="reading images")
        images = read_again(subject.data, data)
        images = replace(images, classes=spelled_as(images.classes, source.labels))
        chosen = _chosen(subject, images, split)
        arrays, indices = load_arrays(chosen, source.preprocess)
        position = {label: index for index, label in enumerate(source.labels)}
        labels = np.array([position[images.classes[index]] for index in indices], dtype=np.int64)
        results: list[npt.NDArray[np.float32]] = []
        bar.update(task, total=len(arrays), text="")
        for start in range(0, len(arrays), BATCH_SIZE):
            results.append(subject.predict(arrays[start : start + BATCH_SIZE]))
            bar.advance(task, len(results[-1]))
    for lost in describe_left_out(images.left_out):
        output.say(f"left out {lost}")
    data_matches = subject.data.get("sha256") in (None, images.sha256)
    if not data_matches:
        output.say(f"note: the images in {root} are not, or not all, those {source.name} was trained on")
    paths = tuple(chosen.path(file) for file in chosen.files)
    return Predictions(chosen.files, paths, labels, np.concatenate(results), root, data_matches, images.left_out)


def _chosen(subject: EvaluatedModel, images: ImageSet, split: str) -> ImageSet:
    """The part of the data set that is evaluated."""
    source = subject.source
    unknown = sorted(set(images.classes) - set(source.labels))
    if unknown:
        message = f"{images.root} has classes that {subject.path} does not know: {', '.join(unknown[:5])}"
        raise ArtifactError(f"{message}; it knows {', '.join(source.labels[:5])} ...")
    if split != "all" and SPLIT not in source.files:
        raise ArtifactError(f"{subject.path} has no recorded split: score all images with --split all")
    return images if split == "all" else select(images, read_split(subject.path / SPLIT), split)  # type: ignore[arg-type]  # of SPLITS


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write an .npz file with the arrays `files`, `paths` (absolute), `labels` and `probabilities`."""
    with path.open("wb") as file:  # given a name, savez would append .npz to it
        np.savez(
            file,
            files=np.array(predictions.files),
            paths=np.array([str(path.absolute()) for path in predictions.paths]),
            labels=predictions.labels,
            probabilities=predictions.probabilities,
        )
