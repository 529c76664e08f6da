"""Calls timed in turns, and medians with intervals. Whatever else the machine does meets all that is compared alike."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

MIN_ROUNDS = 5
WARM_UP_CALLS = 3
_RESAMPLES = 2000
# Another runtime's threads may still spin, and the caches hold its weights: short calls begin after an untimed one.
_SETTLE_BELOW_SECONDS = 0.1
_LONG_SECONDS = 1.0  # a call so long is warm after one


class Interval(NamedTuple):
    """A median and the limits of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2, unit: str = "") -> str:
        """Like "6.41x (6.35 to 6.47)"."""
        return f"{self.value:.{digits}f}{unit} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def median_interval(values: Sequence[float]) -> Interval:
    """The median of one number per round, with its 95 % percentile-bootstrap interval; the same on every run."""
    found = np.asarray(values, dtype=float)
    resampled = np.median(np.random.default_rng(0).choice(found, (_RESAMPLES, len(found))), axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(np.median(found)), float(low), float(high))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Median of the ratios of two things that took turns, paired by round.

    Raises:
        ValueError: not the same number of rounds.
    """
    return median_interval([above / below for above, below in zip(numerators, denominators, strict=True)])


def share_of_peak(gflop: float, times_ms: Sequence[float], peak_gflops: Sequence[float]) -> Interval:
    """Share of a peak rate that was measured in the same rounds.

    Args:
        gflop: work of one call: two for each multiply-accumulate.
        times_ms: time of one call in each round.
        peak_gflops: the peak in each round, in 10^9 operations a second.
    """
    pairs = zip(times_ms, peak_gflops, strict=True)
    return median_interval([gflop / (time_ms / 1000) / peak for time_ms, peak in pairs])


def take_turns(
    calls: Mapping[str, Callable[[], object]], *, seconds: float, max_rounds: int = 25, turn_seconds: float = 0.05
) -> dict[str, list[float]]:
    """Time calls in rounds of one turn each; the order rotates from round to round.

    Args:
        calls: what to time, by name.
        seconds: time to spend after warm-up; there are at least `MIN_ROUNDS` rounds however long that takes.
        max_rounds: most rounds.
        turn_seconds: a turn repeats its call for so long, at least once; its time is the median of them.

    Returns:
        Milliseconds of one call, by name and round.
    """
    names = list(calls)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    longest = dict.fromkeys(names, 0.0)
    for name in names:
        for _ in range(WARM_UP_CALLS):
            longest[name] = _timed(calls[name])
            if longest[name] > _LONG_SECONDS:
                break
    deadline, rounds = time.perf_counter() + seconds, 0
    while rounds < MIN_ROUNDS or (rounds < max_rounds and time.perf_counter() < deadline):
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            if longest[name] < _SETTLE_BELOW_SECONDS:
                calls[name]()
            repeats = max(1, math.ceil(turn_seconds / max(longest[name], 1e-6)))
            times_ms[name].append(1000 * float(np.median([_timed(calls[name]) for _ in range(min(repeats, 200))])))
        rounds += 1
    return times_ms


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
