"""What scale.py measures: engines and replicas on one core each, what they cost, and what they do under load."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rrrbench import contenders
from rrrbench.environment import ResultFile
from rrrbench.names import ENSEMBLE
from rrrbench.networks import Networks
from rrrbench.photos import photo
from rrrbench.scale.load import Driven, Load, drive
from rrrbench.scale.replicas import (
    APART,
    ONE,
    TOPOLOGIES,
    Deployment,
    deployed,
    folder_bytes,
    pixels_bytes,
    repository_of,
    since,
    usable_cores,
    wire_bytes,
)
from rrrbench.scale.simulation import Topology

_WARM_UP_REQUESTS = 16
_IDLE_SECONDS = 3.0
_MOMENT_SECONDS = 1.5
# Clients of the runs that tell what a request costs alone, beside another, and what of it is shared by a batch.
LIGHT, PAIR, LOADED = 1, 2, 8
_CALM_SHARE = 0.3  # of what a replica can do: the run that tells what it costs to begin after idling
_SEEDS = 100  # of each round; the last is the calm run's


class Measurements:
    """The sections; each measures one case into the result file."""

    def __init__(self, options: argparse.Namespace, networks: Networks, result: ResultFile) -> None:
        self.options, self.networks, self.result = options, networks, result
        self.bodies = networks.jpegs(options.pixels)
        self.logs = networks.cache / "logs"

    def engine(self, target: str) -> None:
        """Calls of the engine on one core by size of batch, and again while the other core does the same."""
        self.result.measure("engine", self._key(target), partial(self._engine_times, target))

    def service(self, target: str) -> None:
        """One replica on one core: its start, what stands idle, and what requests and batches cost it."""
        self.result.measure("service", self._key(target), partial(self._served, target))

    def replicas(self, target: str) -> None:
        """Engine, service, and closed and open loops on each topology, round by round.

        Rates are shares of what one replica can do, going by the section `service`, and the same in all rounds.
        """
        most = case_of(self.result.document, "service", target)["loaded"]["throughput"]
        for number in range(self.options.rounds):
            print(f"round {number + 1} of {self.options.rounds}", flush=True)
            call = partial(self._round, target, number, most)
            self.result.measure("replicas", {**self._key(target), "round": number}, call)

    def _round(self, target: str, number: int, most: float) -> dict[str, Any]:
        repository = repository_of(self.networks, self.options.pixels, target)
        found = {"engine": self._engine_times(target), "service": self._served(target, number)}
        return {
            **found,
            "topologies": {
                name: self._loaded(name, topology, repository.path, number, most)
                for name, topology in TOPOLOGIES.items()
            },
        }

    def _engine_times(self, target: str) -> dict[str, Any]:
        folder = self.networks.engine_folder(ENSEMBLE, self.options.pixels, target)
        first, *_ = cores = usable_cores()
        (alone,) = self._engines(folder, [first], self.options.batch)
        few = [size for size in self.options.batch if size in (LIGHT, LOADED)]
        both = self._engines(folder, cores, few)
        together = {size: [time_ms for times in both for time_ms in times[size]] for size in both[0]}
        return {"alone_ms": alone, "both_ms": together}

    def _served(self, target: str, number: int = 0) -> dict[str, Any]:
        repository = repository_of(self.networks, self.options.pixels, target)
        limits = {"requests": self.options.requests, "seconds": self.options.seconds}
        with deployed(TOPOLOGIES[ONE], repository.path, self.logs) as one:
            (server,), (url,) = one.fronts, one.urls
            drive([url], self.bodies, Load(_WARM_UP_REQUESTS, 60.0, clients=2))
            found: dict[str, Any] = {"start_seconds": server.start_seconds, "idle_cpu_share": _idle(one)}
            runs = {"light": LIGHT, "pair": PAIR, "loaded": LOADED}
            loads = [Load(**limits, clients=clients) for clients in runs.values()]
            for name, (driven, run) in zip(runs, self._driven(one, loads), strict=True):
                found[name] = {**run, **(_image_stages(driven) if name == "light" else {})}
            rate = _CALM_SHARE * found["loaded"]["throughput"]
            calm = Load(**limits, rate_per_second=rate, seed=_SEEDS * number + _SEEDS - 1)
            ((_, found["calm"]),) = self._driven(one, [calm])
            wires = [wire_bytes(url, body) for body in self.bodies]
            shot = wire_bytes(url, photo("cat", 0))
            found["wire_bytes"] = {
                "drawn letter": {name: float(np.mean([wire[name] for wire in wires])) for name in wires[0]},
                "photo": {name: float(size) for name, size in shot.items()},
                "pixels": pixels_bytes(repository.models[0]),
            }
            found["memory_mb"] = server.memory_mb()
            found["repository_bytes"] = folder_bytes(repository.path)
        return found

    def _loaded(
        self, name: str, topology: Topology, repository: Path, number: int, most: float
    ) -> list[dict[str, Any]]:
        count = len(topology.fronts)
        rows = []
        with deployed(topology, repository, self.logs) as running:
            drive(running.urls, self.bodies, Load(_WARM_UP_REQUESTS * count, 60.0, clients=2 * count))
            loads = self._loads(name, count, number, count * most)
            for load, (driven, found) in zip(loads, self._driven(running, loads), strict=True):
                rows.append({**_told(load), **found})
                print(f"{name}, {load_text(rows[-1])}: {driven.throughput:.1f}/s", flush=True)
        return rows

    def start(self, target: str) -> None:
        """From the start of the process until it is ready, on one core and on all, and the first answers then."""
        repository = repository_of(self.networks, self.options.pixels, target)

        def call() -> dict[str, Any]:
            found: dict[str, Any] = {}
            first, *_ = cores = usable_cores()
            for name, places in (("1 core", [first]), (f"{len(cores)} cores", cores)):
                seconds, first_ms, later_ms = [], [], []
                for _ in range(self.options.starts):
                    with contenders.rrr_serve(
                        repository.path, self.logs, options=["--workers", "1"], cores=places
                    ) as server:
                        seconds.append(server.start_seconds)
                        driven = drive([f"{server.url}/v1/predict"], self.bodies, Load(40, 60.0, clients=1))
                        first_ms.append(float(driven.latencies_ms[0]))
                        later_ms.append(float(np.median(driven.latencies_ms[20:])))
                found[name] = {"start_seconds": seconds, "first_answer_ms": first_ms, "later_answers_ms": later_ms}
            return found

        self.result.measure("start", self._key(target), call)

    def _key(self, target: str) -> dict[str, Any]:
        return {"target": target, "pixels": self.options.pixels}

    def _loads(self, topology: str, count: int, number: int, most: float) -> Sequence[Load]:
        options = self.options
        limits = {"requests": options.requests * count, "seconds": options.seconds}
        closed = [Load(**limits, clients=clients) for clients in options.clients]
        opened = [
            Load(**limits, rate_per_second=share * most, seed=_SEEDS * number + place)
            for place, share in enumerate(options.rate_share)
        ]
        return closed if topology == APART else [*closed, *opened]

    def _driven(self, running: Deployment, loads: Sequence[Load]) -> Iterator[tuple[Driven, dict[str, Any]]]:
        """Each load, with what one client's inferences took before and after it: how fast the machine was."""
        before_ms = self._one_client_ms(running)
        for load in loads:
            driven, found = self._drive(running, load)
            after_ms = self._one_client_ms(running)
            found["one_client_ms"] = _quantiles([*before_ms, *after_ms])
            before_ms = after_ms
            yield driven, found

    def _one_client_ms(self, running: Deployment) -> list[float]:
        """Inferences of one client that asks one replica after the other, each for a moment."""
        load = Load(self.options.requests, _MOMENT_SECONDS, clients=1)
        return [ms for url in running.urls for ms in drive([url], self.bodies, load).stages_ms()["inference"]]

    def _drive(self, running: Deployment, load: Load) -> tuple[Driven, dict[str, Any]]:
        """A load, and what each part of the replicas and the client spent on it."""
        before, ran = running.cpu_seconds(), running.inferences()
        driven = drive(running.urls, self.bodies, load)
        spent = since(before, running.cpu_seconds())
        run = since(ran, running.inferences())
        requests = len(driven.latencies_ms)
        return driven, {
            **driven.figures(),
            "seconds": driven.seconds,
            # The service's own looks at the model are batches of one image.
            "batches": run["batches"] - (run["images"] - requests) if run["images"] else None,
            "queue_ms": run["queue_us"] / run["images"] / 1000 if run["images"] else None,
            "stages_ms": {
                stage: [float(value) for value in np.percentile(times, (50, 99))]
                for stage, times in driven.stages_ms().items()
            },
            "cpu_seconds": spent,
            "client_cpu_ms": 1000 * driven.client_cpu_seconds / requests,
        }

    def _engines(self, folder: Path, cores: Sequence[int], batch: Sequence[int]) -> list[dict[str, list[float]]]:
        """Times by size of batch of an engine on each of these cores, all at the same time."""
        words = [sys.executable, "-m", "rrrbench.scale.engine_times", str(folder)]
        words += ["--seconds", str(self.options.engine_seconds), "--batch", *map(str, batch)]
        processes = [
            subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **contenders.python_path()},
            )
            for core in cores
        ]
        try:
            for process in processes:
                if process.stdout is None or process.stdout.readline().strip() != "ready":
                    raise SystemExit(f"{folder} could not be loaded in a process of its own")
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            return [json.loads(process.communicate()[0]) for process in processes]
        finally:
            for process in processes:
                process.kill()


def case_of(document: Mapping[str, Any], section: str, target: str) -> dict[str, Any]:
    """The case of a target that others are reckoned from.

    Raises:
        SystemExit: it was not measured.
    """
    for case in document.get(section, []):
        if case["target"] == target:
            return dict(case)
    raise SystemExit(f"{section} of {target} is not in the file yet: --only {section} --targets {target} measures it")


def _idle(running: Deployment) -> dict[str, float]:
    """Shares of a core that the parts of a replica take when nobody asks."""
    before = running.cpu_seconds()
    time.sleep(_IDLE_SECONDS)
    spent = since(before, running.cpu_seconds())
    return {part: seconds / _IDLE_SECONDS for part, seconds in spent.items()}


def _quantiles(times_ms: Sequence[float]) -> list[float]:
    """Two hundred of them, for a file that people may open."""
    return [round(float(each), 2) for each in np.percentile(times_ms, np.arange(0.25, 100, 0.5))]


def _image_stages(driven: Driven) -> dict[str, list[float]]:
    """What decoding and resizing took, for a few hundred answers."""
    stages = driven.stages_ms()
    return {f"{name}_ms": stages[name][:300] for name in ("decode", "preprocess")}


def _told(load: Load) -> dict[str, Any]:
    """A load, JSON-ready; `load_of` reads it back."""
    if load.clients is not None:
        return {"clients": load.clients}
    return {"rate_per_second": load.rate_per_second, "seed": load.seed, "most_seconds": load.seconds}


def load_of(row: Mapping[str, Any]) -> Load:
    """The load of a measured row, with as many requests as were answered."""
    if "clients" in row:
        return Load(row["requests"], np.inf, clients=row["clients"])
    return Load(row["requests"], row["most_seconds"], rate_per_second=row["rate_per_second"], seed=row["seed"])


def load_text(row: Mapping[str, Any]) -> str:
    """A load as tables name it."""
    if "clients" in row:
        return f"{row['clients']} client{'s' * (row['clients'] > 1)}"
    return f"{row['rate_per_second']:.1f}/s"
