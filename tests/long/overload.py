"""Three times the load that a real `rrr serve` can bear: what it answers, what it refuses, and how it recovers.

.venv/bin/python tests/long overload [REPOSITORY] [--factor 3] [--seconds 20] [--deadline-ms 1000]
"""

import argparse
import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from harness.bounds import Bounds
from harness.service import Service
from rrrbench import contenders
from rrrbench.environment import ResultFile
from rrrbench.pictures import jpegs
from rrrbuild.repository_document import read_repository
from rrrserve.bench import loops
from rrrserve.bench.clients.client import RequestFailedError
from rrrserve.bench.clients.http_client import HttpClient
from rrrserve.bench.closed_loop import closed_loop
from rrrserve.versions.catalogue import default_model

_IDLE_SECONDS, _CAPACITY_SECONDS, _RECOVERY_SECONDS = 3.0, 6.0, 5.0
_CONCURRENCY = 48  # fewer do not fill the batches that an overload does
# What must hold.
GOODPUT, REFUSAL_P95_MS, IDLE_RATIO, GROWTH_MB = 0.8, 50.0, 1.1, 50.0


def worker_mb(service: Service) -> float:
    """Memory of the HTTP workers, 10^6 bytes."""
    return sum(float(process.memory_info().rss) for process in service.of_kind("worker")) / 1e6


class Offered:
    """Requests at a constant rate by the product's open loop; the times of its refusals are kept too.

    Attributes:
        recorder: the loop's.
        refused: (when it was due, how long from then until its answer) of each request that was answered 429, seconds.
    """

    def __init__(self, url: str, bodies: list[bytes], deadline_ms: int) -> None:
        headers = {"X-Request-Timeout-Ms": str(deadline_ms)}
        self._client = HttpClient(url, bodies, timeout_seconds=deadline_ms / 1000 + 1.0, headers=headers)
        self.recorder = loops.Recorder()
        self.refused: list[tuple[float, float]] = []
        self._due = np.array([])
        self.answered_by = self._client.answered_by

    async def run(self, rate: float, seconds: float) -> dict[str, Any]:
        """Offer `rate` requests a second for so many seconds; counts and times, JSON-ready."""
        random = np.random.default_rng(0)
        self._due = loops.arrival_times(rate, "constant", requests=None, seconds=seconds, random=random)
        try:
            await loops.open_loop(self, self._due, self.recorder, max_in_flight=len(self._due))
        finally:
            await self._client.close()
        good = self.recorder.latencies_seconds
        refused = [took for _, took in self.refused]
        return {
            "statuses": {"200": len(good)} | dict(sorted(self.recorder.errors.items())),
            "good_per_second": len(good) / seconds,
            "good_p50_ms": percentile_ms(good, 50),
            "good_p99_ms": percentile_ms(good, 99),
            "refused_p50_ms": percentile_ms(refused, 50),
            "refused_p95_ms": percentile_ms(refused, 95),
        }

    async def ask(self, ticket: int) -> float:
        """See `Client.ask`."""
        due = time.perf_counter() - self.recorder.late_seconds[-1]  # the loop has just written down this request's
        try:
            return await self._client.ask(ticket)
        except RequestFailedError as error:
            if error.kind == "429":
                self.refused.append((float(self._due[ticket]), time.perf_counter() - due))
            raise

    async def close(self) -> None:
        """See `Client.close`."""
        await self._client.close()


def percentile_ms(seconds: list[float], percent: float) -> float:
    """A percentile in milliseconds; 0 of nothing."""
    return 1000 * float(np.percentile(seconds, percent)) if seconds else 0.0


async def measure(service: Service, bodies: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Idle time and capacity, then the overload, then idle again."""
    url = f"{service.url}/v1/predict"
    alone = f"{url}?effort=full"  # a cascade still sheds members for seconds after each load
    await closed_loop(url, bodies, _CONCURRENCY, seconds=1.0)
    idle = await closed_loop(alone, bodies, 1, seconds=_IDLE_SECONDS)
    at_limit = await closed_loop(url, bodies, _CONCURRENCY, seconds=_CAPACITY_SECONDS)
    before = worker_mb(service)
    overload = Offered(url, bodies, options.deadline_ms)
    figures = await overload.run(options.factor * at_limit.throughput, options.seconds)
    after = worker_mb(service)
    recovering = await Offered(url, bodies, options.deadline_ms).run(at_limit.throughput / 4, _RECOVERY_SECONDS)
    again = await closed_loop(alone, bodies, 1, seconds=_IDLE_SECONDS)
    later = [took for due, took in overload.refused if due >= 1.0]  # the first second fills what was empty
    return {
        "capacity_per_second": at_limit.throughput,
        "refused_within_capacity": at_limit.errors,
        "offered_per_second": options.factor * at_limit.throughput,
        **figures,
        "refused_p95_ms_after_1_s": percentile_ms(later, 95),
        "growth_mb": after - before,
        "recovering": recovering,
        "idle_p50_ms": idle.percentile_ms(50),
        "idle_p50_ms_after": again.percentile_ms(50),
    }


def judge(case: dict[str, Any], options: argparse.Namespace, bounds: Bounds) -> None:
    """What must hold."""
    late = [status for status in case["statuses"] if status not in ("200", "429")]
    goodput = case["good_per_second"] / case["capacity_per_second"]
    p99, p95, recovering = case["good_p99_ms"], case["refused_p95_ms"], case["recovering"]["statuses"]
    idle, again = case["idle_p50_ms"], case["idle_p50_ms_after"]
    bounds.check(f"answered {goodput:.0%} of the capacity, less than {GOODPUT:.0%}", goodput >= GOODPUT)
    bounds.check(f"p99 of accepted requests {p99:.0f} ms", p99 <= options.deadline_ms)
    bounds.check(f"accepted but not answered: {late}", not late)
    bounds.check(f"p95 of refusals {p95:.0f} ms", p95 <= REFUSAL_P95_MS)
    refused = case["refused_within_capacity"]
    bounds.check(f"refused within the capacity: {refused}", not refused)
    bounds.check(f"refused after the overload: {recovering}", set(recovering) == {"200"})
    bounds.check(f"memory grew by {case['growth_mb']:.0f} MB", case["growth_mb"] <= GROWTH_MB)
    bounds.check(f"p50 {again:.1f} ms after, {idle:.1f} ms before", again <= IDLE_RATIO * idle)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("repository", type=Path, nargs="?", help="default: 8 members at 64 pixels, made if need be")
    parser.add_argument("--factor", type=float, default=3.0, help="of the capacity")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--deadline-ms", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)


def run(options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
    """Measure and judge."""
    repository = options.repository or contenders.exact_repository(options.cache)
    model = default_model(read_repository(repository), None)
    log = options.cache / "logs" / "overload.log"
    with Service(log, str(repository), "--workers", str(options.workers)) as service:
        gc.disable()  # its pauses would count as the service's
        case = uvloop.run(measure(service, jpegs(model), options))
    key = {"model": model.name, "target": model.target, "workers": options.workers, "factor": options.factor}
    result.record("overload", {**key, "seconds": options.seconds, "deadline_ms": options.deadline_ms}, case)
    judge(case, options, bounds)


def summary(document: dict[str, Any]) -> str:
    """All that a result file says, a line each."""
    return "\n".join(f"{name}: {value}" for case in document["overload"] for name, value in case.items())
