"""From what was measured of a replica to what the simulation draws: pure functions of the result file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from rrrbench.scale.simulation import COLD_AFTER_SECONDS, Demands, Random

Case = Mapping[str, Any]
Rounds = Sequence[tuple[Case, Case]]  # engine and service
_LEAST_BETWEEN_MS = 0.05  # where one run cannot tell it from nothing
PARTS = ("front", "triton", "model")  # of a replica


class Cost(NamedTuple):
    """Milliseconds of a core that a process spends on each request, and on each batch."""

    request: float
    batch: float


class Overlap(NamedTuple):
    """Milliseconds that a replica takes longer where a request comes while it is at another, whose caches it disturbs.

    Attributes:
        request: of its front and its Triton, for that request.
        batch: of its engine, for the batch that was disturbed.
    """

    request: float
    batch: float


NO_OVERLAP = Overlap(0.0, 0.0)


class EngineTimes:
    """Draws the time of an engine call; between two measured sizes of batch it is interpolated.

    Args:
        samples_ms: calls by size of batch.
        overhead_ms: what Triton's model process adds for each image.
        spread: how many times its median a call takes in the service, where others use the caches; drawn for each.
    """

    def __init__(
        self,
        samples_ms: Mapping[str, Sequence[float]],
        overhead_ms: float = 0.0,
        spread: Sequence[float] = (1.0,),
    ) -> None:
        self._sizes = sorted(int(size) for size in samples_ms)
        self._samples = [np.sort(np.asarray(samples_ms[str(size)], float)).tolist() for size in self._sizes]
        self._overhead_ms, self._spread = overhead_ms, list(spread)

    @property
    def largest(self) -> int:
        """The largest size that was measured."""
        return self._sizes[-1]

    def seconds(self, random: Random, size: int) -> float:
        """One call."""
        times = self._spread[int(random.integers(len(self._spread)))]
        return times * (self.quantile_ms(0.5, size) + self._overhead_ms * size) / 1000

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


def pace_of(service: Case, run: Case) -> float:
    """How many times as long one client's inferences took around a run as around the one with one client."""
    return float(np.median(run["one_client_ms"]) / np.median(service["light"]["one_client_ms"]))


def spread_of(run: Case) -> list[float]:
    """How many times its median an inference took when one client asked, before and after a run.

    It has the machine's hiccups, and the looks at the model by which the service watches it (one each 2 s).
    """
    times_ms = np.asarray(run["one_client_ms"], float)
    return [float(each) for each in times_ms / np.median(times_ms)]


def overlap_of(engine: Case, service: Case) -> Overlap:
    """What two clients cost more than one: each asks while the other's image is in the engine."""
    light, pair = service["light"], service["pair"]

    def more_ms(part: str, count: str) -> float:
        alone, together = (spent_ms(engine, service, part, run) / float(run[count]) for run in (light, pair))
        return together - alone

    front_ms = more_ms("front", "requests") + more_ms("triton", "requests")
    return Overlap(max(0.0, front_ms), max(0.0, more_ms("model", "batches")))


def costs_of(engine: Case, service: Case, overlap: Overlap = NO_OVERLAP) -> dict[str, Cost]:
    """What each process of a replica spends, beside the engine; of the model's process, what it adds to the engine.

    What is due to the overlap is left out: of the front and its Triton all in that of the front.
    """
    light, loaded = service["light"], service["loaded"]
    overlapped = {"front": overlap.request * loaded["requests"], "model": overlap.batch * loaded["batches"]}
    return {
        part: cost_of(
            [light, loaded],
            [
                spent_ms(engine, service, part, light),
                spent_ms(engine, service, part, loaded) - overlapped.get(part, 0.0),
            ],
        )
        for part in PARTS
    }


def spent_ms(engine: Case, service: Case, part: str, run: Case) -> float:
    """Processor time of a part in a run, less what it takes when nobody asks, and less the engine's calls."""
    idle_seconds = service["idle_cpu_share"][part] * run["seconds"]
    spent: float = 1000 * (run["cpu_seconds"][part] - idle_seconds) / pace_of(service, run)
    if part != "model":
        return spent
    # In the mean over batches: the engine's time is nearly a straight line in the size.
    own, mean = EngineTimes(engine["alone_ms"]), run["requests"] / run["batches"]
    low, high = (own.quantile_ms(0.5, min(int(mean) + more, own.largest)) for more in (0, 1))
    calls: float = run["batches"] * (low + (high - low) * (mean - int(mean)))
    return spent - calls


def cold_of(
    engine: Case, service: Case, costs: Mapping[str, Cost], overlap: Overlap = NO_OVERLAP
) -> tuple[float, float, float]:
    """Milliseconds that a request costs more where its replica has long had nothing to do: client, front, engine.

    Source: the run with few requests at random times, beside what requests cost that follow each other. A share
    (1 - utilisation) of Poisson arrivals finds the replica idle, for a time of exponential distribution; the mean of
    1 - exp(-idle / time) is then 1 / (1 + rate x time). The others overlap.
    """
    run = service["calm"]
    rate = run["requests"] / run["seconds"]
    busy = min(0.9, rate * run["p50_ms"] / 1000)
    found = (1 - busy) / (1 + rate * COLD_AFTER_SECONDS)
    more_ms = {
        part: spent_ms(engine, service, part, run) - cost.request * run["requests"] - cost.batch * run["batches"]
        for part, cost in costs.items()
    }
    client_ms = (run["client_cpu_ms"] / pace_of(service, run) - service["light"]["client_cpu_ms"]) * run["requests"]
    front_ms = more_ms["front"] + more_ms["triton"] - busy * run["requests"] * overlap.request
    each = (client_ms, front_ms, more_ms["model"] - busy * run["requests"] * overlap.batch)
    client, front, model = (max(0.0, ms) / (found * run["requests"]) for ms in each)
    return client, front, model


def demands_of(
    engine: Case, service: Case, rounds: Rounds | None = None, around: Case | None = None, *, client: bool = True
) -> Demands:
    """What the simulation draws for one target.

    Args:
        engine: a case of the section `engine`.
        service: a case of the section `service`.
        rounds: engine and service of all rounds: overlap and cold starts are of all together, since one round has too
            few of them. None: only those given.
        around: a run with `one_client_ms`, which pace and spread are those of; None: that of one client.
        client: whether the client runs on the same cores; else it takes none of their time.
    """
    rounds = rounds or [(engine, service)]
    overlap = Overlap(*np.mean([overlap_of(*each) for each in rounds], axis=0))
    costs = costs_of(engine, service, overlap)
    light = service["light"]
    around = around or light
    images_ms = [decode + resize for decode, resize in zip(light["decode_ms"], light["preprocess_ms"], strict=True)]
    rest_ms = max(0.0, costs["front"].request - float(np.mean(images_ms)))
    between_ms = max(_LEAST_BETWEEN_MS, costs["model"].batch + costs["triton"].batch)
    times = EngineTimes(engine["alone_ms"], costs["model"].request, spread_of(around))
    cold_ms = np.mean([cold_of(*each, costs_of(*each, overlap), overlap) for each in rounds], axis=0)
    alone_ms = times.quantile_ms(0.5, 1) + sum(sum(cost) for cost in costs.values())
    client_ms = light["client_cpu_ms"]
    wait_ms = max(0.0, light["p50_ms"] - client_ms - alone_ms)
    return Demands(
        engine=times.seconds,
        front=lambda random: (images_ms[random.integers(len(images_ms))] + rest_ms / 2) / 1000,
        front_after=rest_ms / 2000,
        front_batch=costs["front"].batch / 1000,
        triton=costs["triton"].request / 1000,
        between=between_ms / 1000,
        client=client_ms / 1000 if client else 0.0,
        wait=wait_ms / 1000,
        cold_client=float(cold_ms[0]) / 1000 if client else 0.0,
        cold_front=float(cold_ms[1]) / 1000,
        cold_engine=float(cold_ms[2]) / 1000,
        overlap_front=overlap.request / 1000,
        overlap_engine=overlap.batch / 1000,
        max_batch=times.largest,
    ).at_pace(pace_of(service, around))
