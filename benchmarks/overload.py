"""Three times the load that a real `rrr serve` can bear: what it answers, what it refuses, and how it recovers.

    .venv/bin/python benchmarks/overload.py REPOSITORY [--factor 3] [--seconds 20] [--deadline-ms 1000]

A bound that was missed is named, and the exit code is 1. The result is benchmarks/results/overload.json.
"""

import argparse
import gc
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from rrrbench.chaos_service import Service
from rrrbench.environment import RESULTS, ROOT, ResultFile
from rrrbench.open_loop import OpenLoop, figures, percentile_ms
from rrrbench.pictures import jpegs
from rrrbench.servers import ending_on_sigterm
from rrrbuild.repository_document import read_repository
from rrrserve.bench.closed_loop import closed_loop
from rrrserve.versions.catalogue import default_model

_IDLE_SECONDS, _CAPACITY_SECONDS, _RECOVERY_SECONDS = 3.0, 6.0, 5.0
_CONCURRENCY = 48  # fewer do not fill the batches that an overload does
# What must hold.
GOODPUT, REFUSAL_P95_MS, IDLE_RATIO, GROWTH_MB = 0.8, 50.0, 1.1, 50.0


def worker_mb(service: Service) -> float:
    """Memory of the HTTP workers, 10^6 bytes."""
    return sum(float(process.memory_info().rss) for process in service.of_kind("worker")) / 1e6


async def measure(service: Service, bodies: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Idle time and capacity, then the overload, then idle again."""
    url = f"{service.url}/v1/predict"
    parts = urlsplit(url)
    client = OpenLoop(str(parts.hostname), int(parts.port or 80), parts.path, bodies, deadline_ms=options.deadline_ms)
    await closed_loop(url, bodies, _CONCURRENCY, seconds=1.0)
    idle = await closed_loop(url, bodies, 1, seconds=_IDLE_SECONDS)
    at_limit = await closed_loop(url, bodies, _CONCURRENCY, seconds=_CAPACITY_SECONDS)
    before = worker_mb(service)
    outcomes = await client.run(options.factor * at_limit.throughput, options.seconds)
    after = worker_mb(service)
    recovering = await client.run(at_limit.throughput / 4, _RECOVERY_SECONDS)
    again = await closed_loop(url, bodies, 1, seconds=_IDLE_SECONDS)
    second = [outcome for outcome in outcomes if outcome.due >= 1.0]  # the first second fills what was empty
    return {
        "capacity_per_second": at_limit.throughput,
        "refused_within_capacity": at_limit.errors,
        "offered_per_second": options.factor * at_limit.throughput,
        **figures(outcomes, options.seconds),
        "refused_p95_ms_after_1_s": figures(second, options.seconds)["refused_p95_ms"],
        "growth_mb": after - before,
        "recovering": figures(recovering, _RECOVERY_SECONDS),
        "idle_p50_ms": percentile_ms(idle.latencies_seconds.tolist(), 50),
        "idle_p50_ms_after": percentile_ms(again.latencies_seconds.tolist(), 50),
    }


def misses(case: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """The bounds that a case does not keep."""
    late = [status for status in case["statuses"] if status not in ("200", "429")]
    goodput = case["good_per_second"] / case["capacity_per_second"]
    checks = {
        f"answered {goodput:.0%} of the capacity, less than {GOODPUT:.0%}": goodput >= GOODPUT,
        f"p99 of accepted requests {case['good_p99_ms']:.0f} ms": case["good_p99_ms"] <= options.deadline_ms,
        f"accepted but not answered: {late}": not late,
        f"p95 of refusals {case['refused_p95_ms']:.0f} ms": case["refused_p95_ms"] <= REFUSAL_P95_MS,
        f"refused within the capacity: {case['refused_within_capacity']}": not case["refused_within_capacity"],
        f"refused after the overload: {case['recovering']['statuses']}": set(case["recovering"]["statuses"]) == {"200"},
        f"memory grew by {case['growth_mb']:.0f} MB": case["growth_mb"] <= GROWTH_MB,
        f"p50 {case['idle_p50_ms_after']:.1f} ms after, {case['idle_p50_ms']:.1f} ms before": (
            case["idle_p50_ms_after"] <= IDLE_RATIO * case["idle_p50_ms"]
        ),
    }
    return [what for what, holds in checks.items() if not holds]


def main() -> None:
    """Measure, print and judge."""
    ending_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--factor", type=float, default=3.0, help="of the capacity")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--deadline-ms", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "overload.json")
    options = parser.parse_args()
    model = default_model(read_repository(options.repository), None)
    log = ROOT / "artifacts" / "benchmarks" / "logs" / "overload.log"
    service = Service(options.repository, log, "--workers", str(options.workers))
    try:
        gc.disable()  # its pauses would count as the service's
        case = uvloop.run(measure(service, jpegs(model), options))
    finally:
        service.kill()
    key = {"model": model.name, "target": model.target, "workers": options.workers, "factor": options.factor}
    result = ResultFile(options.out)
    result.record("overload", {**key, "seconds": options.seconds, "deadline_ms": options.deadline_ms}, case)
    for name, value in case.items():
        print(f"{name}: {value if isinstance(value, dict) else format(value, '.4g')}")
    missed = misses(case, options)
    for what in missed:
        print(f"MISSED: {what}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
