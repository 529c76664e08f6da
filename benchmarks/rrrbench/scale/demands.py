"""From what was measured of a replica to what the simulation draws: pure functions of the result file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from rrrbench.scale.simulation import Demands, Random

Case = Mapping[str, Any]
# How often `rrr serve` asks a model for a known answer: every 2 s, or so that it costs no more than this share of time.
_PROBE_SECONDS, _PROBE_SHARE = 2.0, 0.005


class Cost(NamedTuple):
    """Milliseconds of a core that a process spends on each request, and on each batch."""

    request: float
    batch: float


_NOTHING = Cost(0.0, 0.0)


class EngineTimes:
    """Draws the time of an engine call; between two measured sizes of batch it is interpolated."""

    def __init__(self, samples_ms: Mapping[str, Sequence[float]], overhead_ms: Cost = _NOTHING) -> None:
        """Args: `samples_ms` are calls by size of batch; `overhead_ms` is what Triton's model process adds."""
        self._sizes = sorted(int(size) for size in samples_ms)
        self._samples = [np.sort(np.asarray(samples_ms[str(size)], float)).tolist() for size in self._sizes]
        self._overhead = overhead_ms

    @property
    def largest(self) -> int:
        """The largest size that was measured."""
        return self._sizes[-1]

    def seconds(self, random: Random, size: int) -> float:
        """One call."""
        return (self.quantile_ms(float(random.random()), size) + self._added_ms(size)) / 1000

    def quantile_ms(self, quantile: float, size: int) -> float:
        """A quantile of the engine's own time for a size from 1 to the largest."""
        above = next(place for place, each in enumerate(self._sizes) if each >= size)
        high = self._at(above, quantile)
        if self._sizes[above] == size:
            return high
        low, start = self._at(above - 1, quantile), self._sizes[above - 1]
        return low + (high - low) * (size - start) / (self._sizes[above] - start)

    def _at(self, place: int, quantile: float) -> float:
        samples = self._samples[place]
        return float(samples[min(int(quantile * len(samples)), len(samples) - 1)])

    def _added_ms(self, size: int) -> float:
        return self._overhead.request * size + self._overhead.batch


def cost_of(runs: Sequence[Case], spent_ms: Sequence[float]) -> Cost:
    """What a process spends by request and by batch, going by two runs or more.

    Args:
        runs: have `requests` and `batches`.
        spent_ms: processor time of the process in each of them.
    """
    counts = [[run["requests"], run["batches"]] for run in runs]
    (request, batch), _ = nnls(np.array(counts, float), np.maximum(np.array(spent_ms, float), 0.0))
    return Cost(float(request), float(batch))


def slowdown_of(engine: Case) -> float:
    """How many times as long a call takes while the other core runs the same engine; 1 at least."""
    ratios = [
        float(np.median(times)) / float(np.median(engine["alone_ms"][size]))
        for size, times in engine["both_ms"].items()
    ]
    return max(1.0, float(np.median(ratios)))


def costs_of(engine: Case, service: Case) -> dict[str, Cost]:
    """What each process of a replica spends, beside the engine; of the model's process, what it adds to the engine."""
    runs = [service["light"], service["loaded"]]
    own = EngineTimes(engine["alone_ms"])
    found = {}
    for part in ("front", "triton", "model"):
        idle = service["idle_cpu_share"][part]
        spent_ms = [1000 * (run["cpu_seconds"][part] - idle * run["seconds"]) for run in runs]
        if part == "model":
            # In the mean over batches: the engine's time is nearly a straight line in the size.
            mean = [run["requests"] / run["batches"] for run in runs]
            low = [own.quantile_ms(0.5, int(size)) for size in mean]
            high = [own.quantile_ms(0.5, min(int(size) + 1, own.largest)) for size in mean]
            each = [a + (b - a) * (size - int(size)) for a, b, size in zip(low, high, mean, strict=True)]
            spent_ms = [ms - time * run["batches"] for ms, time, run in zip(spent_ms, each, runs, strict=True)]
        found[part] = cost_of(runs, spent_ms)
    return found


def demands_of(engine: Case, service: Case, *, client: bool = True) -> Demands:
    """What the simulation draws for one target.

    Args:
        engine: a case of the section `engine`.
        service: a case of the section `service`.
        client: whether the client runs on the same cores; else it takes none of their time.
    """
    costs = costs_of(engine, service)
    light = service["light"]
    images_ms = [decode + resize for decode, resize in zip(light["decode_ms"], light["preprocess_ms"], strict=True)]
    rest_ms = max(0.0, costs["front"].request - float(np.mean(images_ms)))
    # What Triton spends on a batch it spends between two calls of the engine.
    between = Cost(costs["model"].request, costs["model"].batch + costs["triton"].batch)
    times = EngineTimes(engine["alone_ms"], between)
    alone_ms = times.quantile_ms(0.5, 1) + sum(sum(cost) for cost in costs.values())
    client_ms = light["client_cpu_ms"]
    wait_ms = max(0.0, light["p50_ms"] - client_ms - alone_ms)
    return Demands(
        engine=times.seconds,
        front=lambda random: (images_ms[random.integers(len(images_ms))] + rest_ms / 2) / 1000,
        front_after=rest_ms / 2000,
        front_batch=costs["front"].batch / 1000,
        triton=costs["triton"].request / 1000,
        client=client_ms / 1000 if client else 0.0,
        wait=wait_ms / 1000,
        probe_every=max(_PROBE_SECONDS, times.quantile_ms(0.0, 1) / 1000 / _PROBE_SHARE),
        max_batch=times.largest,
    )
