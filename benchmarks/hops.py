"""Where the time of a request goes: mean milliseconds by hop, and processor time by process, of a real `rrr serve`.

.venv/bin/python benchmarks/hops.py REPOSITORY [--model NAME] [--concurrency 1 8] [--seconds 5]

The client's latencies, the service's stage histograms and Triton's counters are read over the same requests; what a
hop takes is the difference between the two clocks around it.
"""

import argparse
import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from rrrbench.contenders import rrr_serve
from rrrbench.environment import ROOT
from rrrbench.pictures import jpegs
from rrrbench.servers import Server, ending_on_sigterm
from rrrbuild.repository_document import ServedModel, read_repository
from rrrserve.bench.closed_loop import closed_loop
from rrrserve.versions.catalogue import default_model

# Parts of a process's command line that tell which it is, the first that fits.
_PROCESSES = {
    "triton_python_backend_stub": "engine's process",
    "rrrserve.worker": "HTTP worker",
    "tritonserver": "Triton",
}
_TRITON = ("request", "queue", "compute_input", "compute_infer", "compute_output")
_WARM_UP_SECONDS = 1.0


def counters(url: str, model: str) -> dict[str, tuple[float, float]]:
    """Seconds spent and requests counted so far, by stage of the service and (`triton_`...) of Triton."""
    totals: dict[str, list[float]] = {}
    for metric in text_string_to_metric_families(httpx.get(f"{url}/metrics", trust_env=False).text):
        for sample in metric.samples:
            found = re.fullmatch(r"rrr_(request|stage)_duration_seconds_(sum|count)", sample.name)
            if found and sample.labels.get("model") == model and sample.labels.get("outcome", "ok") == "ok":
                row = totals.setdefault(sample.labels.get("stage", "request"), [0.0, 0.0])
                row[found[2] == "count"] += sample.value
    triton: dict[str, float] = {}
    for metric in text_string_to_metric_families(httpx.get(f"{url}/metrics/triton", trust_env=False).text):
        for sample in metric.samples:
            if sample.labels.get("model") == model:
                triton[sample.name.removesuffix("_total")] = sample.value
    for stage in _TRITON:
        seconds = triton[f"nv_inference_{stage}_duration_us"] / 1e6
        totals[f"triton_{stage}"] = [seconds, triton["nv_inference_request_success"]]
    return {stage: (seconds, count) for stage, (seconds, count) in totals.items()}


def processor_seconds(server: Server) -> dict[str, float]:
    """Processor time so far by kind of process, this one, the client, included."""
    totals = {"client": time.process_time()}
    for process in server.tree():
        command = " ".join(process.cmdline())
        kind = next((name for part, name in _PROCESSES.items() if part in command), "supervisor")
        times = psutil.Process(process.pid).cpu_times()
        totals[kind] = totals.get(kind, 0.0) + times.user + times.system
    return totals


def measure(
    server: Server, model: ServedModel, bodies: list[bytes], concurrency: int, seconds: float
) -> dict[str, Any]:
    """Mean milliseconds by hop and processor milliseconds by process, of one request."""
    url = f"{server.url}/v1/models/{model.name}/predict"
    asyncio.run(closed_loop(url, bodies, concurrency, seconds=_WARM_UP_SECONDS))
    before, worked = counters(server.url, model.name), processor_seconds(server)
    result = asyncio.run(closed_loop(url, bodies, concurrency, seconds=seconds))
    working, after = processor_seconds(server), counters(server.url, model.name)
    answers = len(result.latencies_seconds)
    mean = {
        stage: 1000 * (spent - before[stage][0]) / (count - before[stage][1]) for stage, (spent, count) in after.items()
    }
    client = 1000 * float(result.latencies_seconds.mean())
    stages = sum(mean[stage] for stage in ("read", "decode", "preprocess", "inference", "encode"))
    inside = sum(mean[f"triton_{stage}"] for stage in _TRITON[1:])
    return {
        "hops": {
            "client and uvicorn: HTTP": client - mean["request"],
            "worker: read the body": mean["read"],
            "worker: decode": mean["decode"],
            "worker: resize": mean["preprocess"],
            "worker: answer and routing": mean["request"] - stages + mean["encode"],
            "worker to Triton and back: gRPC": mean["inference"] - mean["triton_request"],
            "Triton: queue": mean["triton_queue"],
            "Triton: input, output, rest": mean["triton_request"]
            - inside
            + mean["triton_compute_input"]
            + mean["triton_compute_output"],
            "engine, in its own process": mean["triton_compute_infer"],
            "**whole request**": client,
        },
        "processor": {kind: 1000 * (spent - worked[kind]) / answers for kind, spent in working.items()},
        "throughput": result.throughput,
        "errors": result.errors,
    }


def table(rows: dict[int, dict[str, Any]], key: str, title: str) -> str:
    """A Markdown table of one part of the measurements, a column for each concurrency."""
    lines = [f"| {title} | " + " | ".join(f"{concurrency} at once" for concurrency in rows) + " |"]
    lines.append("|---" * (len(rows) + 1) + "|")
    names = next(iter(rows.values()))[key]
    lines += [f"| {name} | " + " | ".join(f"{row[key][name]:.2f}" for row in rows.values()) + " |" for name in names]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    ending_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--model", help="by default the repository's first")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each concurrency")
    options = parser.parse_args()
    repository = read_repository(options.repository)
    model = default_model(repository, options.model)
    bodies = jpegs(model)
    with rrr_serve(options.repository, ROOT / "artifacts" / "benchmarks" / "logs") as server:
        rows = {
            concurrency: measure(server, model, bodies, concurrency, options.seconds)
            for concurrency in options.concurrency
        }
        memory_mb = server.memory_mb()
    print(f"{model.name}, {model.target}, {model.image_size} pixels, JPEGs of {len(bodies[0]) / 1000:.1f} kB\n")
    print(table(rows, "hops", "mean milliseconds of a request") + "\n")
    print(table(rows, "processor", "processor milliseconds of a request") + "\n")
    for concurrency, row in rows.items():
        print(f"{concurrency} at once: {row['throughput']:.1f} answers/s, errors {row['errors'] or 'none'}")
    print(f"ready after {server.start_seconds:.1f} s; {memory_mb:.0f} MB in all (PSS)")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
