"""Clients, a balancer, replicas and Triton's batches on shared cores, event by event (simpy); nothing is measured here.

A request takes time of the client, then of its replica's front (one thread, as a worker of `rrr serve` has: read,
decode, preprocess, send), then of Triton, waits until the engine is free, runs in a batch with all that waited as
long (up to the largest batch, and never waiting for companions, as `rrr repository` configures it), and goes back
through front and client.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import simpy

from rrrbench.scale.machine import Core, Machine, Thread

# Linux lets a thread that mostly sleeps run before one that computes on and on, whatever their nice values (EEVDF): of
# bursts of 1 ms beside an endless loop at nice 5 nine in ten were not interrupted, neither at nice 0 nor at 5 (6.18).
BURST_WEIGHT, ENGINE_WEIGHT = 1e6, 1.0
# Triton's own turn between two batches, too short for either, comes before or after the bursts that wait: who is first
# is chance, and what comes in meanwhile is in the next batch or is not.
BEFORE_BURSTS = 1e9
# How long a replica has nothing to do until it is cold to 63 %. Pauses of 3, 10, 30 and 100 ms between requests made
# 13.5, 13.7, 14.3 and 15.0 ms of an answer's 13.3 (AMD EPYC).
COLD_AFTER_SECONDS = 0.045
Process = Generator[simpy.Event, object, None]
Random = np.random.Generator


@dataclass(frozen=True)
class Demands:
    """Seconds of a core that parts of a request take, were they alone there.

    Attributes:
        engine: draws those of an engine call for a batch of so many images.
        front: draws those of the front until a request is handed to Triton.
        front_after: of the front for its answer.
        front_batch: of the front once more for all answers that come back together.
        triton: of Triton beside the engine, for one request, half before and half after.
        between: of Triton between two batches; those that come meanwhile are in the next.
        client: of the client, half before and half after.
        wait: seconds that a request takes beside all this: wake-ups, loopback.
        cold_client: of the client more, when the replica has long had nothing to do: caches are cold, cores asleep.
        cold_front: of the front more, then.
        cold_engine: of the engine more, then.
        overlap_front: of the front more, when the replica is at another request.
        overlap_engine: of the engine more for a batch during which the front of its core took in a request.
        max_batch: images in a batch at most.
    """

    engine: Callable[[Random, int], float]
    front: Callable[[Random], float] = lambda _: 0.0
    front_after: float = 0.0
    front_batch: float = 0.0
    triton: float = 0.0
    between: float = 0.0
    client: float = 0.0
    wait: float = 0.0
    cold_client: float = 0.0
    cold_front: float = 0.0
    cold_engine: float = 0.0
    overlap_front: float = 0.0
    overlap_engine: float = 0.0
    max_batch: int = 1

    def at_pace(self, times: float) -> "Demands":
        """The same on a machine on which everything takes so many times as long."""
        parts = [each.name for each in fields(self) if each.type is float]
        longer = {name: times * getattr(self, name) for name in parts}
        return replace(
            self,
            engine=lambda random, size: times * self.engine(random, size),
            front=lambda random: times * self.front(random),
            **longer,
        )


@dataclass(frozen=True)
class Topology:
    """Which part runs on which core of one machine.

    Attributes:
        fronts: the core of each front.
        tritons: the cores of each Triton, an instance of the engine on each; front i asks Triton i, or the last.
        cores: of the machine; the client runs on whichever has least to do.
        slowdown: see `Machine`.
    """

    fronts: tuple[int, ...]
    tritons: tuple[tuple[int, ...], ...]
    cores: int
    slowdown: float = 1.0


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        latencies: seconds of each request, in the order of the answers.
        batches: how many of each size ran.
        seconds: from the start to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    batches: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies in milliseconds."""
        return 1000 * float(np.percentile(self.latencies, percent))


class Triton:
    """A queue before one instance of the engine, or several."""

    def __init__(
        self, env: simpy.Environment, cores: Sequence[Core], demands: Demands, random: Random, outcome: Outcome
    ) -> None:
        self._env, self._demands, self._random, self._batches = env, demands, random, outcome.batches
        self._idle = deque(cores)
        self._waiting: deque[tuple[float, simpy.Event]] = deque()
        self._disturbed = False
        self.receiver = Thread(env, lambda: cores[0], weight=ENGINE_WEIGHT)

    def infer(self, more_seconds: float = 0.0) -> simpy.Event:
        """What happens when the batch with this image is done; its value is true for the first of the batch.

        Args:
            more_seconds: that its batch takes on its account.
        """
        done = self._env.event()
        self._waiting.append((more_seconds, done))
        self._start()
        return done

    def disturb(self) -> None:
        """Somebody else uses the core, and its caches, of the batch that runs."""
        self._disturbed = True

    def _start(self) -> None:
        if self._idle and self._waiting:
            core = self._idle.popleft()
            weight = BEFORE_BURSTS if self._random.random() < 0.5 else ENGINE_WEIGHT
            self._after(core, weight, self._demands.between, lambda: self._run(core))

    def _run(self, core: Core) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._demands.max_batch))]
        if not batch:  # another instance took them
            self._idle.append(core)
            return
        self._batches[len(batch)] += 1
        self._disturbed = False

        def end() -> None:
            if self._disturbed and self._demands.overlap_engine:
                self._disturbed = False
                self._after(core, ENGINE_WEIGHT, self._demands.overlap_engine, end)
                return
            for place, (_more, done) in enumerate(batch):
                done.succeed(place == 0)
            self._idle.append(core)
            self._start()

        seconds = self._demands.engine(self._random, len(batch)) + max(more for more, _ in batch)
        self._after(core, ENGINE_WEIGHT, seconds, end)

    def _after(self, core: Core, weight: float, seconds: float, then: Callable[[], None]) -> None:
        worked = core.work(seconds, weight)
        assert worked.callbacks is not None
        worked.callbacks.append(lambda _: then())


@dataclass
class Replica:
    """A front, the Triton that it asks, whether on one core, requests under way there, and since when there is none."""

    front: Thread
    triton: Triton
    together: bool
    under_way: int = 0
    quiet_since: float = 0.0

    def coldness(self, now: float) -> float:
        """From 0 while it has something to do to 1 after a long time without."""
        return 0.0 if self.under_way else -math.expm1((self.quiet_since - now) / COLD_AFTER_SECONDS)


# Which replica takes a request: its number, the replicas, a generator -> the replica.
Balancer = Callable[[int, Sequence[Replica], Random], Replica]
BALANCERS: dict[str, Balancer] = {
    "round robin": lambda number, replicas, _: replicas[number % len(replicas)],
    "random": lambda _, replicas, random: replicas[random.integers(len(replicas))],
    "least requests": lambda _, replicas, __: min(replicas, key=lambda replica: replica.under_way),
}


class Simulation:
    """One run of a topology under one load."""

    def __init__(self, topology: Topology, demands: Demands, *, seed: int, balancer: str = "round robin") -> None:
        self.env, self.outcome = simpy.Environment(), Outcome()
        self._demands, self._random, self._balancer = demands, np.random.default_rng(seed), BALANCERS[balancer]
        machine = Machine(self.env, topology.cores, slowdown=topology.slowdown)
        tritons = [
            Triton(self.env, [machine.cores[place] for place in places], demands, self._random, self.outcome)
            for places in topology.tritons
        ]
        self._replicas = []
        for index, place in enumerate(topology.fronts):
            number = min(index, len(tritons) - 1)
            together = place in topology.tritons[number]
            self._replicas.append(Replica(self._thread(machine.cores[place]), tritons[number], together))
        self._client = Thread(self.env, machine.idlest, weight=BURST_WEIGHT)

    def closed(self, clients: int, requests: int) -> Outcome:
        """So many clients, each sending again when it was answered, until so many requests were sent."""
        numbers = iter(range(requests))

        def one_client() -> Process:
            for number in numbers:
                yield from self._request(number, self.env.now)

        return self._run([self.env.process(one_client()) for _ in range(clients)])

    def opened(self, due: Sequence[float]) -> Outcome:
        """A request at each of these seconds, whatever comes back."""

        def one(number: int, begin: float) -> Process:
            yield self.env.timeout(begin)
            yield from self._request(number, begin)

        return self._run([self.env.process(one(number, begin)) for number, begin in enumerate(due)])

    def _thread(self, core: Core) -> Thread:
        return Thread(self.env, lambda: core, weight=BURST_WEIGHT)

    def _run(self, clients: Sequence[simpy.Process]) -> Outcome:
        self.env.run(until=self.env.all_of(clients))
        self.outcome.seconds = self.env.now
        return self.outcome

    def _request(self, number: int, begin: float) -> Process:
        demands = self._demands
        replica = self._balancer(number, self._replicas, self._random)
        cold = replica.coldness(self.env.now)
        overlap = demands.overlap_front if replica.together and replica.under_way else 0.0
        replica.under_way += 1
        yield self._client.do(demands.client / 2 + cold * demands.cold_client)
        if demands.wait:
            yield self.env.timeout(demands.wait)
        if replica.together:
            replica.triton.disturb()
        yield replica.front.do(demands.front(self._random) + cold * demands.cold_front + overlap)
        yield replica.triton.receiver.do(demands.triton / 2)
        first = yield replica.triton.infer(cold * demands.cold_engine)
        yield replica.triton.receiver.do(demands.triton / 2)
        yield replica.front.do(demands.front_after + (demands.front_batch if first else 0.0))
        yield self._client.do(demands.client / 2)
        replica.under_way -= 1
        replica.quiet_since = self.env.now
        self.outcome.latencies.append(self.env.now - begin)
