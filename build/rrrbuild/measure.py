"""Latency of a loaded engine by batch size: warm-up apart, then single calls, median and spread."""

import time
from collections.abc import Sequence

import numpy as np

from rrrbuild.engine import Runner
from rrrbuild.heldout import generated_images
from rrrnet.preprocess import Preprocess

_WARM_UP_RUNS = 3
_MAX_RUNS = 50
_MIN_RUNS = 5
_SECONDS_PER_SIZE = 2.0


def measure_latency(runner: Runner, preprocess: Preprocess, sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    """Milliseconds of one call by batch size, from host memory to host memory.

    Args:
        runner: the engine.
        preprocess: gives the image size.
        sizes: batch sizes.

    Returns:
        By size: `median`, `p25`, `p75`, `p95`, `min` in ms, and `runs`, as many as fit into two seconds (5 to 50).
    """
    result = {}
    for size in sizes:
        images = generated_images(preprocess, size)
        for _ in range(_WARM_UP_RUNS):
            runner(images)
        times_ms: list[float] = []
        deadline = time.perf_counter() + _SECONDS_PER_SIZE
        while len(times_ms) < _MIN_RUNS or (len(times_ms) < _MAX_RUNS and time.perf_counter() < deadline):
            start = time.perf_counter()
            runner(images)
            times_ms.append(1000 * (time.perf_counter() - start))
        low, median, high, tail = np.percentile(times_ms, [25, 50, 75, 95])
        row = {"median": median, "p25": low, "p75": high, "p95": tail, "min": min(times_ms)}
        result[str(size)] = {**{key: round(float(value), 4) for key, value in row.items()}, "runs": len(times_ms)}
    return result
