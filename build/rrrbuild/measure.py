"""Latency of loaded engines by batch size: warm-up apart, then single calls in turns, median and spread."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from rrrbuild.engine import Runner
from rrrbuild.heldout import generated_images
from rrrnet.images.preprocess import Preprocess

_WARM_UP_RUNS = 3
_MAX_ROUNDS = 25
_MIN_ROUNDS = 3
_COUNTED_CALLS = 2
_SECONDS_PER_SIZE = 2.0


def measure_latency(
    runners: Mapping[str, Runner], preprocess: Preprocess, sizes: Sequence[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds of one call by plan and batch size, from host memory to host memory.

    The plans are called in turns, so that whatever else the machine does meets all of them alike. The first call of a
    turn does not count: the threads of the plan before may still spin, which cost small networks 10 %.

    Args:
        runners: the loaded engine of each plan.
        preprocess: gives the image size.
        sizes: batch sizes.

    Returns:
        By plan and size: `median`, `p25`, `p75`, `p95`, `min` in ms, and `runs`, as many as fit into two seconds a
        plan (6 to 50).
    """
    result: dict[str, dict[str, dict[str, float]]] = {plan: {} for plan in runners}
    for size in sizes:
        images = generated_images(preprocess, size)
        calls = {plan: partial(runner, images) for plan, runner in runners.items()}
        for plan, row in in_turns(calls).items():
            result[plan][str(size)] = row
    return result


def in_turns(calls: Mapping[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """Milliseconds of one call of each, as `summary` tells them; all are called in turns."""
    for call in calls.values():
        for _ in range(_WARM_UP_RUNS):
            call()
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    deadline, rounds = time.perf_counter() + _SECONDS_PER_SIZE * len(calls), 0
    while rounds < _MIN_ROUNDS or (rounds < _MAX_ROUNDS and time.perf_counter() < deadline):
        rounds += 1
        for name, call in calls.items():
            times_ms[name] += one_turn(call)
    return {name: summary(times) for name, times in times_ms.items()}


def one_turn(call: Callable[[], object]) -> list[float]:
    """Milliseconds of some calls in a row, after one that does not count."""
    call()
    times_ms = []
    for _ in range(_COUNTED_CALLS):
        start = time.perf_counter()
        call()
        times_ms.append(1000 * (time.perf_counter() - start))
    return times_ms


def summary(times_ms: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, 95th percentile, minimum and number of some times."""
    low, median, high, tail = np.percentile(times_ms, [25, 50, 75, 95])
    row = {"median": median, "p25": low, "p75": high, "p95": tail, "min": min(times_ms)}
    return {**{key: round(float(value), 4) for key, value in row.items()}, "runs": len(times_ms)}
