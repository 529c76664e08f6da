"""The service against its own engine: what HTTP costs, how it behaves under load, how fast it starts, what it weighs.

.venv/bin/python benchmarks/service.py

start        `rrr serve` of ensemble and ResNet152 until /readyz answers, and the memory of all its processes
latency      one request at a time over HTTP and one call of the engine in this process, in turns
concurrency  1 to 64 requests under way, and the engine's throughput at batch 1 to 32 in the same rounds

Requests are JPEG files of the networks' size over keep-alive connections, in a closed loop. What others serve is
compared by benchmarks/peers/run.py.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from rrrbench import contenders
from rrrbench.environment import RESULTS, ResultFile
from rrrbench.names import BASELINE, ENSEMBLE
from rrrbench.networks import CACHE, Networks
from rrrbench.servers import Server, ending_on_sigterm
from rrrbench.service_tables import service_bars, service_tables
from rrrbuild.engine import Engine
from rrrbuild.heldout import generated_images
from rrrbuild.repository_document import Repository
from rrrnet.images.preprocess import Preprocess, image_to_array
from rrrserve.bench.closed_loop import Result, closed_loop

SECTIONS = ("start", "latency", "concurrency")
REQUESTS_A_TURN = 20


class Measurements:
    """The sections; each measures one case into the result file."""

    def __init__(self, options: argparse.Namespace, networks: Networks, result: ResultFile) -> None:
        self.options, self.networks, self.result = options, networks, result
        self.bodies = networks.jpegs(options.pixels)
        self.key = {"target": options.target, "pixels": options.pixels}

    def start(self, repository: Repository) -> None:
        """Start and end the service some times."""

        def call() -> dict[str, Any]:
            seconds, memory_mb = [], []
            for _ in range(self.options.starts):
                with contenders.rrr_serve(repository.path, self.networks.cache / "logs") as server:
                    seconds.append(server.start_seconds)
                    for model in repository.models:
                        self._ask(server, model.name, 8, requests=64)
                    memory_mb.append(server.memory_mb())
            return {"start_seconds": seconds, "memory_mb": memory_mb}

        self.result.measure("start", self.key, call)

    def latency(self, server: Server, engines: dict[str, Engine]) -> None:
        """A few requests over HTTP, then as many calls of the engine, round after round."""

        def call() -> dict[str, Any]:
            rows: dict[str, Any] = {}
            for name, engine in engines.items():
                pixels = [image_to_array(body, engine.manifest.preprocess)[None] for body in self.bodies]
                model = f"{name}.{self.options.target}"
                http: list[Any] = []
                direct: list[Any] = []
                for _ in range(self.options.rounds + 1):
                    http.append(self._ask(server, model, 1, requests=REQUESTS_A_TURN).latencies_seconds * 1000)
                    direct.append(_call(engine, pixels, REQUESTS_A_TURN))
                rows[name] = {"http": _turns(http[1:]), "engine": _turns(direct[1:])}  # the first round is warm-up
            return {"rows": rows}

        self.result.measure("latency", self.key, call)

    def concurrency(self, server: Server, engine: Engine) -> None:
        """Each concurrency for some time and each batch size of the engine, round after round."""
        images = {size: generated_images(Preprocess(self.options.pixels), size) for size in self.options.batch}
        model = f"{ENSEMBLE}.{self.options.target}"

        def call() -> dict[str, Any]:
            results: dict[int, list[Result]] = {concurrency: [] for concurrency in self.options.concurrency}
            rates: dict[int, list[float]] = {size: [] for size in images}
            for index in range(self.options.rounds):
                for concurrency in results if index % 2 else reversed(results):
                    results[concurrency].append(self._ask(server, model, concurrency, seconds=self.options.seconds))
                for size, batch in images.items():
                    engine(batch)
                    times = _call(engine, [batch], max(2, 16 // size))
                    rates[size].append(1000 * size / float(np.median(times)))
                print(f"concurrency: round {index + 1} of {self.options.rounds}", flush=True)
            return {
                "http": {
                    str(concurrency): {
                        "throughput_by_round": [result.throughput for result in found],
                        **contenders.pooled(found),
                    }
                    for concurrency, found in results.items()
                },
                "engine_images_per_second": {str(size): values for size, values in rates.items()},
            }

        self.result.measure("concurrency", self.key, call)

    def _ask(self, server: Server, model: str, concurrency: int, **limit: Any) -> Result:
        url = f"{server.url}/v1/models/{model}/predict"
        found = asyncio.run(closed_loop(url, self.bodies, concurrency, **limit))
        if found.errors or not len(found.latencies_seconds):
            sys.exit(f"{url} at concurrency {concurrency}: {found.errors or 'no answer'}")
        return found


def _call(engine: Engine, inputs: list[Any], count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    times_ms = []
    for index in range(count):
        start = time.perf_counter()
        engine(inputs[index % len(inputs)])
        times_ms.append(1000 * (time.perf_counter() - start))
    return times_ms


def _turns(turns: list[Any]) -> dict[str, Any]:
    """The median of each turn, and percentiles of all together."""
    return {
        "p50_ms_by_round": [float(np.median(turn)) for turn in turns],
        **contenders.percentiles(np.concatenate(turns)),
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to measure")
    parser.add_argument("--target", default="openvino-bf16")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of the engine's throughput")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=5, help="how often the service is started")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each concurrency and round")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints and engines are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "service.json")
    parser.add_argument("--quick", action="store_true", help="tiny networks and short rounds: a test of the steps")
    options = parser.parse_args()
    if options.quick:
        options.target, options.pixels, options.rounds, options.starts = "openvino-fp32", 32, 2, 1
        options.seconds, options.concurrency, options.batch = 0.2, [1, 2], [1, 2]
    return options


def main() -> None:
    """Measure, save and print."""
    ending_on_sigterm()
    options = parse()
    networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
    result = ResultFile(options.out)
    measurements = Measurements(options, networks, result)
    pairs = [(ENSEMBLE, options.target), (BASELINE, options.target)]
    repository = contenders.repository(networks, options.pixels, pairs)
    seconds = options.rounds * len(options.concurrency) * options.seconds * 1.2 + 60
    print(f"all sections together: about {seconds:.0f} s", flush=True)
    if "start" in options.only:
        measurements.start(repository)
    if {"latency", "concurrency"} & set(options.only):
        engines = {name: networks.engine(name, options.pixels, options.target) for name, _ in pairs}
        with contenders.rrr_serve(repository.path, options.cache / "logs") as server:
            if "latency" in options.only:
                measurements.latency(server, engines)
            if "concurrency" in options.only:
                measurements.concurrency(server, engines[ENSEMBLE])
    for title, table in service_tables(result.document).items():
        print(f"\n{title}\n{table}")
    print(f"\n{service_bars(result.document)}\n\nwritten: {options.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
