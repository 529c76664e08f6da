"""What the members say as output tensors. Pure functions of arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rrrbuild.confidence.conformal import in_set
from rrrbuild.manifest import EMBEDDING
from rrrbuild.repository_document import ServedModel
from rrrserve.api.answer import Told, answering_effort, ranking, told
from rrrserve.api.v2.question import Question, Wanted
from rrrserve.api.v2.tensors import IN_SET, MEAN, MEMBERS_USED, PROBABILITIES
from rrrserve.triton.client import Inference


class Result(NamedTuple):
    """One output.

    Attributes:
        wanted: as it was asked for.
        datatype: of the protocol.
        array: FP32, INT32 or BOOL; of BYTES an array of objects, each bytes.
    """

    wanted: Wanted
    datatype: str
    array: npt.NDArray[Any]


def results(found: Inference, model: ServedModel, question: Question, effort: str) -> list[Result]:
    """The outputs that were asked for, in that order.

    Args:
        found: what the members say.
        model: which model they are of.
        question: what was asked.
        effort: by which they answered.
    """
    effort = answering_effort(model, effort)
    statuses = [None] * len(found.probabilities) if found.status is None else list(found.status)
    rows = [told(row, status, model, effort) for row, status in zip(found.probabilities, statuses, strict=True)]
    return [_result(wanted, found, rows, model, question, effort) for wanted in question.wanted]


def _result(
    wanted: Wanted, found: Inference, rows: Sequence[Told], model: ServedModel, question: Question, effort: str
) -> Result:
    if wanted.name == PROBABILITIES:
        return Result(wanted, "FP32", found.probabilities)
    if wanted.name == EMBEDDING and found.embedding is not None:
        return Result(wanted, "FP32", found.embedding)
    if wanted.name == MEMBERS_USED:
        return Result(wanted, "INT32", np.array([len(row.used) for row in rows], "<i4"))
    if wanted.name == IN_SET and question.options.coverage is not None:
        return Result(wanted, "BOOL", np.stack([_set(row, model, effort, question.options.coverage) for row in rows]))
    if wanted.name == MEAN and wanted.classes:
        return Result(wanted, "BYTES", np.array([_best(row, model, wanted.classes) for row in rows], object))
    return Result(wanted, "FP32", np.stack([row.mean for row in rows]).astype("<f4"))


def _set(row: Told, model: ServedModel, effort: str, coverage: float) -> npt.NDArray[np.bool_]:
    """Which labels are in an image's set, shape (C,): all where none is promised, so that nothing is ruled out."""
    limit = None if model.confidence is None else model.confidence.set_limit(effort, coverage)
    if limit is None or row.partial:
        return np.ones(len(row.mean), bool)
    return np.asarray(in_set(row.mean, limit))


def _best(row: Told, model: ServedModel, classes: int) -> list[bytes]:
    """The best labels as Triton writes them: probability, number and label."""
    return [
        f"{row.mean[place]:f}:{place}:{model.labels[place]}".encode() for place in ranking(row.plain)[:classes].tolist()
    ]
