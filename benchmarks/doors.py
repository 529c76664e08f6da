"""What the doors of KServe v2 add to Triton alone: the same client and tensors, in turns, one request at a time.

.venv/bin/python benchmarks/doors.py REPOSITORY [--requests 500] [--save FILE.json]

One Triton, started as `rrr serve` starts its own but with its HTTP port open, and `rrr serve --triton-url` before it:
`tritonclient` asks both, over gRPC and over HTTP. (With a Triton each, the threads of one still spin when the other is
asked.)
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from rrrbench.environment import environment
from rrrbench.servers import Server, answers, ending_on_sigterm, free_port, running
from rrrbench.turns import median_interval
from rrrbuild.repository_document import ServedModel, read_repository

RRR = Path(sys.executable).parent / "rrr"
LOGS = Path("artifacts/benchmarks/logs")
PROTOCOLS: dict[str, Any] = {"gRPC": triton_grpc, "HTTP": triton_http}
ALONE, OURS = "Triton alone", "rrr serve"
_WARM_UP = 50
_ROUNDS = 25


@contextmanager
def serving(repository: Path, name: str, *options: str) -> Iterator[tuple[Server, dict[str, str]]]:
    """`rrr serve` with one worker, and where it listens."""
    log = LOGS / f"{name}.log"
    command = [str(RRR), "serve", str(repository), "--port", "0", "--grpc-port", "0", "--workers", "1", *options]
    with running(command, url="", ready=lambda: "ready: " in log.read_text(), log=log) as server:
        places = {"gRPC": r"its gRPC at (\S+)", "HTTP": r"ready: http://(\S+)"}
        yield server, {protocol: re.findall(place, log.read_text())[0] for protocol, place in places.items()}


@contextmanager
def triton_alone(service: Server) -> Iterator[dict[str, str]]:
    """A Triton with the files, variables and priority of the one behind a service; where it listens."""
    first = next(process for process in service.tree() if process.name() == "tritonserver")
    ports = {protocol: free_port() for protocol in PROTOCOLS}
    changed = {
        "--allow-http": "true",
        "--http-address": "127.0.0.1",
        "--http-port": str(ports["HTTP"]),
        "--grpc-port": str(ports["gRPC"]),
        "--allow-metrics": "false",
        "--backend-config": f"python,shm-region-prefix-name=doors{ports['HTTP']}",
    }
    kept = [word for word in first.cmdline() if word.partition("=")[0] not in {*changed, "--grpc-restricted-protocol"}]
    command = ["env", "-C", first.cwd(), "nice", "-n", str(first.nice()), *kept]
    command += [f"{flag}={value}" for flag, value in changed.items()]
    ready = answers(f"http://127.0.0.1:{ports['HTTP']}/v2/health/ready")
    with running(command, url="", ready=ready, log=LOGS / "triton-alone.log", environment=first.environ()):
        yield {protocol: f"127.0.0.1:{port}" for protocol, port in ports.items()}


def calls(model: ServedModel, places: Mapping[str, Mapping[str, str]]) -> dict[str, Callable[[], object]]:
    """What asks each server over each protocol about the same random image."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, model.image_size, model.image_size, 3), np.uint8)
    found: dict[str, Callable[[], object]] = {}
    for protocol, client in PROTOCOLS.items():
        images = client.InferInput("images", list(pixels.shape), "UINT8")
        images.set_data_from_numpy(pixels)
        wanted = [client.InferRequestedOutput("probabilities")]
        for server, urls in places.items():
            ask = client.InferenceServerClient(urls[protocol]).infer
            found[f"{server}, {protocol}"] = partial(ask, model.name, [images], outputs=wanted)
    return found


def in_turns(asked: Mapping[str, Callable[[], object]], requests: int) -> dict[str, list[float]]:
    """Milliseconds of each request; the order changes from turn to turn."""
    found: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(_WARM_UP + requests):
        for name in list(asked) if turn % 2 else list(asked)[::-1]:
            start = time.perf_counter()
            asked[name]()
            if turn >= _WARM_UP:
                found[name].append(1000 * (time.perf_counter() - start))
    return found


def summary(found: Mapping[str, list[float]]) -> dict[str, object]:
    """In ms p50 and p95 of each, and what ours add to Triton alone: a median over parts of the turns, its interval."""
    parts = {name: [float(np.median(part)) for part in np.array_split(times, _ROUNDS)] for name, times in found.items()}
    rows: dict[str, dict[str, object]] = {}
    for name, times in found.items():
        rows[name] = {
            "p50_ms": round(float(np.median(times)), 3),
            "p95_ms": round(float(np.percentile(times, 95)), 3),
        }
        if name.startswith(OURS):
            alone = parts[name.replace(OURS, ALONE)]
            added = [one - other for one, other in zip(parts[name], alone, strict=True)]
            rows[name]["added_ms"] = [round(value, 3) for value in median_interval(added)]
    return {"requests": len(next(iter(found.values()))), "doors": rows}


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    ending_on_sigterm()
    model = read_repository(options.repository).models[0]
    with serving(options.repository, "doors-first") as (first, _), triton_alone(first) as alone:
        first.hold()
        with serving(options.repository, "doors", "--triton-url", alone["gRPC"]) as (_, ours):
            found = summary(in_turns(calls(model, {ALONE: alone, OURS: ours}), options.requests))
    about = {"model": model.name, "image_size": model.image_size, "target": model.target, "environment": environment()}
    text = json.dumps({**about, **found}, indent=1)
    print(text)
    if options.save is not None:
        options.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
