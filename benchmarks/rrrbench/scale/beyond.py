"""What the simulation says: beside what was measured here, and of loads that no machine here can bear.

All of it is computed from the result file; nothing is measured.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rrrbench.scale.demands import demands_of, slowdown_of
from rrrbench.scale.load import Load
from rrrbench.scale.measure import load_of
from rrrbench.scale.replicas import TOPOLOGIES
from rrrbench.scale.simulation import BALANCERS, Demands, Outcome, Simulation, Topology
from rrrbench.turns import Interval, ratio

Case = Mapping[str, Any]
REPEATS = 5  # of each simulated load, with other draws
MEASURES = ("throughput", "p50_ms", "p99_ms")
SATURATING_CLIENTS = 64
_SEARCH_STEPS = 8
REQUESTS = 10_000  # of each trial: 100 of them are beyond p99
_TOGETHER = 8  # replicas behind one balancer, where balancers are compared


def simulate(topology: Topology, demands: Demands, load: Load, *, seed: int, balancer: str = "round robin") -> Outcome:
    """One run."""
    simulation = Simulation(topology, demands, seed=seed, balancer=balancer)
    if load.clients is not None:
        return simulation.closed(load.clients, load.requests)
    return simulation.opened(load.due_seconds().tolist())


def simulated_row(name: str, row: Case, demands: Demands, slowdown: float) -> dict[str, Any]:
    """What the simulation gives for a measured row of a topology; percentiles are means over the repeats.

    A percentile of few requests is not that of many: each repeat has as many as were measured.
    """
    shape = TOPOLOGIES[name]
    topology = Topology(shape.fronts, shape.tritons, shape.cores, slowdown)
    runs = [simulate(topology, demands, load_of(row), seed=seed) for seed in range(REPEATS)]
    batches = sum((run.batches for run in runs[1:]), runs[0].batches.copy())
    return {
        "throughput": float(np.mean([run.throughput for run in runs])),
        **{f"p{each}_ms": float(np.mean([run.percentile_ms(each) for run in runs])) for each in (50, 99)},
        "mean_batch": sum(size * count for size, count in batches.items()) / batches.total(),
    }


def one_of_many(slowdown: float, replicas: int = 1) -> Topology:
    """So many replicas on a core each, of machines whose other cores are busy too; the clients are elsewhere."""
    places = range(replicas)
    return Topology(tuple(places), tuple((place,) for place in places), replicas, slowdown)


def capacity(demands: Demands, slowdown: float) -> float:
    """Answers a second of one replica that always has something to do."""
    return simulate(one_of_many(slowdown), demands, Load(4000, np.inf, clients=SATURATING_CLIENTS), seed=0).throughput


class Borne(NamedTuple):
    """What one replica bears: images a second, and how many requests are then under way there on average."""

    rate: float
    under_way: float


def highest_rate(
    demands: Demands,
    slowdown: float,
    p99_ms: float,
    most: float,
    *,
    requests: int,
    replicas: int = 1,
    balancer: str = "random",
) -> Borne:
    """The highest rate for each replica at which p99 keeps a goal; 0 if none does.

    Arrivals are Poisson: a random share of very many users. The search halves an interval, with the same draws.

    Args:
        demands: of a replica, and
        slowdown: of its machine.
        p99_ms: the goal.
        most: what a replica can do: `capacity`.
        requests: of each simulated load.
        replicas: behind one balancer.
        balancer: one of `BALANCERS`.
    """
    topology = one_of_many(slowdown, replicas)
    low, high, under_way = 0.0, 1.0, 0.0
    for _ in range(_SEARCH_STEPS):
        share = (low + high) / 2
        load = Load(requests, np.inf, rate_per_second=share * most * replicas)
        outcome = simulate(topology, demands, load, seed=0, balancer=balancer)
        if outcome.percentile_ms(99) <= p99_ms:
            low, under_way = share, share * most * float(np.mean(outcome.latencies))  # Little's law
        else:
            high = share
    return Borne(low * most, under_way)


def beyond(engine: Case, service: Case, goals_ms: Sequence[float], *, balancers: bool, requests: int) -> dict[str, Any]:
    """What one replica of a target can do at each goal; with `balancers`, also what each of these makes of several."""
    demands, slowdown = demands_of(engine, service, client=False), slowdown_of(engine)
    most = capacity(demands, slowdown)
    rate = partial(highest_rate, demands, slowdown, most=most, requests=requests)
    found: dict[str, Any] = {
        "capacity": most,
        "slowdown": slowdown,
        "goals": [{"p99_ms": goal, **rate(goal)._asdict()} for goal in goals_ms],
    }
    if balancers:
        rates = {name: rate(goals_ms[0], replicas=_TOGETHER, balancer=name).rate for name in BALANCERS}
        found |= {"balancers": rates, "together": _TOGETHER}
    return found


def replicas_for(images_per_second: float, rate: float) -> int | None:
    """Replicas for a load; None where one bears nothing."""
    return math.ceil(images_per_second / rate) if rate > 0 else None


def head_room(seconds: float, doubling_seconds: float) -> float:
    """How many times the present load the replicas must bear that run now, if the load doubles in so long.

    Args:
        seconds: from the growth of the load to the first answer of a new replica.
        doubling_seconds: in which the load doubles.
    """
    return float(2 ** (seconds / doubling_seconds))


def off(measured: Sequence[float], simulated: Sequence[float]) -> Interval:
    """By which share the simulation is off, of the median round: 0.1 is 10 % too high; with its interval."""
    found = ratio(simulated, measured)
    return Interval(*(each - 1 for each in found))
