"""Sets of labels that hold the right one with a chosen probability: split conformal prediction (arXiv 2107.07511).

The score of a label is 1 less its calibrated probability. For images that are exchangeable with the N that were scored,
the right label is in the set with probability `coverage` at least, and at most 1 / (N + 1) more where no scores tie.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


def scores_of(probabilities: FloatArray, labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """Scores of the right labels, ascending, shape (N,), rounded up to 6 digits, which widens no gap in coverage.

    Args:
        probabilities: calibrated, shape (N, C).
        labels: shape (N,).
    """
    found = 1.0 - probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return np.sort(np.ceil(found * 1e6) / 1e6)


def threshold(scores: Sequence[float] | FloatArray, coverage: float) -> float:
    """The largest score that a label of the set may have; infinite where so few scores promise no such coverage.

    Args:
        scores: of right labels, ascending, N of them.
        coverage: between 0 and 1.
    """
    # Less a hair: 0.9 * 10 in floating point may pass 9 by one rounding.
    rank = max(1, math.ceil((len(scores) + 1) * coverage - 1e-9))
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def in_set(probabilities: FloatArray, limit: float | FloatArray) -> npt.NDArray[np.bool_]:
    """Which labels are in the set: shape (..., C), of calibrated probabilities of that shape."""
    return np.asarray(1.0 - np.asarray(probabilities, np.float64) <= limit)


def coverage_by_class(
    probabilities: FloatArray, labels: npt.NDArray[np.integer[Any]], limit: float | FloatArray
) -> tuple[npt.NDArray[np.float64], float]:
    """Share of right labels in their sets by class (NaN for a class without images), and the mean size of a set.

    Args:
        probabilities: calibrated, shape (N, C).
        labels: shape (N,).
        limit: see `threshold`; one for all, or shape (N, 1).
    """
    sets = in_set(probabilities, limit)
    held = sets[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=sets.shape[1])
    hits = np.bincount(labels, weights=held, minlength=sets.shape[1])
    shares = np.divide(hits, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return shares, float(sets.sum(axis=1).mean())
