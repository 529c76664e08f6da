"""Member probabilities to the JSON answer: top labels, doubt, sets, members. Pure functions of arrays.

M members, U of them used, C classes. What is told is calibrated where the build fitted a temperature; which label comes
first is decided before that, on the plain mean of the members used.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rrrbuild.cascade_runner import FULL, NOT_ASKED, USED
from rrrbuild.confidence.conformal import in_set
from rrrbuild.repository_document import ServedModel
from rrrnet.training.metrics import entropy

FloatArray = npt.NDArray[np.floating[Any]]

_PARTIAL = "members that were asked are missing: sets are promised for answers of all that are asked"
_NO_SCORES = "the model has no sets: it was built without images to calibrate on"


class Choices(Protocol):
    """What an answer needs to know of `requests.Options`, and of what `rrr predict --out` was asked for; told there."""

    @property
    def top_k(self) -> int: ...  # noqa: D102  told where it is
    @property
    def members(self) -> bool: ...  # noqa: D102  told where it is
    @property
    def effort(self) -> str: ...  # noqa: D102  told where it is
    @property
    def coverage(self) -> float | None: ...  # noqa: D102  told where it is


def answering_effort(model: ServedModel, effort: str) -> str:
    """The effort that a model answers by: without a cascade all members always answer."""
    return FULL if model.cascade is None else effort


def uncertainty(mean: FloatArray, members: FloatArray, winner: int) -> dict[str, float]:
    """How sure those members that were used are of one image.

    Args:
        mean: calibrated, shape (C,).
        members: their own probabilities, calibrated, shape (U, C).
        winner: the ensemble's label.

    Returns:
        `entropy` of the mean, in nats (0 to log C); `mutual_information` between label and member, in nats: the
        part of the doubt that comes from the members' disagreement (0 to log U); `agreement`, the share of members
        whose label is the ensemble's (0 to 1).
    """
    # All entropies in one call: each takes 15 us, whatever it is of.
    count = len(members)
    doubt, together, *alone = entropy(np.vstack((mean, members.sum(axis=0) / count, members))).tolist()
    return {
        "entropy": round(max(0.0, doubt), 6),
        "mutual_information": round(max(0.0, together - sum(alone) / count), 6),
        "agreement": round(members.argmax(axis=1).tolist().count(winner) / count, 6),
    }


def is_unsure(entropy_nats: float, *, empty_set: bool, abstain_above: float | None) -> bool:
    """Whether nobody should act on an answer: its set is empty, or its entropy above a limit, where there is one."""
    return empty_set or (abstain_above is not None and entropy_nats > abstain_above)


class Told(NamedTuple):
    """What an answer is made from.

    Attributes:
        used: numbers of the U members used.
        plain: their mean as it is, shape (C,): decides which label comes first.
        mean: calibrated, shape (C,): what is told.
        own: their own probabilities, calibrated, shape (U, C).
        partial: whether a member that was asked is missing.
    """

    used: Sequence[int]
    plain: FloatArray
    mean: FloatArray
    own: FloatArray
    partial: bool


def told(probabilities: FloatArray, status: npt.NDArray[np.uint8] | None, model: ServedModel, effort: str) -> Told:
    """Mean and members of one image; see `answer`, and `answering_effort` for the effort."""
    left_out = status is not None and bool(status.any())
    used = np.flatnonzero(status == USED).tolist() if left_out else range(model.members)
    found = probabilities[used] if left_out else probabilities
    plain = found.sum(axis=0, dtype=np.float64) / len(used)
    confidence = model.confidence
    if confidence is None:
        mean, own = (np.minimum(np.maximum(part, 0.0), 1.0) for part in (plain, found.astype(np.float64)))
    else:
        mean, own = confidence.mean(plain, effort), confidence.members(found)
    return Told(used, plain, mean, own, status is not None and int(status.max()) > NOT_ASKED)


def ranking(plain: FloatArray) -> npt.NDArray[np.intp]:
    """Numbers of the labels, best first, equal ones in their order."""
    return np.argsort(-plain, kind="stable")


def embedding_answer(embedding: npt.NDArray[np.float32]) -> dict[str, Any]:
    """The part of the JSON answer that tells about one image's embedding, shape (D,).

    Eight digits after the point: float32 has no more of a number below 1, and a third of the bytes are saved.
    """
    return {"dim": len(embedding), "embedding": np.round(embedding.astype(np.float64), 8).tolist()}


def answer(
    probabilities: FloatArray,
    status: npt.NDArray[np.uint8] | None,
    model: ServedModel,
    options: Choices,
    *,
    abstain_above: float | None = None,
) -> dict[str, Any]:
    """The part of the JSON answer that tells about one image.

    Args:
        probabilities: of each member, shape (M, C).
        status: what became of each member, shape (M,); None if all were used.
        model: which model they are of.
        options: what the client asked for.
        abstain_above: see `is_unsure`.
    """
    effort = answering_effort(model, options.effort)
    used, plain, mean, own, partial = told(probabilities, status, model, effort)
    order = ranking(plain)
    confidence = model.confidence
    doubt = uncertainty(mean, own, int(order[0]))

    def listed(places: npt.NDArray[np.intp]) -> list[dict[str, Any]]:
        return [{"label": model.labels[place], "probability": round(float(mean[place]), 6)} for place in places]

    result: dict[str, Any] = {
        "predictions": listed(order[: options.top_k]),
        "uncertainty": doubt,
        "effort": effort,
        "members_used": len(used),
        "partial": partial,
    }
    empty_set = False
    if options.coverage is not None:
        limit = None if confidence is None else confidence.set_limit(effort, options.coverage)
        if partial or limit is None:
            result["set_reason"] = _PARTIAL if partial else _NO_SCORES
        else:
            result["set"] = listed(order[in_set(mean, limit)[order]])
            empty_set = not result["set"]
    result["unsure"] = is_unsure(doubt["entropy"], empty_set=empty_set, abstain_above=abstain_above)
    if options.members:
        result["members"] = [
            {"member": member, "label": model.labels[place], "probability": round(float(row[place]), 6)}
            for member, row, place in zip(used, own, own.argmax(axis=1), strict=True)
        ]
    return result
