"""Latency of loaded engines by batch size: warm-up apart, then single calls in turns, median and spread."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from rrrbuild.engine import Runner
from rrrbuild.heldout import generated_images
from rrrnet.preprocess import Preprocess

_WARM_UP_RUNS = 3
_MAX_RUNS = 50
_MIN_RUNS = 5
_SECONDS_PER_SIZE = 2.0


def measure_latency(
    runners: Mapping[str, Runner], preprocess: Preprocess, sizes: Sequence[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds of one call by plan and batch size, from host memory to host memory.

    The plans are called in turns, so that whatever else the machine does meets all of them alike.

    Args:
        runners: the loaded engine of each plan.
        preprocess: gives the image size.
        sizes: batch sizes.

    Returns:
        By plan and size: `median`, `p25`, `p75`, `p95`, `min` in ms, and `runs`, as many as fit into two seconds a
        plan (5 to 50).
    """
    result: dict[str, dict[str, dict[str, float]]] = {plan: {} for plan in runners}
    for size in sizes:
        images = generated_images(preprocess, size)
        for runner in runners.values():
            for _ in range(_WARM_UP_RUNS):
                runner(images)
        times_ms: dict[str, list[float]] = {plan: [] for plan in runners}
        deadline, rounds = time.perf_counter() + _SECONDS_PER_SIZE * len(runners), 0
        while rounds < _MIN_RUNS or (rounds < _MAX_RUNS and time.perf_counter() < deadline):
            rounds += 1
            for plan, runner in runners.items():
                start = time.perf_counter()
                runner(images)
                times_ms[plan].append(1000 * (time.perf_counter() - start))
        for plan, times in times_ms.items():
            result[plan][str(size)] = summary(times)
    return result


def summary(times_ms: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, 95th percentile, minimum and number of some times."""
    low, median, high, tail = np.percentile(times_ms, [25, 50, 75, 95])
    row = {"median": median, "p25": low, "p75": high, "p95": tail, "min": min(times_ms)}
    return {**{key: round(float(value), 4) for key, value in row.items()}, "runs": len(times_ms)}
