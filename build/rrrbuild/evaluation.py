"""Predictions of a checkpoint or an engine on the images of a data set, as `rrr evaluate` and `rrr report` use them."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild import lazy
from rrrbuild.cascade_runner import AUTO, FULL
from rrrbuild.confidence.conformal import in_set
from rrrbuild.confidence.fit import REPORTED_COVERAGES
from rrrbuild.confidence.record import Confidence
from rrrbuild.engine import check_effort, load_engine
from rrrbuild.manifest import MANIFEST, Manifest
from rrrnet import output
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint
from rrrnet.data.dataset import ImageSet, load_arrays, read_split, select
from rrrnet.data.reading import LeftOut, describe_left_out
from rrrnet.data.remembered import data_remedy, known_images, recorded_data
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.images.preprocess import Uint8Array
from rrrnet.training.metrics import FIGURES, by_class, mean_of_members, score, score_mean

BATCH_SIZE = 32
SPLITS = ("test", "val", "train", "all")


@dataclass(frozen=True)
class EvaluatedModel:
    """What is evaluated: a checkpoint through PyTorch or an engine through its runtime.

    Attributes:
        path: of the checkpoint or engine.
        source: what it is.
        target: the engine's, or `pytorch`.
        data: what is recorded of the images that it was trained on.
        predict: images (N, S, S, 3) and an effort -> probabilities (N, M, C), NaN for members that were not asked.
        efforts: those that ask different members.
        confidence: what an engine's answers are worth; None where that is not known, and for a checkpoint.
    """

    path: Path
    source: Checkpoint | Manifest
    target: str
    data: Mapping[str, Any]
    predict: Callable[[Uint8Array, str], npt.NDArray[np.float32]]
    efforts: tuple[str, ...] = (FULL,)
    confidence: Confidence | None = None


@dataclass(frozen=True)
class Predictions:
    """Member probabilities of N images.

    Attributes:
        files: N names of images.
        paths: where they lie; some may be in the data set's `test_root`.
        labels: shape (N,), true classes as indices of the subject's labels.
        probabilities: shape (N, M, C), as the subject gives them; NaN for members that were not asked.
        root: the data set's folder.
        data_matches: whether these are the images that the subject was trained on and tested with.
        left_out: the files of the data set that cannot be used.
        effort: by which the images were answered.
        target: that answered them, empty where it is not known.
    """

    files: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    root: Path
    data_matches: bool
    left_out: tuple[LeftOut, ...] = ()
    effort: str = FULL
    target: str = ""


def open_model(path: Path) -> EvaluatedModel:
    """The checkpoint or engine at `path`, ready to predict.

    Raises:
        ArtifactError: it is neither, or damaged.
    """
    if (path / DOCUMENT).exists():
        checkpoint = read_checkpoint(path)
        ask_all = lazy.predictor(checkpoint)
        data = recorded_data(checkpoint)
        return EvaluatedModel(path, checkpoint, "pytorch", data, lambda images, _: ask_all(images))
    if (path / MANIFEST).exists():
        engine = load_engine(path)
        found = engine.manifest
        return EvaluatedModel(
            path,
            found,
            found.target,
            found.data or {},
            lambda images, effort: engine(images, effort=effort),
            engine.efforts,
            found.confidence,
        )
    message = f"{path} is neither a checkpoint (no {DOCUMENT}) nor an engine (no {MANIFEST})"
    raise ArtifactError(f"{message}; make one with rrr train or rrr build")


def predict(subject: EvaluatedModel, data: Path | None, split: str, effort: str = AUTO) -> Predictions:
    """Run the subject over a part of a data set, with progress on the terminal.

    Args:
        subject: what predicts.
        data: the data set; None is the one that the subject was trained on.
        split: one of `SPLITS`.
        effort: which members are asked; without a cascade all are, and that is `full`.

    Raises:
        UsageError: the images are gone, or there is no such effort.
        ArtifactError: the data set has other classes, or the split is not recorded.
    """
    check_effort(effort)
    effort = effort if effort in subject.efforts else FULL
    source = subject.source
    ask = data_remedy(split, recorded=SPLIT in source.files)
    with output.progress_bar() as bar:
        task = bar.add_task(f"{source.name} ({subject.target})", total=None, text="reading images")
        images = known_images(subject.path, subject.data, source.labels, data, remedy=ask)
        chosen = _chosen(subject, images, split)
        arrays, labels = load_arrays(chosen, source.preprocess)
        results: list[npt.NDArray[np.float32]] = []
        bar.update(task, total=len(arrays), text="")
        for start in range(0, len(arrays), BATCH_SIZE):
            results.append(subject.predict(arrays[start : start + BATCH_SIZE], effort))
            bar.advance(task, len(results[-1]))
    for lost in describe_left_out(images.left_out):
        output.say(f"left out {lost}")
    root = data if data is not None else Path(subject.data["path"])
    data_matches = subject.data.get("sha256") in (None, images.sha256)
    if not data_matches:
        output.say(f"note: the images in {root} are not, or not all, those {source.name} was trained on")
    paths = tuple(chosen.path(file) for file in chosen.files)
    probabilities = np.concatenate(results)
    return Predictions(
        chosen.files, paths, labels, probabilities, root, data_matches, images.left_out, effort, subject.target
    )


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on real images.

    Attributes:
        accuracy: share of right answers.
        nll: mean negative log-likelihood of the right label, in nats.
        ece: expected calibration error.
        brier: Brier score, summed over the classes.
        document: all that `rrr evaluate --json` prints: these of each member and each class, too.
        predictions: of every image.
    """

    accuracy: float
    nll: float
    ece: float
    brier: float
    document: dict[str, Any]
    predictions: Predictions


def evaluate(model: Path, data: Path | None, split: str, effort: str) -> Evaluation:
    """Score the checkpoint or engine at `model` on a part of a data set; see `predict` for the rest.

    Raises:
        UsageError: also where there is no such split.
        ArtifactError: also where it is neither, or damaged.
    """
    if split not in SPLITS:
        raise UsageError(f"--split {split}: allowed are {', '.join(SPLITS)}")
    check_effort(effort)
    subject = open_model(model)
    found = predict(subject, data, split, effort)
    scores = answer_scores(found.probabilities, found.labels, subject.confidence, found.effort)
    scores |= by_class(found.probabilities, found.labels, subject.source.labels)
    document = {
        "name": subject.source.name,
        "target": subject.target,
        "data": str(found.root),
        "split": split,
        "data_matches": found.data_matches,
        "left_out_by_kind": dict(Counter(lost.kind for lost in found.left_out)),
        **scores,
    }
    return Evaluation(**{name: scores[name] for name in FIGURES}, document=document, predictions=found)


def answer_scores(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    confidence: Confidence | None,
    effort: str,
) -> dict[str, Any]:
    """Scores of what is answered: of calibrated probabilities, where there is a confidence record.

    Args:
        probabilities: as a subject gives them, shape (N, M, C).
        labels: shape (N,).
        confidence: of the engine that answered.
        effort: by which it did.

    Returns:
        What `metrics.score` gives; `effort`; `members_used`, the mean number; `share_early`, the share of images that
        were answered without all members; `uncalibrated` and `coverage`, None without a record: accuracy, NLL, ECE and
        Brier score of the mean as it is, and by nominal coverage ("0.90") `coverage` and `mean_size` of the sets.
    """
    used = np.isfinite(probabilities).all(axis=2).sum(axis=1)
    about = {
        "effort": effort,
        "members_used": float(used.mean()) if len(used) else 0.0,
        "share_early": float((used < probabilities.shape[1]).mean()) if len(used) else 0.0,
    }
    if confidence is None or not len(used):
        return {**score(probabilities, labels), **about, "uncalibrated": None, "coverage": None}
    mean = mean_of_members(probabilities)
    answered = confidence.mean(mean, effort)
    scores = score(confidence.members(probabilities), labels, answered)
    coverage = {}
    for nominal in REPORTED_COVERAGES:
        limit = confidence.set_limit(effort, nominal)
        if limit is not None:
            sets = in_set(answered, limit)
            held = sets[np.arange(len(labels)), labels]
            coverage[f"{nominal:.2f}"] = {
                "coverage": float(held.mean()),
                "mean_size": float(sets.sum(axis=1).mean()),
            }
    return {**scores, **about, "uncalibrated": score_mean(mean, labels), "coverage": coverage or None}


def _chosen(subject: EvaluatedModel, images: ImageSet, split: str) -> ImageSet:
    """The part of the data set that is evaluated."""
    if split != "all" and SPLIT not in subject.source.files:
        raise ArtifactError(f"{subject.path} has no recorded split: score all images with --split all")
    return images if split == "all" else select(images, read_split(subject.path / SPLIT), split)  # type: ignore[arg-type]  # of SPLITS


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write an .npz file: `files`, `paths` (absolute), `labels`, `probabilities`, and words `effort` and `target`."""
    with path.open("wb") as file:  # given a name, savez would append .npz to it
        np.savez(
            file,
            files=np.array(predictions.files),
            paths=np.array([str(path.absolute()) for path in predictions.paths]),
            labels=predictions.labels,
            probabilities=predictions.probabilities,
            effort=np.array(predictions.effort),
            target=np.array(predictions.target),
        )
