"""What a shadow costs those who ask: the same open loop to the same service with `rrr serve --shadow` and without.

.venv/bin/python benchmarks/shadow.py              some 15 minutes; both directions
.venv/bin/python benchmarks/shadow.py --tables     nothing is measured

Requests are due at random times (Poisson), at 30 % of the rate that the service without a shadow gives at 8 requests
under way. Each round sends the same requests at the same times to both services in turns, in changing order; the one
that is not asked is held still. The bar: the ratio of the medians is at most 1.05.
"""

import argparse
import asyncio
import gc
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvloop

from rrrbench import contenders
from rrrbench.environment import RESULTS, ResultFile
from rrrbench.names import BASELINE, ENSEMBLE
from rrrbench.networks import CACHE, Networks
from rrrbench.servers import Server, answers, ending_on_sigterm, free_port, running
from rrrbench.tables import markdown
from rrrbench.turns import ratio
from rrrserve.bench import loops
from rrrserve.bench.clients.http_client import HttpClient
from rrrserve.bench.closed_loop import closed_loop

ALONE, SHADOWED = "without", "with"
# Who answers, and who is the shadow: the way of a canary, and a shadow that is far slower than what it stands beside.
PAIRS = ((BASELINE, ENSEMBLE), (ENSEMBLE, BASELINE))
_LOAD, _CONCURRENCY, _CAPACITY_SECONDS = 0.3, 8, 10.0
_BAR = 1.05
_WARM_UP_SECONDS, _TIMEOUT_SECONDS = 2.0, 30.0


async def ask_at(url: str, bodies: Sequence[bytes], due_seconds: Any) -> list[float]:
    """Milliseconds of each answer, from when its request was due.

    Raises:
        SystemExit: a request was not answered.
    """
    recorder = loops.Recorder()
    client = HttpClient(url, bodies, timeout_seconds=_TIMEOUT_SECONDS)
    gc.disable()  # its pauses would count as the service's
    try:
        await loops.open_loop(client, due_seconds, recorder, max_in_flight=len(due_seconds))
    finally:
        gc.enable()
        await client.close()
    if recorder.errors:
        sys.exit(f"{url}: {dict(recorder.errors)}")
    return [1000 * seconds for seconds in recorder.latencies_seconds]


def told(server: Server) -> dict[str, float]:
    """What the shadow has compared and left out so far."""
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    found = re.findall(r'^rrr_shadow_(?:compared|dropped)_total\{.*?(same|reason)="(\w+)".*\} (\S+)$', text, re.M)
    return {f"{label} {value}": float(count) for label, value, count in found}


class Measurements:
    """One pair of models: a service with a shadow and one without, side by side."""

    def __init__(self, options: argparse.Namespace, networks: Networks, result: ResultFile) -> None:
        self.options, self.result = options, result
        self.bodies = networks.jpegs(options.pixels)

    def run(self, repository: Path, answering: str, shadow: str) -> None:
        """Start both services and measure."""
        words = {ALONE: [], SHADOWED: ["--shadow", f"{shadow}.{self.options.target}"]}
        key = {"target": self.options.target, "pixels": self.options.pixels, "model": answering, "shadow": shadow}
        with ExitStack() as stack:
            servers: dict[str, Server] = {}
            for name, more in words.items():
                port = str(free_port())
                url = f"http://127.0.0.1:{port}"
                command = [str(contenders.BIN / "rrr"), "serve", str(repository), "--port", port, "--drain", "0"]
                command += ["--default", f"{answering}.{self.options.target}", *more]
                log = self.options.cache / "logs" / f"shadow-{name}.log"
                servers[name] = stack.enter_context(running(command, url=url, ready=answers(f"{url}/readyz"), log=log))
                servers[name].hold()
            self.result.measure("open", key, partial(self._open, servers))
            for server in servers.values():
                server.go_on()

    def _open(self, servers: Mapping[str, Server]) -> dict[str, Any]:
        capacity = self._capacity(servers[ALONE])
        rate = _LOAD * capacity
        times: dict[str, list[list[float]]] = {name: [] for name in servers}
        names = list(servers)
        for number in range(self.options.rounds):
            due = loops.arrival_times(
                rate, "poisson", requests=None, seconds=self.options.seconds, random=np.random.default_rng(number)
            )
            for name in names if number % 2 else reversed(names):
                servers[name].go_on()
                url = f"{servers[name].url}/v1/predict"
                asyncio.run(closed_loop(url, self.bodies, 1, seconds=_WARM_UP_SECONDS))
                times[name].append(uvloop.run(ask_at(url, self.bodies, due)))
                servers[name].hold()
            p50s = {name: round(float(np.median(found[-1])), 3) for name, found in times.items()}
            print(f"round {number + 1} of {self.options.rounds}: p50 {p50s} ms", flush=True)
        servers[SHADOWED].go_on()
        counts = told(servers[SHADOWED])
        servers[SHADOWED].hold()
        return {
            "capacity_per_second": capacity,
            "rate_per_second": rate,
            "requests": sum(map(len, times[ALONE])),
            "told": counts,
            "services": {
                name: {
                    "p50_ms_by_round": [float(np.median(turn)) for turn in found],
                    **contenders.percentiles(np.concatenate(found)),
                }
                for name, found in times.items()
            },
        }

    def _capacity(self, server: Server) -> float:
        """Answers a second at `_CONCURRENCY` requests under way."""
        server.go_on()
        url, seconds = f"{server.url}/v1/predict", min(_CAPACITY_SECONDS, self.options.seconds)
        asyncio.run(closed_loop(url, self.bodies, _CONCURRENCY, seconds=_WARM_UP_SECONDS))
        found = asyncio.run(closed_loop(url, self.bodies, _CONCURRENCY, seconds=seconds))
        server.hold()
        return found.throughput


def tables(document: Mapping[str, Any]) -> str:
    """results/shadow.json as Markdown."""
    rows = []
    for case in document.get("open", []):
        found = case["services"]
        medians = ratio(found[SHADOWED]["p50_ms_by_round"], found[ALONE]["p50_ms_by_round"])
        compared = sum(count for name, count in case["told"].items() if name.startswith("same"))
        rows.append(
            [
                case["model"],
                case["shadow"],
                f"{case['rate_per_second']:.1f}",
                f"{compared:.0f} of {case['requests']}",
                *(f"{found[name]['p50_ms']:.2f}" for name in (ALONE, SHADOWED)),
                f"{medians.text(3, 'x')}{'' if medians.value <= _BAR else ': misses the bar'}",
                *(f"{found[name]['p99_ms']:.1f}" for name in (ALONE, SHADOWED)),
            ]
        )
    header = ["answers", "shadow", "requests/s", "compared", "p50 without (ms)", "with", "ratio", "p99 without", "with"]
    return markdown(header, rows)


def main() -> None:
    """Measure what the command line asks for, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="openvino-fp32")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints and engines are kept")
    parser.add_argument("--tables", action="store_true", help="print the table; nothing is measured")
    parser.add_argument("--out", type=Path, default=RESULTS / "shadow.json")
    parser.add_argument("--quick", action="store_true", help="tiny networks and short rounds: a test of the steps")
    options = parser.parse_args()
    if options.quick:
        options.pixels, options.rounds, options.seconds = 32, 2, 2.0
    result = ResultFile(options.out)
    if not options.tables:
        ending_on_sigterm()
        networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
        both = contenders.repository(networks, options.pixels, [(name, options.target) for name in PAIRS[0]])
        measurements = Measurements(options, networks, result)
        for answering, shadow in PAIRS:
            measurements.run(both.path, answering, shadow)
    print(tables(result.document))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
