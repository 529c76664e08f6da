"""An ensemble with and without a cascade behind the whole service: answers a second, and an overload.

.venv/bin/python benchmarks/cascade_service.py             after benchmarks/cascade.py --train
.venv/bin/python benchmarks/cascade_service.py --tables    nothing is measured

closed    8 requests under way, services in turns: answers a second
overload  3 times what all members can bear, the same requests for each service: correct answers a second, refusals,
          p99 of what was answered, the accuracy of it, and how soon effort `auto` is back

The services are the same ensemble built with --no-cascade (`all`), with a cascade (`shed`), and that served with
--no-shed (`no-shed`). Those that are not asked are held still. Correct answers are counted by the images' labels.

The ensemble is one that learned letters of 64 pixels. It is served at 224 pixels, where training would take half a day
on 2 cores, and asked about its test letters, each repeated over the whole image: what the stem and the members see is
then what they have learned, all over. One epoch of 800 such images makes it used to the seams.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import uvloop
from PIL import Image

from rrrbench.environment import RESULTS, ResultFile
from rrrbench.networks import CACHE
from rrrbench.servers import Server, answers, free_port, running
from rrrbench.tables import markdown
from rrrbench.turns import median_interval
from rrrbuild.build import build_engine
from rrrbuild.cascade_runner import FAST
from rrrbuild.manifest import MANIFEST, BatchRange
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import DOCUMENT, PYTHON_BACKEND
from rrrbuild.trust import Trust
from rrrnet.checkpoint import SPLIT
from rrrnet.data.dataset import evenly, read_dataset, read_split, select
from rrrserve.bench import loops
from rrrserve.bench.clients.client import RequestFailedError
from rrrserve.bench.clients.http_client import HttpClient
from rrrserve.bench.closed_loop import closed_loop

SERVICES: dict[str, list[str]] = {"all": [], "shed": [], "no-shed": ["--no-shed"]}
_ROUNDS, _SECONDS, _CONCURRENCY, _FACTOR = 5, 6.0, 8, 3.0
_OVERLOAD_SECONDS, _DEADLINE_MS, _BACK_SECONDS = 20.0, 1000, 5.0
_IMAGES: Mapping[Literal["train", "val", "test"], int] = {"train": 800, "val": 400, "test": 2000}  # of a part, at most
RRR = Path(sys.executable).parent / "rrr"
Labelled = list[tuple[bytes, str]]


def prepare(folder: Path, letters: Path, trained: Path, pixels: int) -> None:
    """Letters repeated over images of `pixels`, and the ensemble for that size.

    Args:
        folder: gets `train/`, `val/` and `test/`, a folder for each class, and `ensemble/`.
        letters: the data set.
        trained: an ensemble that learned it.
        pixels: height and width.
    """
    images, parts = read_dataset(letters), read_split(trained / SPLIT)
    for part, most in _IMAGES.items():
        if (folder / part).is_dir():
            continue
        staging = folder / f".{part}"
        chosen = evenly(select(images, parts, part), most)
        for file, label in zip(chosen.files, chosen.labels, strict=True):
            letter = np.asarray(Image.open(chosen.path(file)).convert("RGB"))
            times = -(-pixels // min(letter.shape[:2]))
            out = (staging / chosen.classes[label] / Path(file).name).with_suffix(".jpg")
            out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.tile(letter, (times, times, 1))[:pixels, :pixels]).save(out, quality=92)
        staging.rename(folder / part)
    if not (folder / "ensemble").is_dir():
        words = [
            "--weights",
            str(trained),
            "--size",
            str(pixels),
            "--epochs",
            "1",
            "--lr",
            "2e-4",
            "--batch-size",
            "16",
        ]
        data = ["--data", str(folder / "train"), "--augmentation", "quick", "--out", str(folder / "ensemble")]
        subprocess.run([str(RRR), "train", *data, *words], check=True)


def repository(options: argparse.Namespace, name: str) -> Path:
    """The repository of a service, built by `rrr build`'s and `rrr repository`'s own steps if it is not there yet."""
    kind = "all" if name == "all" else "cascade"
    folder: Path = options.folder
    engine, out = folder / f"{kind}.engine", folder / f"{kind}.repository"
    if not (engine / MANIFEST).is_file():
        trust = Trust(cascade=kind == "cascade", calibration_data=folder / "val")
        checkpoint, batch = folder / "ensemble", BatchRange(1, 8, 32)
        build_engine(
            checkpoint, options.target, batch=batch, out=engine, data=folder / "test", trust=trust, report=print
        )
    if not (out / DOCUMENT).is_file():
        write_repository([engine], out, backends=frozenset({PYTHON_BACKEND}), names=["ensemble"])
    return out


def labelled(data: Path) -> Labelled:
    """Encoded images of a data set with their labels, in a random order, the same every time."""
    images = read_dataset(data)
    order = np.random.default_rng(0).permutation(len(images.files))
    return [(images.path(images.files[i]).read_bytes(), images.classes[images.labels[i]]) for i in order]


class Offered:
    """Requests by the product's open loop: what became of each.

    Attributes:
        answers: the body of each good answer, by ticket.
        took_seconds: from when it was due to its answer, by ticket.
        statuses: of each request, by ticket.
        recorder: the loop's.
    """

    def __init__(self, url: str, bodies: list[bytes]) -> None:
        self.answers: dict[int, bytes] = {}
        self.took_seconds: dict[int, float] = {}
        self.statuses: dict[int, str] = {}
        self.recorder = loops.Recorder()
        headers = {"X-Request-Timeout-Ms": str(_DEADLINE_MS)}
        seconds = _DEADLINE_MS / 1000 + 1
        self._client = HttpClient(url, bodies, timeout_seconds=seconds, headers=headers, heard=self.answers.__setitem__)
        self.answered_by = self._client.answered_by

    async def ask(self, ticket: int) -> float:
        """See `Client.ask`."""
        due = time.perf_counter() - self.recorder.late_seconds[-1]  # the loop has just written down this request's
        self.statuses[ticket] = "200"
        try:
            finished = await self._client.ask(ticket)
        except RequestFailedError as error:
            self.statuses[ticket] = error.kind
            raise
        self.took_seconds[ticket] = finished - due
        return finished

    async def close(self) -> None:
        """See `Client.close`."""
        await self._client.close()


async def overload(url: str, images: Labelled, rate: float) -> dict[str, Any]:
    """Offer requests at a constant rate, then a few to see effort `auto` come back."""
    offered = Offered(url, [body for body, _ in images])
    calm = np.arange(_OVERLOAD_SECONDS, _OVERLOAD_SECONDS + 2 * _BACK_SECONDS, 0.2)
    due = np.concatenate([np.arange(0, _OVERLOAD_SECONDS, 1 / rate), calm])
    gc.disable()  # its pauses would count as the service's
    try:
        await loops.open_loop(offered, due, offered.recorder, max_in_flight=len(due))
    finally:
        gc.enable()
        await offered.close()
    told = {ticket: json.loads(body) for ticket, body in offered.answers.items()}
    good = [ticket for ticket in told if due[ticket] < _OVERLOAD_SECONDS]
    statuses = Counter(status for ticket, status in offered.statuses.items() if due[ticket] < _OVERLOAD_SECONDS)
    right = sum(told[ticket]["predictions"][0]["label"] == images[ticket % len(images)][1] for ticket in good)
    later = [due[ticket] for ticket, answer in told.items() if answer["effort"] == FAST]
    return {
        "offered_per_second": rate,
        "correct_per_second": right / _OVERLOAD_SECONDS,
        "answered_per_second": len(good) / _OVERLOAD_SECONDS,
        "accuracy": right / max(1, len(good)),
        "refused": statuses["429"],
        "statuses": dict(statuses),
        "efforts": dict(Counter(told[ticket]["effort"] for ticket in good)),
        "partial": sum(told[ticket]["partial"] for ticket in good),
        "p99_ms": 1000 * float(np.percentile([offered.took_seconds[ticket] for ticket in good], 99)),
        "auto_again_after_seconds": max(0.0, float(max(later, default=0.0)) - _OVERLOAD_SECONDS),
        "client_late_p99_ms": 1000 * float(np.percentile(offered.recorder.late_seconds, 99)),
    }


class Measurements:
    """Both sections, on services that run side by side and are held still unless asked."""

    def __init__(self, options: argparse.Namespace, result: ResultFile) -> None:
        self.options, self.result = options, result
        self.images = labelled(options.folder / "test")

    def run(self) -> None:
        """Start the services and measure."""
        folders = {name: repository(self.options, name) for name in SERVICES}
        with ExitStack() as stack:
            servers: dict[str, Server] = {}
            for name, words in SERVICES.items():
                url = f"http://127.0.0.1:{free_port()}"
                port = url.rpartition(":")[2]
                command = [str(RRR), "serve", str(folders[name]), "--port", port, "--workers", "1", *words]
                log = self.options.folder / f"{name}.log"
                servers[name] = stack.enter_context(running(command, url=url, ready=answers(f"{url}/readyz"), log=log))
                servers[name].hold()
            key = {"target": self.options.target, "pixels": self.options.pixels}
            self.result.measure("closed", key, partial(self._closed, servers))
            self.result.measure("overload", key, partial(self._overload, servers))
            for server in servers.values():
                server.go_on()

    def _closed(self, servers: Mapping[str, Server]) -> dict[str, Any]:
        bodies = [body for body, _ in self.images]
        rates: dict[str, list[float]] = {name: [] for name in servers}
        names = list(servers)
        for number in range(_ROUNDS):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                servers[name].go_on()
                url = f"{servers[name].url}/v1/predict"
                asyncio.run(closed_loop(url, bodies, _CONCURRENCY, seconds=1.0))
                rates[name].append(asyncio.run(closed_loop(url, bodies, _CONCURRENCY, seconds=_SECONDS)).throughput)
                servers[name].hold()
        return {"concurrency": _CONCURRENCY, "per_second": rates}

    def _overload(self, servers: Mapping[str, Server]) -> dict[str, Any]:
        rate = _FACTOR * float(np.median(self.result.document["closed"][-1]["per_second"]["all"]))
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        names = list(servers)
        for number in range(self.options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                servers[name].go_on()
                found[name].append(uvloop.run(overload(f"{servers[name].url}/v1/predict", self.images, rate)))
                print(name, found[name][-1], flush=True)
                servers[name].hold()
        return {"factor": _FACTOR, "deadline_ms": _DEADLINE_MS, "services": found}


def tables(document: Mapping[str, Any]) -> list[str]:
    """results/cascade_service.json as Markdown."""
    closed = []
    for case in document.get("closed", []):
        rates = case["per_second"]
        ratio = median_interval([one / other for one, other in zip(rates["shed"], rates["all"], strict=True)])
        medians = [f"{np.median(rates[name]):.1f}" for name in ("all", "shed")]
        closed.append([f"`{case['target']}`", str(case["pixels"]), *medians, ratio.text(2, "x")])
    rows = []
    for case in document.get("overload", []):
        for name, found in case["services"].items():
            means = {
                key: np.mean([row[key] for row in found]) for key in found[0] if key not in ("statuses", "efforts")
            }
            rows.append(
                [
                    f"`{case['target']}`",
                    str(case["pixels"]),
                    name,
                    f"{means['correct_per_second']:.1f}",
                    f"{means['accuracy']:.1%}",
                    f"{means['refused']:.0f}",
                    f"{means['p99_ms']:.0f}",
                    f"{means['auto_again_after_seconds']:.1f}",
                ]
            )
    header = ["target", "px", "service", "correct answers/s", "accuracy", "refused (429)", "p99 (ms)", "auto again (s)"]
    speed = ["target", "px", "8 members (answers/s)", "cascade", "cascade / 8 members"]
    return [markdown(speed, closed), markdown(header, rows)]


def main() -> None:
    """Measure what the command line asks for, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--letters", type=Path, default=CACHE / "cascade", help="what benchmarks/cascade.py --train made"
    )
    parser.add_argument("--target", default="openvino-fp32")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=2, help="of the overload")
    parser.add_argument("--folder", type=Path, default=CACHE / "cascade-service")
    parser.add_argument("--tables", action="store_true", help="print the tables; nothing is measured")
    parser.add_argument("--out", type=Path, default=RESULTS / "cascade_service.json")
    options = parser.parse_args()
    result = ResultFile(options.out)
    if not options.tables:
        options.folder.mkdir(parents=True, exist_ok=True)
        prepare(options.folder, options.letters / "letters", options.letters / "seed0", options.pixels)
        Measurements(options, result).run()
    print("\n\n".join(tables(result.document)))


if __name__ == "__main__":
    main()
