"""Whether probabilities can be believed, from predictions: reliability by bin, accuracy by coverage, the worst classes.

Letters: N images, M members, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrnet.training.metrics import ECE_BINS, mean_of_members, mutual_information

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]
_SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_WORST = 5


def calibration(
    probabilities: Floats, labels: Labels, names: Sequence[str], answered: Floats | None = None
) -> dict[str, Any]:
    """Everything that the report shows of predictions.

    Args:
        probabilities: shape (N, M, C), NaN for members that were not asked.
        labels: shape (N,), indices of `names`.
        names: C class names.
        answered: the calibrated mean, shape (N, C); None where the mean is answered as it is.

    Returns:
        `bins` (bounds, images, mean confidence and accuracy of each; the last two None without images) of what is
        answered, `bins_uncalibrated` (the same of the mean as it is, None where that is answered), `coverage`
        (accuracy of the surest `shares`, by the answer's confidence and, with several members, by their agreement),
        `worst` (classes of the lowest accuracy).
    """
    raw = mean_of_members(probabilities)  # (N, C)
    mean = raw if answered is None else answered
    confidence, found = mean.max(axis=1), raw.argmax(axis=1)
    correct = found == labels
    coverage = {"confidence": _coverage(-confidence, correct)}
    if probabilities.shape[1] > 1:
        coverage["members' agreement"] = _coverage(mutual_information(probabilities), correct)
    return {
        "images": len(labels),
        "bins": reliability(confidence, correct),
        "bins_uncalibrated": None if answered is None else reliability(raw.max(axis=1), correct),
        "coverage": coverage,
        "shares": list(_SHARES),
        "worst": worst_classes(found, labels, names),
    }


def reliability(confidence: Floats, correct: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Confidence and accuracy in the 15 equal-width bins of the calibration error (arXiv 1706.04599)."""
    index = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    rows = []
    for bin_ in range(ECE_BINS):
        inside = index == bin_
        count = int(inside.sum())
        rows.append(
            {
                "low": bin_ / ECE_BINS,
                "high": (bin_ + 1) / ECE_BINS,
                "images": count,
                "confidence": float(confidence[inside].mean()) if count else None,
                "accuracy": float(correct[inside].mean()) if count else None,
            }
        )
    return rows


def _coverage(doubt: Floats, correct: npt.NDArray[np.bool_]) -> list[float]:
    """Accuracy on the images of least doubt, for each share."""
    ranked = correct[np.argsort(doubt, kind="stable")]
    return [float(ranked[: max(1, round(share * len(ranked)))].mean()) for share in _SHARES]


def worst_classes(found: Labels, labels: Labels, names: Sequence[str]) -> list[dict[str, Any]]:
    """The classes with the lowest accuracy below 1, and what each is taken for most often."""
    rows: list[dict[str, Any]] = []
    for index in np.unique(labels):
        answers = found[labels == index]
        wrong = answers[answers != index]
        if len(wrong):
            mistaken = int(np.bincount(wrong).argmax())
            rows.append(
                {
                    "label": names[int(index)],
                    "images": len(answers),
                    "accuracy": float((answers == index).mean()),
                    "taken_for": names[mistaken],
                    "times": int((wrong == mistaken).sum()),
                }
            )
    return sorted(rows, key=lambda row: float(row["accuracy"]))[:_WORST]
