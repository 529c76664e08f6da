"""Load on several replicas in turn, by the loops of `rrr bench`, and what came back."""

import asyncio
import gc
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import uvloop

from rrrserve.bench.clients.client import AnsweredBy
from rrrserve.bench.clients.http_client import HttpClient
from rrrserve.bench.loops import Recorder, arrival_times, closed_loop, open_loop

_TIMEOUT_SECONDS = 30.0
_MOST_IN_FLIGHT = 1000


class RoundRobin:
    """A client (`rrrserve.bench.clients.client.Client`) that asks replicas in turn, and keeps what they answer."""

    def __init__(self, urls: Sequence[str], bodies: Sequence[bytes]) -> None:
        """Args: `urls` are where to POST; `bodies` are encoded images, sent in turn."""
        self.bodies: list[bytes] = []
        self._clients = [
            HttpClient(url, bodies, timeout_seconds=_TIMEOUT_SECONDS, heard=lambda _, body: self.bodies.append(body))
            for url in urls
        ]
        self.answered_by: Counter[AnsweredBy] = Counter()
        for client in self._clients:
            client.answered_by = self.answered_by  # counted together

    async def ask(self, ticket: int) -> float:
        """See `Client.ask`."""
        return await self._clients[ticket % len(self._clients)].ask(ticket)

    async def close(self) -> None:
        """See `Client.close`."""
        for client in self._clients:
            await client.close()


@dataclass(frozen=True)
class Load:
    """One load, named as in tables.

    Attributes:
        requests: at most so many, and
        seconds: none that begins later.
        clients: of a closed loop; None for an open one.
        rate_per_second: of an open loop with Poisson arrivals.
        seed: of the arrivals.
    """

    requests: int
    seconds: float
    clients: int | None = None
    rate_per_second: float = 0.0
    seed: int = 0

    def due_seconds(self) -> npt.NDArray[np.float64]:
        """When the requests of an open loop are due: the same for what is measured and what is simulated."""
        random = np.random.default_rng(self.seed)
        return arrival_times(
            self.rate_per_second, "poisson", requests=self.requests, seconds=self.seconds, random=random
        )


@dataclass(frozen=True)
class Driven:
    """What a load gave.

    Attributes:
        latencies_ms: of each answer.
        errors: number of the others, by kind.
        seconds: from the first request to the last answer.
        client_cpu_seconds: of this process meanwhile.
        bodies: the answers.
    """

    latencies_ms: npt.NDArray[np.float64]
    errors: dict[str, int]
    seconds: float
    client_cpu_seconds: float
    bodies: list[bytes]

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies_ms) / self.seconds

    def stages_ms(self) -> dict[str, list[float]]:
        """What each answer tells of its stages (`timing_ms`), in the order of the answers."""
        told: list[dict[str, float]] = [json.loads(body)["timing_ms"] for body in self.bodies]
        return {stage: [timing[stage] for timing in told] for stage in (told[0] if told else {})}

    def figures(self) -> dict[str, Any]:
        """Throughput and percentiles, JSON-ready."""
        percentiles = {f"p{percent}_ms": float(np.percentile(self.latencies_ms, percent)) for percent in (50, 95, 99)}
        return {"requests": len(self.latencies_ms), "throughput": self.throughput, **percentiles}


def drive(urls: Sequence[str], bodies: Sequence[bytes], load: Load) -> Driven:
    """Put a load on replicas, round robin.

    Raises:
        SystemExit: a request was not answered: what is left would be no measurement of this load.
    """
    recorder = Recorder()

    async def run() -> list[bytes]:
        client = RoundRobin(urls, bodies)
        try:
            if load.clients is not None:
                await closed_loop(client, load.clients, recorder, requests=load.requests, seconds=load.seconds)
            else:
                await open_loop(client, load.due_seconds(), recorder, max_in_flight=_MOST_IN_FLIGHT)
        finally:
            await client.close()
        return client.bodies

    gc.collect()
    gc.disable()  # going through all objects takes tens of milliseconds
    try:
        before = time.process_time()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            answers = runner.run(run())
        cpu_seconds = time.process_time() - before
    finally:
        gc.enable()
    if recorder.errors or not recorder.latencies_seconds:
        raise SystemExit(f"{', '.join(urls)} under {load}: {dict(recorder.errors) or 'no answer'}")
    latencies_ms = 1000 * np.array(recorder.latencies_seconds, np.float64)
    return Driven(latencies_ms, dict(recorder.errors), recorder.wall_seconds, cpu_seconds, answers)
