"""Kill, freeze and stop a real `rrr serve` under load, and judge every answer that its clients got.

    .venv/bin/python tests/long chaos [--only stop kill] [--seed 0] [--stops 20] [--kills 5]

stop      SIGTERM under closed-loop clients: nothing accepted is lost, exit code 0, nothing left behind
kill      kill -9 of tritonserver, of a model's process, of an HTTP worker, each several times in one service
freeze    SIGSTOP of tritonserver, of a model's process and of an HTTP worker: recovery without a hand
parent    kill -9 of the parent: its children go, and a new one takes the port at once

Networks are made when first needed; --quick takes a tiny one.
"""

import argparse
import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import httpx
import psutil

from harness.bounds import Bounds
from harness.clients import HUNG, LOST, RIGHT, UNREACHABLE, WRONG, Clients, Tally, difference
from harness.service import KINDS, Service
from rrrbench import contenders
from rrrbench.environment import ResultFile
from rrrbench.names import ENSEMBLE
from rrrbench.networks import Networks

Found = TypeVar("Found")
SECTIONS = ("stop", "kill", "freeze", "parent")
_POLL_SECONDS = 0.02
_LONGEST_EXIT_SECONDS = 60.0
# What must hold, in seconds.
EXIT_SECONDS, RECOVERY_SECONDS, WORKER_SECONDS, GONE_SECONDS, UNREADY_SECONDS = 15.0, 15.0, 2.0, 3.0, 0.2
FREEZE_SECONDS = {"tritonserver": 15.0, "stub": 30.0, "worker": 5.0}


class Chaos:
    """The trials."""

    def __init__(self, options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
        self.options, self.result, self.check = options, result, bounds.check
        self.random = random.Random(options.seed + options.first)
        networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
        self.bodies = networks.jpegs(options.pixels)[:8]
        self.repository = contenders.repository(networks, options.pixels, [(ENSEMBLE, options.target)]).path

    def service(self, *arguments: str) -> Service:
        """A service that is gone when the block ends."""
        return Service(self.options.cache / "logs" / "chaos.log", str(self.repository), *arguments)

    async def under_load(
        self, service: Service, concurrency: int, act: Callable[[Service, Clients], Awaitable[Found]]
    ) -> tuple[Tally, Found]:
        """Run clients and `act` at the same time; the clients stop when it is done."""
        query = "top_k=4"
        golden = service.golden(query, self.bodies)
        clients = Clients(f"{service.url}/v1/predict?{query}", self.bodies, golden, self.options.deadline)
        running = asyncio.create_task(clients.run(concurrency))
        try:
            acted = await act(service, clients)
        finally:
            clients.stop()
            await running
        return clients.tally, acted

    def _runs(self, count: int) -> range:
        return range(self.options.first, self.options.first + count)

    def judged(self, name: str, tally: Tally) -> dict[str, Any]:
        """What holds for every trial: no wrong answer, no hang."""
        counts = tally.counts()
        self.check(f"{name}: wrong answers: {counts}", not counts.get(WRONG))
        self.check(f"{name}: requests that hung: {counts}", not counts.get(HUNG))
        return {"endings": counts, "slowest_seconds": tally.slowest_seconds()}

    def stop(self) -> None:
        """SIGTERM under load, again and again, with two lengths of the drain."""
        for index in self._runs(self.options.stops):
            drain = (1.0, 3.0)[index % 2]
            with self.service("--drain", str(drain)) as service:
                children = service.children()
                tally, found = asyncio.run(self.under_load(service, 16, self._stopped))
                left = service.left_behind(children)
            name = f"stop {index}"
            answered = max((e.sent for e in tally.endings if e.kind == RIGHT), default=0.0) - found.pop("signalled")
            case = {**found, "drain_seconds": drain, "answered_for_seconds": answered, "left_behind": left}
            lost = [ending.detail for ending in tally.endings if ending.kind == LOST]
            self.check(f"{name}: lost {lost}", not lost)
            self.check(f"{name}: exit code {found['exit_code']}", found["exit_code"] == 0)
            self.check(f"{name}: exit after {found['exit_seconds']:.1f} s", found["exit_seconds"] <= EXIT_SECONDS)
            self.check(f"{name}: left behind {left}", not left)
            unready = found["unready_seconds"]
            self.check(f"{name}: unready after {unready:.2f} s", unready <= UNREADY_SECONDS)
            self.check(f"{name}: answered for {answered:.2f} s", drain - 0.3 <= answered <= drain + 0.3)
            strange = set(tally.counts()) - {RIGHT, "503", UNREACHABLE}
            self.check(f"{name}: ended otherwise: {strange}", not strange)
            self.result.record("stop", {"run": index}, {**case, **self.judged(name, tally)})
            print(f"{name}: {case} {tally.counts()}", flush=True)

    async def _stopped(self, service: Service, _clients: Clients) -> dict[str, Any]:
        await asyncio.sleep(self.random.uniform(0.5, 1.5))
        unready = None
        async with httpx.AsyncClient(base_url=service.url, timeout=5, trust_env=False) as client:
            await client.get("/readyz")
            signalled = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            while unready is None:
                try:
                    if (await client.get("/readyz")).status_code == 503:
                        unready = time.monotonic() - signalled
                except httpx.TransportError:
                    unready = float("inf")
                await asyncio.sleep(_POLL_SECONDS)
        await asyncio.to_thread(service.process.wait, _LONGEST_EXIT_SECONDS)
        return {
            "signalled": signalled,
            "unready_seconds": unready,
            "exit_code": service.process.returncode,
            "exit_seconds": time.monotonic() - signalled,
        }

    def kill(self) -> None:
        """Kill each kind of child in turn, in one service."""
        self._harm(
            "kill",
            signal.SIGKILL,
            {"tritonserver": RECOVERY_SECONDS, "stub": RECOVERY_SECONDS, "worker": WORKER_SECONDS},
        )

    def freeze(self) -> None:
        """SIGSTOP of each kind of child in turn, in one service."""
        self._harm("freeze", signal.SIGSTOP, FREEZE_SECONDS)

    def _harm(self, section: str, number: signal.Signals, bounds: dict[str, float]) -> None:
        rounds = self.options.kills if section == "kill" else self.options.freezes
        with self.service("--restarts", "1000", "--workers", str(self.options.workers)) as service:
            baseline = service.shared_memory()
            for index in self._runs(rounds):
                for kind, bound in ((kind, bounds[kind]) for kind in self.options.kinds):
                    name = f"{section} {kind} {index}"
                    harm = partial(self._harmed, kind=kind, number=number, bound=bound)
                    tally, (moment, victim) = asyncio.run(self.under_load(service, 8, harm))
                    recovered = tally.recovered_after(moment)
                    case = {
                        "kind": kind,
                        "load_average": os.getloadavg()[0],
                        "recovered_seconds": recovered,
                        "victim_gone": not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE,
                        "shared_memory": [baseline, service.shared_memory()],
                        "memory_mb": service.memory_mb(),
                        "lost": tally.count(LOST),
                    }
                    self.check(f"{name}: recovered after {recovered:.1f} s", recovered <= bound)
                    self.check(f"{name}: the parent has ended", service.process.poll() is None)
                    self.check(f"{name}: shared memory {case['shared_memory']}", baseline == service.shared_memory())
                    if kind != "worker":
                        self.check(f"{name}: lost {case['lost']}", not case["lost"])
                    self.result.record(section, {"run": index, "kind": kind}, {**case, **self.judged(name, tally)})
                    print(f"{name}: {case} {tally.counts()}", flush=True)

    async def _harmed(
        self, service: Service, clients: Clients, *, kind: str, number: signal.Signals, bound: float
    ) -> tuple[float, psutil.Process]:
        """Harm one process of a kind; wait until clients were answered rightly for a while."""
        # A part that has worked for 10 s is started again without a pause.
        await asyncio.sleep(self.random.uniform(*self.options.between))
        victim = self.random.choice(service.of_kind(kind))
        moment = time.monotonic()
        victim.send_signal(number)
        settled = 0.0
        while time.monotonic() - moment < 2 * bound + 5 and settled < self.options.settle:
            await asyncio.sleep(0.1)
            last_bad = max((e.ended for e in clients.tally.endings if e.kind != RIGHT), default=0.0)
            since = max(last_bad, moment)
            good = clients.tally.endings and clients.tally.endings[-1].kind == RIGHT
            replaced = all(process.pid != victim.pid for process in service.of_kind(kind))
            settled = time.monotonic() - since if good and replaced else 0.0
        return moment, victim

    def parent(self) -> None:
        """Kill the parent under load; then start a new one at the same port at once."""
        for index in self._runs(self.options.parents):
            with self.service() as service:
                before = service.golden("top_k=4", self.bodies)
                tally, gone = asyncio.run(self.under_load(service, 8, self._orphaned))
                port = service.port
            with self.service("--port", str(port)) as again:
                left = service.files()  # which this start has swept
                pairs = zip(before, again.golden("top_k=4", self.bodies), strict=True)
                changed = [fault for pair in pairs if (fault := difference(*pair))]
            case = {"children_gone_seconds": gone, "left_behind": left, "restart_seconds": again.start_seconds}
            self.check(f"parent {index}: children gone after {gone:.1f} s", gone <= GONE_SECONDS)
            self.check(f"parent {index}: left behind {left}", not left)
            self.check(f"parent {index}: other answers than before: {changed}", not changed)
            self.result.record("parent", {"run": index}, {**case, **self.judged(f"parent {index}", tally)})
            print(f"parent {index}: {case} {tally.counts()}", flush=True)

    async def _orphaned(self, service: Service, _clients: Clients) -> float:
        children = service.children()
        await asyncio.sleep(self.random.uniform(0.5, 1.5))
        moment = time.monotonic()
        service.process.kill()
        service.process.wait()
        while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in children):
            await asyncio.sleep(_POLL_SECONDS)
            if time.monotonic() - moment > _LONGEST_EXIT_SECONDS:
                break
        return time.monotonic() - moment


def summary(document: dict[str, Any]) -> str:
    """A Markdown table of all trials of a result file."""
    rows = ["| trial | runs | answers | wrong | hung | lost | slowest answer (s) | worst time (s) |", "|" + "---|" * 8]
    times = {
        "stop": ("exit_seconds", "exit"),
        "kill": ("recovered_seconds", "recovered"),
        "freeze": ("recovered_seconds", "recovered"),
        "parent": ("children_gone_seconds", "children gone"),
    }
    for section, (key, word) in times.items():
        for kind in dict.fromkeys(case.get("kind", "") for case in document.get(section, [])):
            cases = [case for case in document[section] if case.get("kind", "") == kind]

            def total(end: str, cases: list[dict[str, Any]] = cases) -> int:
                return sum(case["endings"].get(end, 0) for case in cases)

            rows.append(
                f"| {section} {kind} | {len(cases)} | {total(RIGHT)} | {total(WRONG)} | {total(HUNG)} | {total(LOST)} "
                f"| {max(case['slowest_seconds'] for case in cases):.2f} "
                f"| {word} {max(case[key] for case in cases):.1f} |"
            )
    return "\n".join(rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--target", default="onnxruntime-fp32", help="exact, so that every answer can be judged")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run: a long series can be divided")
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="what to kill and freeze")
    parser.add_argument("--freezes", type=int, default=2, help="of each kind")
    parser.add_argument("--parents", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="HTTP workers of the service that is harmed")
    parser.add_argument("--deadline", type=float, default=5.0, metavar="SECONDS", help="of each request")
    parser.add_argument("--between", type=float, nargs=2, default=[1.0, 3.0], metavar="SECONDS", help="before a fault")
    parser.add_argument("--settle", type=float, default=10.5, metavar="SECONDS", help="without failure after a fault")
    parser.add_argument("--quick", action="store_true", help="a tiny network and few trials")


def run(options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
    """All sections asked for."""
    if options.quick:
        options.pixels, options.stops, options.kills, options.freezes, options.parents = 32, 2, 1, 1, 1
        options.settle = 1.0
    chaos = Chaos(options, result, bounds)
    for section in options.only:
        getattr(chaos, section)()
