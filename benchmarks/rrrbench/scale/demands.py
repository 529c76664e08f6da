"""From what was measured of a replica to what the simulation draws: pure functions of the result file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from rrrbench.scale.simulation import COLD_AFTER_SECONDS, Demands, Random

Case = Mapping[str, Any]
Rounds = Sequence[tuple[Case, Case]]  # engine and service
# How often `rrr serve` asks a model for a known answer: every 2 s, or so that it costs no more than this share of time.
_PROBE_SECONDS, _PROBE_SHARE = 2.0, 0.005
_LONGEST_SPREAD = 1.5
PARTS = ("front", "triton", "model")  # of a replica


class Cost(NamedTuple):
    """Milliseconds of a core that a process spends on each request, and on each batch."""

    request: float
    batch: float


_NOTHING = Cost(0.0, 0.0)


class EngineTimes:
    """Draws the time of an engine call; between two measured sizes of batch it is interpolated.

    Args:
        samples_ms: calls by size of batch.
        overhead_ms: what Triton's model process adds.
        spread: how many times its median a call takes in the service, where others use the caches; drawn for each.
    """

    def __init__(
        self,
        samples_ms: Mapping[str, Sequence[float]],
        overhead_ms: Cost = _NOTHING,
        spread: Sequence[float] = (1.0,),
    ) -> None:
        self._sizes = sorted(int(size) for size in samples_ms)
        self._samples = [np.sort(np.asarray(samples_ms[str(size)], float)).tolist() for size in self._sizes]
        self._overhead, self._spread = overhead_ms, list(spread)

    @property
    def largest(self) -> int:
        """The largest size that was measured."""
        return self._sizes[-1]

    def seconds(self, random: Random, size: int) -> float:
        """One call."""
        times = self._spread[int(random.integers(len(self._spread)))]
        return times * (self.quantile_ms(0.5, size) + self._added_ms(size)) / 1000

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
    return {part: cost_of(runs, [spent_ms(engine, service, part, run) for run in runs]) for part in PARTS}


def spent_ms(engine: Case, service: Case, part: str, run: Case) -> float:
    """Processor time of a part in a run, less what it takes when nobody asks, and less the engine's calls."""
    spent: float = 1000 * (run["cpu_seconds"][part] - service["idle_cpu_share"][part] * run["seconds"])
    if part != "model":
        return spent
    # In the mean over batches: the engine's time is nearly a straight line in the size.
    own, mean = EngineTimes(engine["alone_ms"]), run["requests"] / run["batches"]
    low, high = (own.quantile_ms(0.5, min(int(mean) + more, own.largest)) for more in (0, 1))
    calls: float = run["batches"] * (low + (high - low) * (mean - int(mean)))
    return spent - calls


def cold_of(engine: Case, service: Case, costs: Mapping[str, Cost]) -> tuple[float, float, float]:
    """Milliseconds that a request costs more where its replica has long had nothing to do: client, front, engine.

    Source: the run with few requests at random times, beside what requests cost that follow each other. A share
    (1 - utilisation) of Poisson arrivals finds the replica idle, for a time of exponential distribution; the mean of
    1 - exp(-idle / time) is then 1 / (1 + rate x time).
    """
    run = service["calm"]
    rate = run["requests"] / run["seconds"]
    found = (1 - min(0.9, rate * run["p50_ms"] / 1000)) / (1 + rate * COLD_AFTER_SECONDS)
    more_ms = {
        part: spent_ms(engine, service, part, run) - cost.request * run["requests"] - cost.batch * run["batches"]
        for part, cost in costs.items()
    }
    client_ms = (run["client_cpu_ms"] - service["light"]["client_cpu_ms"]) * run["requests"]
    each = (client_ms, more_ms["front"] + more_ms["triton"], more_ms["model"])
    client, front, model = (max(0.0, ms) / (found * run["requests"]) for ms in each)
    return client, front, model


def pace_of(service: Case, row: Case) -> float:
    """How many times as long everything took around a load as in the run that tells what a request costs."""
    return float(np.mean(row["pace_ms"]) / np.median(service["light"]["inference_ms"]))


def spread_of(service: Case) -> list[float]:
    """How many times its median an inference took when one client asked.

    Those beyond half as long again waited for a look at the model, which the simulation has on its own account.
    """
    times_ms = np.asarray(service["light"]["inference_ms"], float)
    found = times_ms / np.median(times_ms)
    return [float(each) for each in found[found <= _LONGEST_SPREAD]]


def demands_of(engine: Case, service: Case, rounds: Rounds | None = None, *, client: bool = True) -> Demands:
    """What the simulation draws for one target.

    Args:
        engine: a case of the section `engine`.
        service: a case of the section `service`.
        rounds: engine and service of all rounds: spread and cold starts are of all together, since one round has too
            few of them. None: only those given.
        client: whether the client runs on the same cores; else it takes none of their time.
    """
    costs = costs_of(engine, service)
    light = service["light"]
    images_ms = [decode + resize for decode, resize in zip(light["decode_ms"], light["preprocess_ms"], strict=True)]
    rest_ms = max(0.0, costs["front"].request - float(np.mean(images_ms)))
    # What Triton spends on a batch it spends between two calls of the engine.
    between = Cost(costs["model"].request, costs["model"].batch + costs["triton"].batch)
    rounds = rounds or [(engine, service)]
    times = EngineTimes(engine["alone_ms"], between, [each for _, other in rounds for each in spread_of(other)])
    cold_ms = np.mean([cold_of(*each, costs_of(*each)) for each in rounds], axis=0)
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
        cold_client=float(cold_ms[0]) / 1000 if client else 0.0,
        cold_front=float(cold_ms[1]) / 1000,
        cold_engine=float(cold_ms[2]) / 1000,
        probe_every=max(_PROBE_SECONDS, times.quantile_ms(0.0, 1) / 1000 / _PROBE_SHARE),
        max_batch=times.largest,
    )
