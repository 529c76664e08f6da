"""Mixed requests by the ten thousand to a real `rrr serve`: it must hold at the end what it held at the beginning.

    .venv/bin/python tests/long soak [--requests 20000] [--warm-up 1000] [--seed 0] [--only soak control]

Four of five requests are good, one is not (`harness.bad_requests`, and clients that go away). After each of 40 parts
the service is counted at rest: memory of all processes, descriptors, threads, shared memory, temporary files. Then the
control: a copy of the model that keeps 4096 bytes a request must fail the same judgement. --leak-bytes puts the leak
into the model that is judged.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import damage, growth
from harness.bounds import Bounds
from harness.growth import Census, take_census
from harness.service import Service
from harness.soaking import Soak, Tally, good_requests
from rrrbench import contenders
from rrrbench.environment import ResultFile
from rrrbench.names import ENSEMBLE
from rrrbench.networks import Networks

SECTIONS = ("soak", "control")
CONTROL_LEAK_BYTES = 4096
_PARTS = 40
_REST_SECONDS = 0.5


def soaked(
    service: Service, images: list[bytes], count: int, options: argparse.Namespace
) -> tuple[list[Census], Tally]:
    """Send all requests; the service at rest before the first and after each part, and what was answered."""
    folders = [Path(tempfile.gettempdir())]
    good = good_requests(service.url, images)
    clients = Soak(service.url, good, bad_share=options.bad_share, seed=options.seed)
    clients.send(options.warm_up, options.concurrency)
    censuses = []
    for part in range(_PARTS + 1):
        time.sleep(_REST_SECONDS)
        censuses.append(take_census(service.process.pid, part * count // _PARTS, folders))
        if part < _PARTS:
            clients.send((part + 1) * count // _PARTS - censuses[-1].requests, options.concurrency)
    return censuses, clients.tally


def measured(name: str, repository: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Soak one service; the case for the result file."""
    networks = Networks(options.cache)
    images = networks.jpegs(options.pixels)[:8]
    started = time.monotonic()
    with Service(options.cache / "logs" / f"{name}.log", str(repository), "--workers", str(options.workers)) as service:
        censuses, tally = soaked(service, images, count, options)
    log = service.log.read_text(errors="replace")
    missed = growth.misses(censuses)
    if tally.faults:
        missed.append(f"{len(tally.faults)} answers not as they must be:\n  " + "\n  ".join(tally.faults[:20]))
    if "Traceback" in log:
        missed.append("a traceback in the log")
    return {
        "seconds": time.monotonic() - started,
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items(), key=str)},
        "clients_gone": tally.gone,
        "faults": len(tally.faults),
        "growth_mb": growth.growth_mb(censuses),
        "bytes_per_request": growth.bytes_per_request(censuses),
        "missed": missed,
        "censuses": [census.as_row() for census in censuses],
    }


def summary(document: dict[str, Any]) -> str:
    """A Markdown table of a result file: each count before and after."""
    counts = ("descriptors", "threads", "shared_memory", "files")
    titles = ["run", "leak (B)", "requests", "memory (MB)", "growth (MB)", "slope (B/request)", *counts, "faults"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for case in (case for section in SECTIONS for case in document.get(section, [])):
        first, last = case["censuses"][0], case["censuses"][-1]
        cells = [
            case["run"],
            case["leak_bytes"],
            case["requests"],
            f"{first['total_mb']:.1f} -> {last['total_mb']:.1f}",
        ]
        cells += [f"{case['growth_mb']:.1f}", f"{case['bytes_per_request']:.0f}"]
        cells += [f"{first[name]} -> {last[name]}" for name in counts]
        lines.append("| " + " | ".join(str(cell) for cell in [*cells, case["faults"]]) + " |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--requests", type=int, default=20_000)
    # As many as the soak sends: what the model's process holds free at first, up to 25 MB, hides a leak of that size.
    parser.add_argument("--control-requests", type=int, default=20_000)
    parser.add_argument("--warm-up", type=int, default=1_000, metavar="REQUESTS", help="before the first count")
    parser.add_argument("--bad-share", type=float, default=0.2, help="of all requests")
    parser.add_argument("--leak-bytes", type=int, default=0, help="a request, in the service that is judged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1, help="HTTP workers of the service")
    parser.add_argument("--target", default="onnxruntime-fp32", help="exact, so that every answer can be judged")
    parser.add_argument("--pixels", type=int, default=64)


def judged(section: str, sound: Path, scratch: Path, result: ResultFile, options: argparse.Namespace) -> list[str]:
    """Run one section, save it, and say what it should not have been."""
    leak = options.leak_bytes if section == "soak" else CONTROL_LEAK_BYTES
    count = options.requests if section == "soak" else options.control_requests
    repository = sound
    if leak:
        repository = scratch / f"leaking-{section}"
        damage.leaking(sound, repository, leak)
    print(f"{section}: {count} requests, a leak of {leak} bytes", flush=True)
    case = measured(section, repository, count, options)
    key = {"run": section, "leak_bytes": leak, "requests": count, "seed": options.seed, "workers": options.workers}
    result.record(section, key, case)
    missed: list[str] = case["missed"]
    if section == "soak":
        return missed
    grew = [miss for miss in missed if "memory grew" in miss]
    print(f"control: {'; '.join(grew)}: the leak was seen" if grew else "control: the leak was not seen", flush=True)
    return [miss for miss in missed if miss not in grew] + ([] if grew else ["the control's leak was not seen"])


def run(options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
    """All sections asked for."""
    sound = contenders.repository(Networks(options.cache), options.pixels, [(ENSEMBLE, options.target)]).path
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        # What any process of the service leaves behind lies here; ours and its idea of the place are the same.
        os.environ["TMPDIR"] = tempfile.tempdir = str(Path(folder) / "temporary")
        Path(tempfile.tempdir).mkdir()
        for section in options.only:
            for miss in judged(section, sound, Path(folder), result, options):
                bounds.check(f"{section}: {miss}", False)
        tempfile.tempdir = None
