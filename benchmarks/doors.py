"""What the doors of KServe v2 add to Triton alone: the same client and tensors, in turns, one request at a time.

.venv/bin/python benchmarks/doors.py REPOSITORY [--requests 500] [--save FILE.json]

Serves the repository once. gRPC asks our port and the port of the Triton behind it; REST asks ours.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import httpx
import numpy as np
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http as triton_http

from rrrbench.servers import ending_on_sigterm, running
from rrrbench.turns import median_interval
from rrrbuild.repository_document import ServedModel, read_repository

RRR = Path(sys.executable).parent / "rrr"
_WARM_UP = 50
_ROUNDS = 25


async def _in_turns(calls: Mapping[str, Callable[[], Awaitable[object]]], requests: int) -> dict[str, list[float]]:
    """Milliseconds of each request; the order changes from turn to turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(_WARM_UP + requests):
        order = list(calls) if turn % 2 else list(calls)[::-1]
        for name in order:
            start = time.perf_counter()
            await calls[name]()
            if turn >= _WARM_UP:
                found[name].append(1000 * (time.perf_counter() - start))
    return found


async def measure(model: ServedModel, ours: str, triton: str, url: str, requests: int) -> dict[str, list[float]]:
    """Ask all three about the same random image."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, model.image_size, model.image_size, 3), np.uint8)
    images = triton_grpc.InferInput("images", pixels.shape, "UINT8")
    images.set_data_from_numpy(pixels)
    wanted = [triton_grpc.InferRequestedOutput("probabilities")]
    body, size = triton_http.InferenceServerClient.generate_request_body(
        [_http_images(pixels)], outputs=[triton_http.InferRequestedOutput("probabilities")]
    )
    headers = {"Inference-Header-Content-Length": str(size)}
    async with (
        triton_grpc.InferenceServerClient(ours) as at_ours,
        triton_grpc.InferenceServerClient(triton) as at_triton,
        httpx.AsyncClient(base_url=url, trust_env=False) as over_http,
    ):

        async def rest() -> None:
            answer = await over_http.post(f"/v2/models/{model.name}/infer", content=body, headers=headers)
            answer.raise_for_status()

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "Triton alone, gRPC": lambda: at_triton.infer(model.name, [images], outputs=wanted),
            "rrr serve, gRPC": lambda: at_ours.infer(model.name, [images], outputs=wanted),
            "rrr serve, REST": rest,
        }
        return await _in_turns(calls, requests)


def _http_images(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> triton_http.InferInput:
    images = triton_http.InferInput("images", list(pixels.shape), "UINT8")
    images.set_data_from_numpy(pixels)
    return images


def summary(found: Mapping[str, list[float]]) -> dict[str, object]:
    """In ms p50 and p95 of each, and what ours add to the first: a median over parts of the turns, and its interval."""
    alone, *_ = found
    parts = {name: [float(np.median(part)) for part in np.array_split(times, _ROUNDS)] for name, times in found.items()}
    rows = {}
    for name, times in found.items():
        added = [one - other for one, other in zip(parts[name], parts[alone], strict=True)]
        rows[name] = {
            "p50_ms": round(float(np.median(times)), 3),
            "p95_ms": round(float(np.percentile(times, 95)), 3),
            "added_ms": None if name == alone else [round(value, 3) for value in median_interval(added)],
        }
    return {"requests": len(found[alone]), "doors": rows}


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    ending_on_sigterm()
    model = read_repository(options.repository).models[0]
    log = Path("artifacts/benchmarks/logs/doors.log")
    command = [str(RRR), "serve", str(options.repository), "--port", "0", "--grpc-port", "0", "--workers", "1"]
    with running(command, url="", ready=lambda: "ready: " in log.read_text(), log=log):
        told = log.read_text()
        places = (r"its gRPC at (\S+)", r"Triton at ([^\s,]+)", r"ready: (\S+)")
        ours, triton, url = (re.findall(place, told)[0] for place in places)
        found = summary(asyncio.run(measure(model, ours, triton, url, options.requests)))
    text = json.dumps({"model": model.name, "image_size": model.image_size, "target": model.target, **found}, indent=1)
    print(text)
    if options.save is not None:
        options.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
