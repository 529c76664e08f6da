"""Two Tritons behind one `rrr serve`: one is killed and started again, the other freezes; every answer is judged.

    .venv/bin/python tests/long tritons [--requests 20000] [--clients 16]

Kill -9 of one at a third of the requests; it is started again at five twelfths. SIGSTOP of the other at two thirds, for
10 s. Lost is whatever got no right answer: at most as many as were under way at these two moments. Five seconds after
each, p99 is back: at most twice what it was before the first.

The networks are made when first needed; --quick takes a tiny one.
"""

import argparse
import asyncio
import math
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.bounds import Bounds
from harness.clients import HUNG, RIGHT, WRONG, Clients, Ending
from harness.service import Service
from harness.tritons import Triton
from rrrbench import contenders
from rrrbench.environment import ResultFile
from rrrbench.names import ENSEMBLE
from rrrbench.networks import Networks

_QUERY = "top_k=4"
_POLL_SECONDS, _WARM_UP_SECONDS = 0.01, 2.0
KILLED_AT, STARTED_AT, FROZEN_AT = 1 / 3, 5 / 12, 2 / 3  # of the requests
FROZEN_SECONDS, LEAST_SECONDS = 10.0, 6.0  # and how long each of the other states lasts, however few the requests
# What must hold.
BACK_SECONDS, BACK_RATIO = 5.0, 2.0
_STEP_SECONDS = 0.25


def p99_ms(endings: Sequence[Ending], since: float, until: float) -> float:
    """Of what was sent in that time; infinite where nothing was."""
    seconds = [ending.seconds for ending in endings if since <= ending.sent < until]
    return 1000 * float(np.percentile(seconds, 99)) if seconds else float("inf")


def finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None


def under_way(endings: Sequence[Ending], moment: float) -> int:
    """How many requests were sent and had not ended at that moment."""
    return sum(ending.sent <= moment < ending.ended for ending in endings)


def back_after(endings: Sequence[Ending], moment: float, until: float, limit_ms: float) -> float:
    """Seconds from `moment` on, in quarters, after which p99 of any five seconds until `until` is within the limit."""
    steps = np.arange(0.0, max(until - moment - BACK_SECONDS, 0.0) + _STEP_SECONDS, _STEP_SECONDS).tolist()
    found = [p99_ms(endings, moment + step, min(until, moment + step + BACK_SECONDS)) for step in steps]
    bad = [step for step, p99 in zip(steps, found, strict=True) if p99 > limit_ms]
    if bad and bad[-1] == steps[-1]:
        return float("inf")
    return bad[-1] + _STEP_SECONDS if bad else 0.0


class Scene:
    """Two Tritons, the service before them, and its clients.

    Attributes:
        moments: when what was done, on the clock of `time.monotonic`.
        answering: how many Tritons /readyz counted, some time after each.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
        self._bodies = networks.jpegs(options.pixels)[:8]
        self._repository = contenders.repository(networks, options.pixels, [(ENSEMBLE, options.target)]).path
        self._options = options
        self.moments: dict[str, float] = {}
        self.answering: dict[str, int] = {}

    async def play(self) -> list[Ending]:
        """From the start to the last request; how each ended."""
        first, second = tritons = [Triton(self._repository) for _ in range(2)]
        urls = [word for triton in tritons for word in ("--triton-url", triton.url)]
        log = self._options.cache / "logs" / "tritons.log"
        words = (str(self._repository), *urls, "--workers", str(self._options.workers))
        try:
            for triton in tritons:
                await triton.start()
            with await asyncio.to_thread(Service, log, *words) as service:
                golden = await asyncio.to_thread(service.golden, _QUERY, self._bodies)
                url = f"{service.url}/v1/predict?{_QUERY}"
                clients = Clients(url, self._bodies, golden, self._options.deadline)
                running = asyncio.create_task(clients.run(self._options.clients))
                try:
                    await self._acts(service, clients, first, second)
                finally:
                    clients.stop()
                    await running
        finally:
            for triton in tritons:
                await triton.end()
        return clients.tally.endings

    async def _acts(self, service: Service, clients: Clients, first: Triton, second: Triton) -> None:
        def note(name: str) -> None:
            self.moments[name] = time.monotonic()

        async def reached(share: float) -> None:
            while True:
                if len(clients.tally.endings) >= share * self._options.requests:
                    return
                await asyncio.sleep(_POLL_SECONDS)

        async def count(name: str) -> None:
            answer = await asyncio.to_thread(service.ask, "/readyz")
            self.answering[name] = answer.json()["tritons"]["answering"]

        note("begun")
        await asyncio.sleep(LEAST_SECONDS)
        await reached(KILLED_AT)
        note("killed")
        first.send(signal.SIGKILL)
        await asyncio.sleep(LEAST_SECONDS)
        await reached(STARTED_AT)
        await count("killed")
        note("started")
        await first.start()
        note("loaded")
        await asyncio.sleep(LEAST_SECONDS)
        await reached(FROZEN_AT)
        await count("loaded")
        note("frozen")
        second.send(signal.SIGSTOP)
        await asyncio.sleep(FROZEN_SECONDS)
        await count("frozen")
        note("woken")
        second.send(signal.SIGCONT)
        await asyncio.sleep(LEAST_SECONDS)
        await reached(1)
        await count("woken")
        note("ended")


def run(options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
    """Play it and judge."""
    if options.quick:
        options.pixels, options.requests = 32, 600
    scene = Scene(options)
    endings = asyncio.run(scene.play())
    at = scene.moments
    kinds = [ending.kind for ending in endings]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    healthy_ms = p99_ms(endings, at["begun"] + _WARM_UP_SECONDS, at["killed"])
    events = {"killed": at["started"], "frozen": at["woken"]}
    back = {name: back_after(endings, at[name], until, BACK_RATIO * healthy_ms) for name, until in events.items()}
    in_flight = {name: under_way(endings, at[name]) for name in events}
    lost = len(endings) - counts.get(RIGHT, 0)
    case = {
        "requests": len(endings),
        "endings": counts,
        "lost": lost,
        "in_flight": in_flight,
        "p99_ms_before": healthy_ms,
        "p99_ms_after_5_s": {
            name: finite(p99_ms(endings, at[name] + BACK_SECONDS, until)) for name, until in events.items()
        },
        "p99_back_seconds": {name: finite(seconds) for name, seconds in back.items()},
        "slowest_seconds": max(ending.seconds for ending in endings),
        "answering": scene.answering,
        "seconds": {name: moment - at["begun"] for name, moment in at.items()},
        "load_average": os.getloadavg()[0],
    }
    bounds.check(f"wrong answers: {counts}", not counts.get(WRONG))
    bounds.check(f"requests that hung: {counts}", not counts.get(HUNG))
    bounds.check(f"lost {lost}, under way were {in_flight}", lost <= sum(in_flight.values()))
    for name, seconds in back.items():
        bounds.check(f"{name}: p99 back after {seconds} s", seconds <= BACK_SECONDS)
    told = {"killed": 1, "loaded": 2, "frozen": 1, "woken": 2}
    bounds.check(f"Tritons that answer: {scene.answering}", scene.answering == told)
    key = {"clients": options.clients, "workers": options.workers, "target": options.target, "pixels": options.pixels}
    result.record("tritons", key, case)


def summary(document: dict[str, Any]) -> str:
    """All that a result file says, a line each."""
    return "\n".join(f"{name}: {value}" for case in document["tritons"] for name, value in case.items())


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--requests", type=int, default=20_000, help="at least")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--target", default="onnxruntime-fp32", help="exact, so that every answer can be judged")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="HTTP workers of the service")
    parser.add_argument("--deadline", type=float, default=10.0, metavar="SECONDS", help="of each request")
    parser.add_argument("--quick", action="store_true", help="a tiny network and few requests")
