"""The service with a CPU quota, as in a container: what it answers, and how late, beside one core and beside before.

.venv/bin/python benchmarks/quota.py           as root: 7 minutes, and 3 more the first time

quota           `rrr serve` in a cgroup with 1 CPU on all cores of this machine
core            `rrr serve` on one core and without a quota
quota on core   both: what pinning all of it would give
before          as `quota`, by the code of commit 5f9ad99, which counts cores by affinity

Eight requests are under way; all four take turns, and those that are not asked are stopped.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rrrbench import earlier
from rrrbench.cgroups import Quota, quota
from rrrbench.contenders import repository
from rrrbench.environment import RESULTS, ResultFile
from rrrbench.names import ENSEMBLE
from rrrbench.networks import CACHE, Networks
from rrrbench.servers import Server, answers, ending_on_sigterm, free_port, running
from rrrbench.tables import bar_row, markdown
from rrrbench.turns import ratio
from rrrnet.errors import RRRError
from rrrserve.bench.closed_loop import Result, closed_loop

BEFORE = "5f9ad99"
CONCURRENCY = 8
WARM_UP_REQUESTS = 64
_RRR = "from rrrserve.cli import main; main()"


@dataclass
class Row:
    """A service that runs, and what was measured of it, a result for each round."""

    server: Server
    quota: Quota | None
    threads: int = 0
    results: list[Result] = field(default_factory=list)
    periods: int = 0
    throttled: int = 0

    def ask(self, bodies: list[bytes], **limit: Any) -> Result:
        """Send requests, a number of them or for some seconds."""
        found = asyncio.run(closed_loop(f"{self.server.url}/v1/predict", bodies, CONCURRENCY, **limit))
        if found.errors or not len(found.latencies_seconds):
            sys.exit(f"{self.server.log}: {found.errors or 'no answer'}")
        return found

    def take_turn(self, bodies: list[bytes], seconds: float) -> None:
        """Let it go on, measure, stop it."""
        self.server.go_on()
        self.ask(bodies, requests=WARM_UP_REQUESTS)
        before = self.quota.periods() if self.quota else (0, 0)
        self.results.append(self.ask(bodies, seconds=seconds))
        after = self.quota.periods() if self.quota else (0, 0)
        self.periods += after[0] - before[0]
        self.throttled += after[1] - before[1]
        self.server.hold()

    def to_json(self) -> dict[str, Any]:
        """Figures by round, and percentiles of all requests together."""
        latencies_ms = 1000 * np.concatenate([result.latencies_seconds for result in self.results])
        return {
            "threads": self.threads,
            "requests": len(latencies_ms),
            **{f"p{percent}_ms": float(np.percentile(latencies_ms, percent)) for percent in (50, 99)},
            "throughput_by_round": [result.throughput for result in self.results],
            "p99_ms_by_round": [result.percentile_ms(99) for result in self.results],
            "throttled_share": self.throttled / self.periods if self.periods else 0.0,
        }


@contextmanager
def serving(name: str, words: list[str], path: Path, logs: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """`rrr serve` with its defaults, by the Python packages that `environment` names, begun with `words`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [*words, sys.executable, "-c", _RRR, "serve", str(path.absolute()), "--port", str(port)]
    command += ["--restarts", "0"]  # what dies must not be measured as if nothing had been
    log = logs / f"quota-{name.replace(' ', '-')}.log"
    with running(command, url=url, ready=answers(f"{url}/readyz"), log=log, environment=environment) as server:
        yield server


def measure(options: argparse.Namespace, networks: Networks) -> dict[str, Any]:
    """Start all four, let them take turns, and tell."""
    folder = networks.cache / str(options.pixels)
    engine = networks.engine_folder(ENSEMBLE, options.pixels, options.target)
    now = repository(networks, options.pixels, [(ENSEMBLE, options.target)]).path
    code = earlier.sources(options.before, networks.cache)
    then = earlier.repository(engine, folder / f"repository-{options.before}", code)
    core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    bodies, logs = networks.jpegs(options.pixels), networks.cache / "logs"
    rows: dict[str, Row] = {}
    with ExitStack() as stack:
        for name, limited, pinned, path, environment in (
            ("quota", True, [], now, {}),
            ("core", False, core, now, {}),
            ("quota on core", True, core, now, {}),
            ("before", True, [], then, code),
        ):
            group = stack.enter_context(quota(options.cpus)) if limited else None
            words = [*(group.words if group else []), *pinned]
            row = Row(stack.enter_context(serving(name, words, path, logs, environment)), group)
            row.ask(bodies, requests=WARM_UP_REQUESTS)
            row.threads = sum(process.num_threads() for process in row.server.tree())
            row.server.hold()
            rows[name] = row
            print(f"{name}: ready after {row.server.start_seconds:.0f} s", flush=True)
        for index in range(options.rounds):
            for name in rows if index % 2 else reversed(rows):
                rows[name].take_turn(bodies, options.seconds)
            print(f"round {index + 1} of {options.rounds}", flush=True)
        for row in rows.values():
            row.server.go_on()
    return {"rows": {name: row.to_json() for name, row in rows.items()}}


def tables(case: Mapping[str, Any]) -> str:
    """What was measured, and the bars."""
    rows = case["rows"]
    lines = [
        [
            name,
            f"{float(np.median(row['throughput_by_round'])):.1f}",
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p99_ms")),
            f"{100 * row['throttled_share']:.0f} %",
            str(row["threads"]),
        ]
        for name, row in rows.items()
    ]
    answered = ratio(*(rows[name]["throughput_by_round"] for name in ("quota", "core")))
    late = ratio(*(rows[name]["p99_ms_by_round"] for name in ("quota", "before")))
    bars = [
        bar_row("answers/s: quota / core", answered, 0.9, at_least=True),
        bar_row(f"p99 at {CONCURRENCY}: quota / before", late, 0.5, at_least=False),
    ]
    head = ["", "answers/s", "p50 (ms)", "p99 (ms)", "periods throttled", "threads"]
    return f"{markdown(head, lines)}\n\n{markdown(['bar', 'limit', 'measured', ''], bars)}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="openvino-int8")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--cpus", type=float, default=1.0, help="the quota")
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each service and round")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints and engines are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "quota.json")
    parser.add_argument("--quick", action="store_true", help="a tiny network and short rounds: a test of the steps")
    options = parser.parse_args()
    if options.quick:
        options.target, options.pixels, options.rounds, options.seconds = "openvino-fp32", 32, 2, 0.5
    return options


def main() -> None:
    """Measure, save and print."""
    ending_on_sigterm()
    options = parse()
    networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
    result = ResultFile(options.out)
    key = {"target": options.target, "pixels": options.pixels, "cpus": options.cpus, "before": options.before}
    try:
        case = result.measure("quota", key, lambda: measure(options, networks))
    except RRRError as error:
        sys.exit(f"quota.py: {error}")
    assert case is not None
    print(f"\n{tables(case)}\n\nwritten: {options.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
