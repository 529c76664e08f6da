"""Figures of a turn, and of several together, from HDR histograms: three digits from a microsecond to an hour."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from rrrserve.bench.loops import NOT_SENT, Recorder

_LONGEST_MICROSECONDS = 3_600_000_000
_DIGITS = 3
_PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}


def histogram_of(latencies_seconds: Sequence[float]) -> HdrHistogram:
    """The latencies in whole microseconds, at least 1, at most an hour."""
    histogram = HdrHistogram(1, _LONGEST_MICROSECONDS, _DIGITS)
    microseconds = np.rint(np.asarray(latencies_seconds, dtype=np.float64) * 1e6)
    values, counts = np.unique(microseconds.clip(1, _LONGEST_MICROSECONDS).astype(np.int64), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def merged(texts: Iterable[str]) -> HdrHistogram:
    """One histogram, in microseconds, of those that a result's rounds hold as text."""
    histogram = HdrHistogram(1, _LONGEST_MICROSECONDS, _DIGITS)
    for text in texts:
        histogram.decode_and_add(text)
    return histogram


@dataclass(frozen=True)
class Turn:
    """One turn of one subject at one load, over. See `Recorder`.

    Attributes:
        histogram: of the answered requests' latencies.
        sum_ms: of the latencies.
        max_ms: the longest; 0 if there is none.
        late_ms: of each request of an open loop.
        errors: by kind.
        wall_seconds: how long it took.
        started_seconds: when it began, from the start of the bench.
    """

    histogram: HdrHistogram
    sum_ms: float
    max_ms: float
    late_ms: tuple[float, ...]
    errors: dict[str, int]
    wall_seconds: float
    started_seconds: float

    @property
    def ok(self) -> int:
        """Number of answered requests."""
        return int(self.histogram.get_total_count())


def finished(recorder: Recorder, started_seconds: float) -> Turn:
    """What a recorder holds, as a turn."""
    latencies = recorder.latencies_seconds
    return Turn(
        histogram_of(latencies),
        1000 * float(sum(latencies)),
        1000 * max(latencies, default=0.0),
        tuple(1000 * late for late in recorder.late_seconds),
        dict(sorted(recorder.errors.items())),
        recorder.wall_seconds,
        started_seconds,
    )


def figures(turns: Sequence[Turn]) -> dict[str, Any]:
    """Figures of turns together, JSON-ready; what needs an answer is None where there was none.

    Percentiles are those of all requests in one histogram, not means of the turns' percentiles.
    """
    histogram = HdrHistogram(1, _LONGEST_MICROSECONDS, _DIGITS)
    errors: Counter[str] = Counter()
    for turn in turns:
        histogram.add(turn.histogram)
        errors.update(turn.errors)
    ok = int(histogram.get_total_count())
    wall_seconds = sum(turn.wall_seconds for turn in turns)
    max_ms = max((turn.max_ms for turn in turns), default=0.0)
    found = histogram.get_percentile_to_value_dict(list(_PERCENTILES.values())) if ok else {}
    result: dict[str, Any] = {
        "ok": ok,
        "errors": dict(errors),
        "wall_seconds": _short(wall_seconds),
        "throughput": _short(ok / wall_seconds if wall_seconds else 0.0),
        "mean_ms": _short(sum(turn.sum_ms for turn in turns) / ok) if ok else None,
    }
    for name, percent in _PERCENTILES.items():  # a histogram's value is the upper end of its cell
        result[name] = _short(min(found[percent] / 1000, max_ms)) if ok else None
    result["max_ms"] = _short(max_ms) if ok else None
    late_ms = [late for turn in turns for late in turn.late_ms]
    if late_ms:
        result["late_p99_ms"] = _short(float(np.percentile(late_ms, 99)))
        result["late_max_ms"] = _short(max(late_ms))
        result["not_sent"] = errors[NOT_SENT]
    return result


def round_to_json(turn: Turn) -> dict[str, Any]:
    """Figures of one turn, when it began, and its histogram."""
    return {
        **figures([turn]),
        "started_seconds": _short(turn.started_seconds),
        "histogram": turn.histogram.encode().decode("ascii"),
    }


def load_text(run: Mapping[str, Any]) -> str:
    """What was sent in a run."""
    return f"{run['concurrency']} at once" if run["mode"] == "closed" else f"{run['rate_per_second']:g}/s"


def told(errors: dict[str, int]) -> str:
    """Errors in words; empty if there are none."""
    return ", ".join(f"{count} x {kind}" for kind, count in errors.items())


def _short(value: float) -> float:
    """Six digits: more is noise."""
    return float(f"{value:.6g}")
