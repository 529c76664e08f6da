"""Our service beside what users would pick instead, asked for the same images in rounds, one at a time.

    .venv/bin/python benchmarks/peers/run.py
    .venv/bin/python benchmarks/peers/run.py --only same_engine --target openvino-fp32

peers        everything that is in this folder, at one size
same_engine  our service and those peers that run the very engine that it runs: what its way to the engine costs

All servers are started first; while one is measured, every process of the others is stopped (SIGSTOP), so that it has
both cores for itself and the client. In each round every contender is driven in a closed loop at each concurrency; the
order rotates. What is served and how stands in the files beside this one.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rrrbench import contenders, tensor_client
from rrrbench.contenders import Contender
from rrrbench.environment import RESULTS, ResultFile
from rrrbench.names import BASELINE, ENSEMBLE
from rrrbench.networks import CACHE, Networks
from rrrbench.same_engine import FASTAPI, LITSERVE, TRITON, same_engine_bars, same_engine_table
from rrrbench.servers import Server, ending_on_sigterm
from rrrbench.service_tables import OURS, peers_bars, peers_table
from rrrbuild.repository_document import Repository
from rrrserve.bench.closed_loop import Result

SECTIONS = ("peers", "same_engine")
ONNX_TARGET = "onnxruntime-fp32"
WARM_UP_SECONDS = 0.3


class Starting:
    """Starts servers, waits until each is ready, and holds it.

    Attributes:
        found: the contenders, by the names of their rows.
    """

    def __init__(self, stack: ExitStack, networks: Networks, target: str, pixels: int) -> None:
        self.found: dict[str, Contender] = {}
        self._stack, self._networks, self._target, self._pixels = stack, networks, target, pixels
        self._logs = networks.cache / "logs"
        self._bodies = networks.jpegs(pixels)

    def peers(self) -> None:
        """Everything; our service and Triton with the ONNX Runtime peers' engine beside ours."""
        targets = list(dict.fromkeys([self._target, ONNX_TARGET]))
        onnx = self._networks.engine_folder(ENSEMBLE, self._pixels, ONNX_TARGET)
        repository = self._service(targets)
        for name in (BASELINE, ENSEMBLE):
            server = contenders.bentoml_torch(self._networks, name, self._pixels, self._logs)
            self._enter(f"BentoML + PyTorch eager, {name}", server, "/predict", self._bodies)
        self._in_process("LitServe + ONNX Runtime", "FastAPI + ONNX Runtime", "OnnxClassifier", onnx)
        self._triton(repository)

    def same_engine(self) -> None:
        """What runs the target's engine; the FastAPI peer follows ours, so that they are neighbours in time."""
        repository = self._service([self._target])
        engine = self._networks.engine_folder(ENSEMBLE, self._pixels, self._target)
        self._in_process(LITSERVE, FASTAPI, "EngineClassifier", engine)
        self._triton(repository)

    def _service(self, targets: Sequence[str]) -> Repository:
        """Our service, a row for each target of its repository; the first is its default model."""
        repository = contenders.repository(self._networks, self._pixels, [(ENSEMBLE, target) for target in targets])
        first = f"{OURS}, {targets[0]}"
        self._enter(first, contenders.rrr_serve(repository.path, self._logs), "/v1/predict", self._bodies)
        for target in targets[1:]:
            server = self.found[first].server
            drive = contenders.http(f"{server.url}/v1/models/{ENSEMBLE}.{target}/predict", self._bodies)
            self.found[f"{OURS}, {target}"] = Contender(server, drive)
        return repository

    def _in_process(self, litserve: str, fastapi: str, classifier: str, engine: Path) -> None:
        json_bodies = contenders.as_json(self._bodies)
        self._enter(fastapi, contenders.fastapi(classifier, engine, self._logs), "/predict", self._bodies)
        self._enter(litserve, contenders.litserve(classifier, engine, self._logs), "/predict", json_bodies)

    def _triton(self, repository: Repository) -> None:
        triton = self._stack.enter_context(contenders.triton_alone(repository.path, self._logs))
        for model in repository.models:

            def drive(concurrency: int, seconds: float, model: Any = model) -> Any:
                return tensor_client.closed_loop(triton.url, model, self._bodies, concurrency, seconds)

            self.found[f"{TRITON}, {model.target}"] = Contender(triton, drive)
        triton.hold()

    def _enter(self, name: str, server: Any, path: str, bodies: list[bytes]) -> None:
        print(f"starting {name}", flush=True)
        started = self._stack.enter_context(server)
        self.found[name] = Contender(started, contenders.http(started.url + path, bodies))
        started.hold()


def measure(found: Mapping[str, Contender], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Drive each contender in each round; gives what is known after every round."""
    results: dict[str, dict[int, list[Result]]] = {name: {c: [] for c in options.concurrency} for name in found}
    names = list(found)
    for index in range(options.rounds):
        started = time.monotonic()
        first = index % len(names)
        for name in names[first:] + names[:first]:
            contender = found[name]
            contender.server.go_on()
            contender.drive(1, WARM_UP_SECONDS)
            for concurrency, past in results[name].items():
                result = contender.drive(concurrency, options.seconds)
                if result.errors or not len(result.latencies_seconds):
                    sys.exit(f"{name} at concurrency {concurrency}: {result.errors or 'no answer'}")
                past.append(result)
            contender.server.hold()
        print(f"round {index + 1} of {options.rounds}: {time.monotonic() - started:.0f} s", flush=True)
        yield {"rows": {name: summarise(found[name].server, by_level) for name, by_level in results.items()}}


def summarise(server: Server, by_level: Mapping[int, list[Result]]) -> dict[str, Any]:
    """Percentiles of all rounds' requests together, and of each round median, p99 and throughput."""
    row: dict[str, Any] = {"start_seconds": server.start_seconds, "memory_mb": server.memory_mb()}
    for concurrency, results in by_level.items():
        row[f"concurrency-{concurrency}"] = {
            **contenders.pooled(results),
            "rounds": [
                {
                    **{f"p{percent}_ms": result.percentile_ms(percent) for percent in (50, 99)},
                    "throughput": result.throughput,
                }
                for result in results
            ],
        }
    return row


def run(section: str, pixels: int, options: argparse.Namespace, networks: Networks, result: ResultFile) -> None:
    """Measure one section at one size; the file is written after each round, should the run be cut short."""
    with ExitStack() as stack:
        starting = Starting(stack, networks, options.target, pixels)
        getattr(starting, section)()
        found = starting.found
        # A closed loop ends with its slowest request: half as long again, in all.
        seconds = 1.5 * options.rounds * len(found) * (WARM_UP_SECONDS + len(options.concurrency) * options.seconds)
        print(f"{section}, {pixels} px: {len(found)} contenders, {options.rounds} rounds: about {seconds:.0f} s")
        for rows in measure(found, options):
            result.record(section, {"pixels": pixels, "target": options.target}, rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to measure")
    parser.add_argument("--target", default="openvino-bf16", help="what our service runs; ONNX Runtime is added")
    parser.add_argument("--pixels", type=int, nargs="+", default=[64, 224], help="of same_engine; peers: the largest")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each contender, concurrency and round")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints and engines are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    parser.add_argument("--quick", action="store_true", help="tiny networks, two short rounds: a test of the steps")
    options = parser.parse_args()
    if options.quick:
        options.target, options.pixels, options.rounds = "openvino-fp32", [32], 2
        options.seconds, options.concurrency = 0.2, [1, 2]
    return options


def main() -> None:
    """Measure, save and print."""
    ending_on_sigterm()
    options = parse()
    networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
    result = ResultFile(options.out)
    if "peers" in options.only:
        run("peers", max(options.pixels), options, networks, result)
    if "same_engine" in options.only:
        for pixels in options.pixels:
            run("same_engine", pixels, options, networks, result)
    for section, show in (("peers", (peers_table, peers_bars)), ("same_engine", (same_engine_table, same_engine_bars))):
        if section in options.only:
            print(*(part(result.document) for part in show), sep="\n\n", end="\n\n")
    print(f"written: {options.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
