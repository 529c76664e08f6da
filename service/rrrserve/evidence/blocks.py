"""Blocks: what a model's counters gained in stretches of time, and the same stretches of another model beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rrrserve.claims.claims_file import nearest
from rrrserve.claims.levels import EXECUTIONS, LEVELS, ROWS, Level
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.continuity import check_engine, check_span
from rrrserve.evidence.readings import Reading, increase

Array = npt.NDArray[np.float64]
_LEFT_OUT = ("counter_reset", "target_down", "engine_changed")


@dataclass(frozen=True)
class Blocks:
    """B stretches of time of one model.

    Attributes:
        seconds: length of each, shape (B,).
        counts: requests that ended in each, shape (B,).
        totals_seconds: sum of their durations, shape (B,).
        bounds_seconds: upper bounds of K buckets, ascending, the last infinite; shape (K,), or (0,) without buckets.
        buckets: requests in each bucket alone, shape (B, K).
    """

    seconds: Array
    counts: Array
    totals_seconds: Array
    bounds_seconds: Array
    buckets: Array


class Span(NamedTuple):
    """The readings at the ends of a stretch of time, and its length."""

    before: Reading
    after: Reading
    seconds: float


def blocks_of(spans: Sequence[Span], model: str, level_name: str, *, allow_resets: bool = False) -> tuple[Blocks, int]:
    """A model's blocks.

    Args:
        spans: the stretches of time.
        model: whose.
        level_name: a key of `LEVELS`.
        allow_resets: give an empty block where a counter was reset, a target was down, or the engines were changed and
            changed back, rather than refuse.

    Returns:
        The blocks, and how many of them were emptied.

    Raises:
        UndecidableError: the metric or model is missing, the service was down, a counter was reset or is NaN, the
            engines were changed.
    """
    level = LEVELS[level_name]
    present(spans, model, level)
    check_engine([reading for span in spans for reading in (span.before, span.after)], model)
    bounds = _bounds(spans, model, level)
    rows, dropped = [], 0
    for span in spans:
        try:
            check_span(span.before, span.after, model, level)
            rows.append(_row(span, model, level, bounds))
        except UndecidableError as error:
            if not (allow_resets and error.reason in _LEFT_OUT):
                raise
            dropped += 1
            rows.append((0.0, 0.0, np.zeros(len(bounds))))
    counts = np.array([row[0] for row in rows])
    if level_name == "engine":
        _check_engine(spans, model, float(counts.sum()))
    found = Blocks(
        np.array([span.seconds for span in spans]),
        counts,
        np.array([row[1] for row in rows]),
        bounds,
        np.array([row[2] for row in rows]).reshape(len(rows), len(bounds)),
    )
    return found, dropped


def present(spans: Sequence[Span], model: str, level: Level) -> None:
    """Check that the model's counter is there.

    Raises:
        UndecidableError: it is not: the target is down, the metric has another name, or the model has.
    """
    if not spans:
        raise UndecidableError("too_few_blocks", "the metrics were read less than twice")
    readings = [spans[0].before, *(span.after for span in spans)]
    if any(_has(reading, level, model) for reading in readings):
        return
    if down := {instance: reason for reading in readings for instance, reason in reading.down.items()}:
        raise UndecidableError("target_down", "; ".join(f"{instance}: {reason}" for instance, reason in down.items()))
    seen = {name for reading in readings for name in reading.names}
    if level.count not in seen:
        shown = ", ".join(sorted(name for name in seen if name.endswith(("_count", "_success")))[:8]) or "none of ours"
        hint = nearest(level.count, seen)
        raise UndecidableError(
            "metric_missing", f"there is no metric {level.count}; metrics seen: {shown}.{hint} Is this an rrr service?"
        )
    models = {labels.get("model", "") for reading in readings for labels, _ in reading.select(level.count, {})}
    if model in models:  # it answered, but no request of the kind that counts
        raise no_traffic(model, level)
    shown = ", ".join(sorted(filter(None, models))) or "none yet"
    raise UndecidableError(
        "unknown_model",
        f"{level.count} has no model {model!r}; models seen: {shown}.{nearest(model, models)} "
        "A model appears with its first request: --drive sends some",
    )


def no_traffic(model: str, level: Level) -> UndecidableError:
    """Nothing was counted."""
    return UndecidableError(
        "no_traffic", f"{level.count} of {model} did not grow: no request was answered meanwhile; --drive sends some"
    )


def _has(reading: Reading, level: Level, model: str) -> bool:
    return any(labels.get("model") == model for labels, _ in reading.select(level.count, level.matchers))


def _bounds(spans: Sequence[Span], model: str, level: Level) -> Array:
    """Upper bounds of the buckets, of all readings: a restart meanwhile may have changed them."""
    words = {
        labels.get("le", "")
        for reading in (spans[0].before, *(span.after for span in spans))
        for labels, _ in reading.select(level.bucket, level.matchers)
        if labels.get("model") == model
    }
    return np.array(sorted({_upper_bound(word, level, model) for word in words}))


def _upper_bound(word: str, level: Level, model: str) -> float:
    try:
        bound = float(word)
    except ValueError:
        bound = math.nan
    if not bound > 0:  # nor is NaN
        seen = f"a bucket with le={word!r}" if word else "a bucket without le"
        raise UndecidableError("bad_metrics", f"{level.bucket} of {model} has {seen}: it must be a number above 0")
    return bound


def _row(span: Span, model: str, level: Level, bounds: Array) -> tuple[float, float, Array]:
    """Count, seconds and buckets, over all series of a model (routes, targets, instances)."""
    count = _added(span, level.count, model, level.matchers)
    total = _added(span, level.total, model, level.matchers) * level.unit_seconds
    cumulative = np.zeros(len(bounds))
    for labels, amount in _increases(span, level.bucket, model, level.matchers):
        cumulative[np.searchsorted(bounds, float(labels["le"]))] += amount
    alone = np.diff(cumulative, prepend=0.0)
    # A scrape that is answered while requests end may catch a bucket before its count; 1 % is no such race.
    if (alone < -0.01 * max(count, 100.0)).any():
        raise UndecidableError("bad_metrics", f"the buckets of {level.bucket} for {model} do not ascend")
    return count, total, alone.clip(min=0.0)


def _added(span: Span, name: str, model: str, matchers: Mapping[str, str]) -> float:
    return sum(amount for _, amount in _increases(span, name, model, matchers))


def _increases(span: Span, name: str, model: str, matchers: Mapping[str, str]) -> list[tuple[dict[str, str], float]]:
    found = {
        series: labels
        for reading in (span.before, span.after)
        for labels, series in reading.select(name, matchers)
        if labels.get("model") == model
    }
    return [(labels, increase(span.before, span.after, series)) for series, labels in found.items()]


def _check_engine(spans: Sequence[Span], model: str, requests: float) -> None:
    """Refuse Triton's counters where they do not mean an engine's time.

    Raises:
        UndecidableError: an ensemble, or several rows or requests shared an execution.
    """
    steps = {labels.get("model", "") for labels, _ in spans[-1].after.select(ROWS, {})}
    if f"{model}-combine" in steps:
        raise UndecidableError(
            "untrusted_metric",
            f"{model} is a Triton ensemble: its compute time is the sum over its steps, even over those that ran at "
            "the same time; use level triton",
        )
    rows, executions = (sum(_added(span, name, model, {}) for span in spans) for name in (ROWS, EXECUTIONS))
    if not rows == executions == requests:
        raise UndecidableError(
            "untrusted_metric",
            f"Triton ran {rows:g} images of {requests:g} requests of {model} in {executions:g} batches, and counts a "
            "batch's whole time once for each request in it; use level triton, or send one request at a time",
        )
