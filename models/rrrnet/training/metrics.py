"""Accuracy, negative log-likelihood, calibration error, Brier score and doubt of member probabilities. numpy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrnet.errors import ArtifactError

FIGURES = ("accuracy", "nll", "ece", "brier")
ECE_BINS = 15
_MOST_CONFUSIONS = 200  # 1 000 classes can have a million; the worst tell enough


def mean_of_members(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The ensemble's answer: the mean of those members that were asked, shape (..., M, C) to (..., C).

    The row of a member that was not asked, or gave no finite answer, is NaN; where all are, so is the mean.
    """
    used = np.isfinite(probabilities).all(axis=-1)
    if used.all():
        return np.asarray(probabilities.mean(axis=-2, dtype=np.float64))
    total = np.where(used[..., None], probabilities, 0.0).sum(axis=-2, dtype=np.float64)
    count = used.sum(axis=-1)[..., None]
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def score(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    mean: npt.NDArray[np.floating[Any]] | None = None,
) -> dict[str, Any]:
    """Score the ensemble and each member, which is scored on the images that it was asked about.

    Args:
        probabilities: (N, M, C); the row of a member that was not asked is NaN.
        labels: (N,) class indices.
        mean: what the ensemble answers, (N, C); None is the mean of the members that were asked.

    Returns:
        `accuracy`, `nll`, `ece`, `brier` and `images` of the ensemble, and `members`, a list of the same; the figures
        of a member that was never asked are None.

    Raises:
        ArtifactError: there are no images, or the probabilities of one that was asked are not finite.
    """
    if len(labels) == 0:
        raise ArtifactError("there are no images to score")
    asked = ~np.isnan(probabilities).all(axis=2)
    if not np.isfinite(probabilities[asked]).all() or not asked.any(axis=1).all():
        raise ArtifactError("the network's output holds NaN or infinity: it cannot be scored")
    members: list[dict[str, float | int | None]] = []
    for index, images in enumerate(asked.T):
        count = int(images.sum())
        figures = score_mean(probabilities[images, index], labels[images]) if count else dict.fromkeys(FIGURES)
        members.append({**figures, "images": count})
    mean = mean_of_members(probabilities) if mean is None else mean
    return {**score_mean(mean, labels), "images": len(labels), "members": members}


def by_class(
    probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]], names: Sequence[str]
) -> dict[str, Any]:
    """Which classes the ensemble finds, and which it takes for which.

    Args:
        probabilities: (N, M, C); the row of a member that was not asked is NaN.
        labels: (N,) class indices.
        names: C class names.

    Returns:
        `per_class`: label, images, recall and precision of each, in the order of the outputs; None where there is
        nothing to divide by. `balanced_accuracy`: the mean recall of the classes that have images. `confusions`:
        label, predicted and count, the most frequent first.
    """
    matrix = confusion_matrix(probabilities, labels)
    images, answers, right = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    rows = [
        {
            "label": name,
            "images": int(images[index]),
            "recall": float(right[index] / images[index]) if images[index] else None,
            "precision": float(right[index] / answers[index]) if answers[index] else None,
        }
        for index, name in enumerate(names)
    ]
    wrong = matrix - np.diag(right)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = [(*np.unravel_index(place, wrong.shape), int(wrong.flat[place])) for place in order if wrong.flat[place]]
    return {
        "per_class": rows,
        "balanced_accuracy": float((right[images > 0] / images[images > 0]).mean()),
        "confusions": [
            {"label": names[int(true)], "predicted": names[int(found)], "count": count} for true, found, count in pairs
        ],
    }


def confusion_matrix(
    probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.int64]:
    """How many images of class `row` the ensemble takes for class `column`: (N, M, C) and (N,) to (C, C)."""
    classes = probabilities.shape[2]
    found = mean_of_members(probabilities).argmax(axis=1)
    return np.bincount(labels * classes + found, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def score_mean(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]) -> dict[str, float]:
    """`FIGURES` of one set of probabilities, shape (N, C); `brier` sums the squares over the classes."""
    truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    return {
        "accuracy": float(correct.mean()),
        "nll": float(-np.log(np.maximum(truth, 1e-12)).mean()),
        "ece": expected_calibration_error(confidence, correct),
        "brier": float(((probabilities.astype(np.float64) ** 2).sum(axis=1) - 2 * truth + 1).mean()),
    }


def expected_calibration_error(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over 15 equal-width bins, weighted by images (arXiv 1706.04599)."""
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [
        abs(confidence[bins == index].mean() - correct[bins == index].mean()) * (bins == index).mean()
        for index in range(ECE_BINS)
        if (bins == index).any()
    ]
    return float(sum(gaps))


def entropy(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Shannon entropy over the last axis, in nats; 0 log 0 is 0."""
    found = probabilities.astype(np.float64, copy=False)
    return np.asarray(-(found * np.log(np.where(found > 0, found, 1.0))).sum(axis=-1))


def mutual_information(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Between label and member, in nats: entropy of the mean less mean entropy. Shape (..., M, C) to (...).

    Over the members that were asked, as `mean_of_members`.
    """
    asked = np.isfinite(probabilities).all(axis=-1)
    entropies = np.where(asked, entropy(np.where(asked[..., None], probabilities, 0.0)), 0.0)
    return np.asarray(entropy(mean_of_members(probabilities)) - entropies.sum(axis=-1) / asked.sum(axis=-1))
