"""Our service beside what users would pick instead, asked for the same images in rounds, one at a time.

    .venv/bin/python benchmarks/peers/run.py

All servers are started first; while one is measured, every process of the others is stopped (SIGSTOP), so that it has
both cores for itself and the client. In each round every contender is driven in a closed loop at each concurrency; the
order rotates. What is served and how stands in the files beside this one.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rrrbench import contenders, tensor_client
from rrrbench.contenders import Contender
from rrrbench.environment import RESULTS, ResultFile
from rrrbench.names import BASELINE, ENSEMBLE
from rrrbench.networks import CACHE, Networks
from rrrbench.servers import Server, ending_on_sigterm
from rrrbench.service_tables import peers_bars, peers_table
from rrrserve.bench.closed_loop import Result

OURS = "rrr serve"
ONNX_TARGET = "onnxruntime-fp32"
WARM_UP_SECONDS = 0.3


def start_all(stack: ExitStack, networks: Networks, options: argparse.Namespace) -> dict[str, Contender]:
    """Start every server, wait until it is ready and hold it."""
    pixels, logs = options.pixels, networks.cache / "logs"
    bodies = networks.jpegs(pixels)
    onnx = networks.engine_folder(ENSEMBLE, pixels, ONNX_TARGET)
    targets = list(dict.fromkeys([options.target, ONNX_TARGET]))
    repository = contenders.repository(networks, pixels, [(ENSEMBLE, target) for target in targets])
    found: dict[str, Contender] = {}

    def enter(name: str, server: Any, path: str, sent: list[bytes]) -> None:
        print(f"starting {name}", flush=True)
        started = stack.enter_context(server)
        found[name] = Contender(started, contenders.http(started.url + path, sent))
        started.hold()

    enter(f"{OURS}, {targets[0]}", contenders.rrr_serve(repository.path, logs), "/v1/predict", bodies)
    for target in targets[1:]:
        ours = found[f"{OURS}, {targets[0]}"].server
        path = f"/v1/models/{ENSEMBLE}.{target}/predict"
        found[f"{OURS}, {target}"] = Contender(ours, contenders.http(ours.url + path, bodies))
    for name in (BASELINE, ENSEMBLE):
        server = contenders.bentoml_torch(networks, name, pixels, logs)
        enter(f"BentoML + PyTorch eager, {name}", server, "/predict", bodies)
    json_bodies = contenders.as_json(bodies)
    enter("LitServe + ONNX Runtime", contenders.litserve_onnxruntime(onnx, logs), "/predict", json_bodies)
    enter("FastAPI + ONNX Runtime", contenders.fastapi_onnxruntime(onnx, logs), "/predict", bodies)

    triton = stack.enter_context(contenders.triton_alone(repository.path, logs))
    for model in repository.models:

        def drive(concurrency: int, seconds: float, model: Any = model) -> Any:
            return tensor_client.closed_loop(triton.url, model, bodies, concurrency, seconds)

        found[f"Triton alone, {model.target}"] = Contender(triton, drive)
    triton.hold()
    return found


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


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="openvino-bf16", help="what our service runs; ONNX Runtime is added")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each contender, concurrency and round")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints and engines are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    parser.add_argument("--quick", action="store_true", help="tiny networks, two short rounds: a test of the steps")
    options = parser.parse_args()
    if options.quick:
        options.target, options.pixels, options.rounds = "openvino-fp32", 32, 2
        options.seconds, options.concurrency = 0.2, [1, 2]
    return options


def main() -> None:
    """Measure, save and print."""
    ending_on_sigterm()
    options = parse()
    networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
    result = ResultFile(options.out)
    with ExitStack() as stack:
        found = start_all(stack, networks, options)
        # A closed loop ends with its slowest request: half as long again, in all.
        seconds = 1.5 * options.rounds * len(found) * (WARM_UP_SECONDS + len(options.concurrency) * options.seconds)
        print(f"{len(found)} contenders, {options.rounds} rounds: about {seconds:.0f} s", flush=True)
        key = {"pixels": options.pixels, "target": options.target}
        for rows in measure(found, options):  # written after each round, should the run be cut short
            result.record("peers", key, rows)
    print(f"\n{peers_table(result.document)}\n\n{peers_bars(result.document)}\n\nwritten: {options.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
