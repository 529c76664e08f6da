"""What is told of each image: a row of the table, the same whoever answered."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rrrbuild.cascade_runner import AUTO
from rrrserve.batch.listing import File

Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        top_k: labels in a row, at most those that the model has.
        effort: which members of a cascade are asked.
        coverage: of a set of labels; None for no set.
        members: rows tell nothing of single members.
    """

    top_k: int
    effort: str = AUTO
    coverage: float | None = None
    members: bool = False

    def columns(self) -> dict[str, type]:
        """The table's columns and what they hold; any of them may be empty."""
        others = range(2, self.top_k + 1)
        return {
            "path": str,
            "label": str,
            "probability": float,
            "agreement": float,
            "entropy": float,
            "members_used": int,
            "effort": str,
            "unsure": bool,
            "error": str,
            "truth": str,
            **{f"{name}_{place}": kind for place in others for name, kind in (("label", str), ("probability", float))},
            **({} if self.coverage is None else {"set": str}),
        }


class Answered(NamedTuple):
    """What became of one file.

    Attributes:
        path: of the file.
        row: for the table; None for what is no picture and was not asked about by name.
        scores: what the figures are made of, (M, C) of each member as the engine gives them, or (1, C) of what a
            service answers; only of images whose label is known.
    """

    path: str
    row: Row | None
    scores: npt.NDArray[np.float32] | None = None


def row_of(file: File, answer: Mapping[str, Any], wanted: Wanted) -> Row:
    """The row of an image that was answered.

    Args:
        file: which.
        answer: the answer of `rrrserve.api.answer`, as the service gives it.
        wanted: which columns.
    """
    (best, *others), doubt = answer["predictions"][: wanted.top_k], answer["uncertainty"]
    row = {
        "path": file.path,
        **best,
        "agreement": doubt["agreement"],
        "entropy": doubt["entropy"],
        "members_used": answer["members_used"],
        "effort": answer["effort"],
        "unsure": answer["unsure"],
        "error": None,
        "truth": file.truth,
    }
    for place, other in enumerate(others, 2):
        row |= {f"{name}_{place}": value for name, value in other.items()}
    if wanted.coverage is not None:
        labels = [item["label"] for item in answer["set"]] if "set" in answer else None
        row["set"] = None if labels is None else json.dumps(labels, ensure_ascii=False)
    return row


def failed(file: File, reason: str) -> Answered:
    """The row of an image that cannot be answered."""
    return Answered(file.path, {"path": file.path, "error": reason, "truth": file.truth})
