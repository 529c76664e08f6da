"""Accuracy, negative log-likelihood, calibration error and doubt of member probabilities. numpy only."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rrrnet.errors import ArtifactError

ECE_BINS = 15


def score(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Score the ensemble (arithmetic mean of its members' probabilities) and each member.

    Args:
        probabilities: (N, M, C).
        labels: (N,) class indices.

    Returns:
        `accuracy`, `nll`, `ece`, `images` of the ensemble and `members`, a list of the first three.

    Raises:
        ArtifactError: there are no images, or the probabilities are not finite.
    """
    if len(labels) == 0:
        raise ArtifactError("there are no images to score")
    if not np.isfinite(probabilities).all():
        raise ArtifactError("the network's output holds NaN or infinity: it cannot be scored")
    members = [_score_one(probabilities[:, index], labels) for index in range(probabilities.shape[1])]
    return {**_score_one(probabilities.mean(axis=1), labels), "images": len(labels), "members": members}


def _score_one(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]) -> dict[str, float]:
    """Scores of one (N, C) set of probabilities."""
    truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    return {
        "accuracy": float(correct.mean()),
        "nll": float(-np.log(np.maximum(truth, 1e-12)).mean()),
        "ece": expected_calibration_error(confidence, correct),
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
    """Between label and member, in nats: entropy of the mean less mean entropy. Shape (..., M, C) to (...)."""
    return np.asarray(
        entropy(probabilities.mean(axis=-2, dtype=np.float64)) - entropy(probabilities).mean(axis=-1, dtype=np.float64)
    )
