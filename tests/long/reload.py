"""Reload a real `rrr serve` again and again under judged load, half of the times with a repository that is unfit.

    .venv/bin/python tests/long reload [--reloads 10] [--seed 0]

Clients ask for single images and for batches without a pause. Every answer must be of status 200, and equal what the
version that it names answers, and no other. An unfit repository must be refused, with the reason, and the version that
is served stays. Versions have the same model name and are networks of different sizes.
"""

import argparse
import asyncio
import base64
import json
import random
import re
import shutil
import subprocess
from collections import Counter
from typing import Any

import httpx

from harness.bounds import Bounds
from harness.clients import RIGHT, Ending
from harness.damage import DAMAGES, damaged
from harness.service import RRR, Service
from harness.versioned_clients import Goldens, VersionedClients, distinct
from rrrbench.environment import ResultFile
from rrrbench.names import ENSEMBLE, members_name
from rrrbench.networks import Networks
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import read_repository
from rrrserve.triton.install import find_tritonserver

MODEL = "model"
_IMAGES = 8
_QUERY = "top_k=4"
_JSON = "Content-Type: application/json\r\n"


class Reloads:
    """A service, two versions, and clients that know both."""

    def __init__(self, options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
        self.options, self.result, self.check = options, result, bounds.check
        self.random = random.Random(options.seed)
        networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
        self.bodies = networks.jpegs(options.pixels)[:_IMAGES]
        self.folder = options.cache / "reload"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.sound = {}
        for name in (ENSEMBLE, members_name(4)):
            engine = networks.engine_folder(name, options.pixels, options.target)
            out = self.folder / name
            write_repository([engine], out, backends=find_tritonserver().backends, names=[MODEL])
            self.sound[read_repository(out).short_digest] = out
        self.live = self.folder / "live"

    def install(self, make: str | None, version: str) -> None:
        """Put a version in the place that the service reads: as it is, or damaged in the way named `make`."""
        shutil.rmtree(self.live, ignore_errors=True)
        if make is None:
            shutil.copytree(self.sound[version], self.live)
        else:
            damaged(self.sound[version], self.live, make, self.random)

    def service(self) -> Service:
        """The service, gone when the block ends."""
        words = ("--workers", str(self.options.workers), "--restarts", "1000")
        return Service(self.folder / "serve.log", str(self.live), *words)

    def run(self) -> None:
        """All reloads under one load."""
        first, second = self.sound
        self.install(None, first)
        with self.service() as service:
            goldens = {first: service.golden(_QUERY, self.bodies)}
            self.install(None, second)
            reload(service)
            goldens[second] = service.golden(_QUERY, self.bodies)
            self.check("the two versions answer alike", distinct(goldens))
            asyncio.run(self._under_load(service, goldens, [second, first]))

    async def _under_load(self, service: Service, goldens: Goldens, versions: list[str]) -> None:
        batch = json.dumps({"images": [base64.b64encode(body).decode() for body in self.bodies]}).encode()
        deadline = self.options.deadline
        clients = [
            VersionedClients(f"{service.url}/v1/predict?{_QUERY}", self.bodies, goldens, deadline),
            VersionedClients(f"{service.url}/v1/predict_batch?{_QUERY}", [batch], goldens, deadline, headers=_JSON),
        ]
        running = [asyncio.create_task(part.run(count)) for part, count in zip(clients, (6, 2), strict=True)]
        seen = [0, 0]
        try:
            for index in range(self.options.reloads):
                await asyncio.sleep(self.random.uniform(0.5, 1.5))
                case = await self._one(service, index, versions)
                endings = [
                    ending for part, start in zip(clients, seen, strict=True) for ending in part.tally.endings[start:]
                ]
                seen = [len(part.tally.endings) for part in clients]
                self._judge(index, case, endings)
        finally:
            for part in clients:
                part.stop()
            await asyncio.gather(*running)
        answered = sum((part.answered_by for part in clients), Counter())
        endings = [ending for part in clients for ending in part.tally.endings]
        self.result.record(
            "whole",
            {"workers": self.options.workers},
            {
                "answers_of_each_version": dict(answered),
                "endings": dict(Counter(ending.kind for ending in endings)),
                "slowest_seconds": max(ending.seconds for ending in endings),
                "batches": len(clients[1].tally.endings),
            },
        )
        self.check(f"each version answered: {answered}", len(answered) == len(goldens))

    async def _one(self, service: Service, index: int, versions: list[str]) -> dict[str, Any]:
        """One reload: odd ones with an unfit repository."""
        unfit = list(DAMAGES)[index // 2 % len(DAMAGES)] if index % 2 else None
        wanted = versions[1]
        await asyncio.to_thread(self.install, unfit, wanted)
        done = await asyncio.to_thread(reload, service)
        if unfit is None:
            versions.reverse()
            self.check(f"reload {index}: {done.stderr}", done.returncode == 0)
        else:
            said = bool(re.search(DAMAGES[unfit][1], done.stderr))
            self.check(f"reload {index}, {unfit}: exit {done.returncode}, {done.stderr}", done.returncode == 1 and said)
        async with httpx.AsyncClient(trust_env=False) as client:
            serving = (await client.get(f"{service.url}/v1/models")).json()["repository"]
        self.check(f"reload {index}: {serving} is served, not {versions[0]}", serving == versions[0])
        return {
            "kind": unfit or "sound",
            "exit_code": done.returncode,
            "memory_mb": service.memory_mb(),
            **json.loads(done.stdout),
        }

    def _judge(self, index: int, case: dict[str, Any], endings: list[Ending]) -> None:
        counts = dict(Counter(ending.kind for ending in endings))
        faults = [ending.detail for ending in endings if ending.kind != RIGHT][:3]
        self.check(f"reload {index}: {counts} {faults}", set(counts) == {RIGHT})
        slowest = max((ending.seconds for ending in endings), default=0.0)
        case |= {"endings": counts, "slowest_seconds": slowest}
        del case["number"]
        case["message"] = re.sub(r"(/[^\s/]+)+/", ".../", case["message"])  # no paths of this machine
        self.result.record("reload", {"run": index, "workers": self.options.workers}, case)
        print(f"reload {index}: {case['kind']}: {case['outcome']} in {case['seconds']:.1f} s, {counts}", flush=True)


def reload(service: Service) -> subprocess.CompletedProcess[str]:
    """`rrr reload`, to its end."""
    command = [str(RRR), "reload", "--pid", str(service.process.pid), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def summary(document: dict[str, Any]) -> str:
    """A Markdown table of a result file."""
    rows = ["| repository | reloads | outcome | time (s) | answers meanwhile | not right |", "|" + "---|" * 6]
    for name in dict.fromkeys(case["kind"] for case in document["reload"]):
        cases = [case for case in document["reload"] if case["kind"] == name]
        answers = sum(sum(case["endings"].values()) for case in cases)
        right = sum(case["endings"].get(RIGHT, 0) for case in cases)
        seconds = [case["seconds"] for case in cases]
        outcomes = ", ".join(sorted({case["outcome"] for case in cases}))
        rows.append(
            f"| {name} | {len(cases)} | {outcomes} | {min(seconds):.1f} to {max(seconds):.1f} | {answers} "
            f"| {answers - right} |"
        )
    return "\n".join(rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--reloads", type=int, default=10)
    parser.add_argument("--target", default="onnxruntime-fp32", help="exact, so that every answer can be judged")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="HTTP workers")
    parser.add_argument("--deadline", type=float, default=5.0, metavar="SECONDS", help="of each request")
    parser.add_argument("--quick", action="store_true", help="tiny networks")


def run(options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
    """All reloads."""
    if options.quick:
        options.pixels = 32
    Reloads(options, result, bounds).run()
