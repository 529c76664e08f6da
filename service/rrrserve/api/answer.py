"""Member probabilities to the JSON answer: top labels, uncertainty, members. Pure functions of arrays.

M members, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrnet.training.metrics import entropy

FloatArray = npt.NDArray[np.floating[Any]]


def uncertainty(probabilities: FloatArray) -> dict[str, float]:
    """How sure the ensemble is of one image.

    Args:
        probabilities: per-member class probabilities, shape (M, C).

    Returns:
        `entropy` of the mean, in nats (0 to log C); `mutual_information` between label and member, in nats: the
        part of the entropy that comes from the members' disagreement (0 to log M); `agreement`, the share of members
        whose label is the ensemble's (1/M or 0 to 1).
    """
    members = np.clip(probabilities.astype(np.float64), 0.0, 1.0)
    mean = members.mean(axis=0)
    doubt = float(entropy(mean))
    agreement = float((members.argmax(axis=1) == mean.argmax()).mean())
    return {
        "entropy": round(max(0.0, doubt), 6),
        # As rrrnet.training.metrics has it, which would reckon the mean and its entropy again: 30 us of each answer.
        "mutual_information": round(max(0.0, doubt - float(entropy(members).mean())), 6),
        "agreement": round(agreement, 6),
    }


def answer(probabilities: FloatArray, labels: Sequence[str], *, top_k: int, members: bool) -> dict[str, Any]:
    """The part of the JSON answer that tells about one image.

    Args:
        probabilities: per-member class probabilities, shape (M, C).
        labels: C class names.
        top_k: how many labels to give, 1 to C.
        members: whether to add each member's own label.
    """
    mean = probabilities.mean(axis=0, dtype=np.float64)
    best = np.argsort(-mean, kind="stable")[:top_k]
    result: dict[str, Any] = {
        "predictions": [{"label": labels[index], "probability": round(float(mean[index]), 6)} for index in best],
        "uncertainty": uncertainty(probabilities),
    }
    if members:
        winners = probabilities.argmax(axis=1)
        result["members"] = [
            {"label": labels[index], "probability": round(float(row[index]), 6)}
            for index, row in zip(winners, probabilities, strict=True)
        ]
    return result
