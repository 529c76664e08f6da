"""What of its probabilities a service may tell, as the attacker completes it. Pure functions of arrays.

An attacker who is told less fills the rest in: probabilities that are not told share evenly what is left over.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild.confidence.temperature import tempered

FloatArray = npt.NDArray[np.floating[Any]]
_DIGITS = (6, 2, 1)  # 6 is what `rrr serve` tells
_TEMPERATURES = (0.5, 2.0)
_BEST = (5, 1)


def forms(mean: FloatArray) -> dict[str, FloatArray]:
    """The probabilities (N, C) as they look after each form of an answer, by its name."""
    classes = mean.shape[1]
    return {
        "all probabilities": mean,
        **{f"{digits} digit{'s' * (digits > 1)}": np.round(mean, digits) for digits in _DIGITS},
        **{f"temperature {number:g}": tempered(mean, number) for number in _TEMPERATURES},
        **{f"best {count} of {classes}": best_only(mean, count) for count in _BEST if count < classes},
        "label alone": label_only(mean),
    }


def best_only(mean: FloatArray, count: int) -> FloatArray:
    """The `count` highest probabilities of each row; the others share evenly what is left of 1."""
    kept = np.argsort(-mean, axis=1, kind="stable")[:, :count]
    told = np.take_along_axis(mean, kept, axis=1)
    rest = np.maximum(1 - told.sum(axis=1, keepdims=True), 0) / (mean.shape[1] - count)
    filled = np.repeat(rest, mean.shape[1], axis=1)
    np.put_along_axis(filled, kept, told, axis=1)
    return filled


def label_only(mean: FloatArray) -> FloatArray:
    """1 for the first label, 0 for the others: an attacker sees whether it is the right one, and no more."""
    return np.asarray(np.eye(mean.shape[1])[mean.argmax(axis=1)])
