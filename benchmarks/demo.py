"""The whole way on one machine: images, training, engines, Triton, HTTP, measured against the ResNet152.

`make demo` runs it. Every step is a `rrr` command that is printed before it runs. At the end the ensemble and the
ResNet152 baseline are timed in turns, request by request, over HTTP and at the engine, so that whatever else the
machine does meets both alike; the table gives medians and the ratio's 95 % bootstrap interval.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from rrrbench.names import BASELINE_TITLE
from rrrbench.names import DEMO_BASELINE as BASELINE
from rrrbench.names import DEMO_ENSEMBLE as ENSEMBLE
from rrrbench.servers import answers, free_port
from rrrbench.turns import ratio
from rrrbuild.engine import load_engine
from rrrbuild.manifest import read_engine
from rrrbuild.targets import run_obstacle, target_named
from rrrnet.images.preprocess import image_to_array
from rrrnet.output import progress_bar
from rrrnet.tables import print_table

ARTIFACTS = Path("artifacts")
DATA = ARTIFACTS / "data" / "glyphs"
REPOSITORY = ARTIFACTS / "repository"
CLASSES, PER_CLASS = 10, 200
IMAGE_SIZE = 64
TRAINING_MINUTES = 5.5  # of the demo's 8, on the slowest CPU that it is meant for
BATCH_SIZE = 16  # so few images teach more in twice the steps
RRR = str(Path(sys.executable).with_name("rrr"))
WARM_UP_REQUESTS = 20

console = Console()


class Stages:
    """Seconds of each stage, in the order in which they ran."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """What ran since the last stage ended, or since the start, was this."""
        now = time.monotonic()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._since, 1)
        self._since = now

    def line(self) -> str:
        """`371 seconds: images 9, training 270, ...`."""
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.0f} seconds: {parts}"


def rrr(*words: str, capture: bool = False) -> Any:
    """Run one `rrr` command, shown first. With `capture`, return its `--json` output."""
    console.print(f"\n$ rrr {shlex.join(words)}", style="bold cyan", highlight=False)
    arguments = [RRR, *words, *(["--json"] if capture else [])]
    done = subprocess.run(arguments, check=False, stdout=subprocess.PIPE if capture else None, text=True)
    if done.returncode:
        console.print(f"this step failed with exit code {done.returncode}", style="bold red")
        sys.exit(done.returncode)
    return json.loads(done.stdout) if capture else None


def make_models(target: str, quick: bool, stages: Stages) -> dict[str, Any]:
    """Images, both checkpoints, both engines, one repository. Returns the descriptions of both networks."""
    rrr("data", "glyphs", str(DATA), "--classes", str(CLASSES), "--per-class", str(PER_CLASS // (10 if quick else 1)))
    stages.end("images")
    models = ARTIFACTS / "models"
    common = ["--data", str(DATA), "--weights", "none", "--size", str(IMAGE_SIZE), "--overwrite"]
    short = ["--epochs", "1"] if quick else ["--minutes", str(TRAINING_MINUTES), "--batch-size", str(BATCH_SIZE)]
    rrr("train", "--method", "ensemble", "--members", "8", "--out", str(models / ENSEMBLE), *common, *short)
    stages.end("training")
    console.print("\nthe baseline: a ResNet152 with random weights is as fast as a trained one", style="dim")
    rrr("train", "--method", "full", "--epochs", "0", "--out", str(models / BASELINE), *common)
    stages.end("baseline")
    rrr("build", str(models / ENSEMBLE), "--target", target)
    # Random weights have no accuracy to lose, and 64 images tell whether the engine computes the same.
    rrr("build", str(models / BASELINE), "--target", target, "--max-drop", "100", "--images", "64")
    stages.end("building")
    engines = [ARTIFACTS / "engines" / name / target for name in (ENSEMBLE, BASELINE)]
    rrr("repository", *map(str, engines), "--out", str(REPOSITORY))
    described = {name: rrr("describe", str(models / name), capture=True) for name in (ENSEMBLE, BASELINE)}
    described[ENSEMBLE]["scores"] = rrr("evaluate", str(engines[0]), "--data", str(DATA), capture=True)
    for name, engine in zip((ENSEMBLE, BASELINE), engines, strict=True):
        described[name]["engine_bytes"] = read_engine(engine).engine_bytes
    stages.end("repository, scores")
    return described


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """`rrr serve` on a free port until the block ends; gives its URL."""
    port = free_port()
    words = ["serve", str(REPOSITORY), "--port", str(port), "--default", ENSEMBLE]
    console.print(f"\n$ rrr {shlex.join(words)}", style="bold cyan", highlight=False)
    process = subprocess.Popen([RRR, *words])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        ready = answers(f"{url}/readyz")
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                console.print("rrr serve did not become ready", style="bold red")
                sys.exit(1)
            time.sleep(0.1)
        yield url
        process.send_signal(signal.SIGTERM)
        if process.wait(30):
            console.print(f"rrr serve ended with exit code {process.returncode}", style="bold red")
            sys.exit(1)
        console.print("stopped: rrr serve ended with exit code 0", style="dim")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def interleaved(
    first: Callable[[int], object], second: Callable[[int], object], rounds: int, what: str
) -> npt.NDArray[np.float64]:
    """Time two calls in turns, each going first in every other round. Returns (rounds, 2) milliseconds."""
    for index in range(WARM_UP_REQUESTS):
        first(index)
        second(index)
    times_ms = np.empty((rounds, 2))
    with progress_bar(refresh_per_second=1) as bar:  # drawing takes the interpreter from what is timed
        task = bar.add_task(what, total=rounds, text="")
        for index in range(rounds):
            for which in (0, 1) if index % 2 else (1, 0):
                start = time.perf_counter()
                (first, second)[which](index)
                times_ms[index, which] = 1000 * (time.perf_counter() - start)
            bar.advance(task)
    return times_ms


def summarise(times_ms: npt.NDArray[np.float64]) -> dict[str, Any]:
    """p50 and p95 of ensemble (column 0) and baseline (column 1), and the rounds' median ratio with its interval."""
    found = ratio(times_ms[:, 1].tolist(), times_ms[:, 0].tolist())
    rows = {}
    for column, name in enumerate((ENSEMBLE, BASELINE)):
        p50, p95 = np.percentile(times_ms[:, column], [50, 95])
        rows[name] = {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3)}
    return {**rows, "speed_up": round(found.value, 2), "interval": [round(found.low, 2), round(found.high, 2)]}


def measure_http(url: str, images: Sequence[bytes], rounds: int) -> dict[str, Any]:
    """Latency of single JPEG requests, both models in turns, one connection."""
    with httpx.Client(base_url=url, timeout=30) as client:

        def ask(name: str) -> Callable[[int], None]:
            def call(index: int) -> None:
                client.post(f"/v1/models/{name}/predict", content=images[index % len(images)]).raise_for_status()

            return call

        return summarise(interleaved(ask(ENSEMBLE), ask(BASELINE), rounds, "timing over HTTP"))


def measure_engines(target: str, images: Sequence[bytes], rounds: int) -> dict[str, Any]:
    """Latency of single calls of both engines, in turns, in this process."""
    engines = [load_engine(ARTIFACTS / "engines" / name / target) for name in (ENSEMBLE, BASELINE)]
    arrays = [image_to_array(data, engines[0].manifest.preprocess)[None] for data in images]

    def run(which: int) -> Callable[[int], object]:
        return lambda index: engines[which](arrays[index % len(arrays)])

    return summarise(interleaved(run(0), run(1), rounds, "timing at the engine"))


def check_answers(url: str, files: Sequence[Path], labels: Sequence[str]) -> float:
    """Accuracy of the served ensemble on real test images over HTTP."""
    right = 0
    with httpx.Client(base_url=url, timeout=30) as client:
        for file, label in zip(files, labels, strict=True):
            answer = client.post("/v1/predict", content=file.read_bytes()).raise_for_status().json()
            right += answer["predictions"][0]["label"] == label
    return right / len(files)


def test_images(count: int) -> tuple[list[Path], list[str]]:
    """Files and labels of the first test images that the checkpoint recorded, spread over the classes."""
    lines = (ARTIFACTS / "models" / ENSEMBLE / "split.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    chosen = [(name, label) for name, label, part in rows if part == "test"]
    step = max(1, len(chosen) // count)
    names = [name for name, _ in chosen[::step]][:count]
    return [DATA / name for name in names], [label for _, label in chosen[::step]][:count]


def show(result: dict[str, Any]) -> None:
    """The table of docs/performance.md."""
    ensemble, baseline = result["models"][ENSEMBLE], result["models"][BASELINE]
    scores = ensemble["scores"]
    members = [member["accuracy"] for member in scores["members"]]
    table = Table(
        "",
        "RRR-Net x8",
        BASELINE_TITLE,
        "ratio (95 % interval)",
        title=f"{result['target']}, {IMAGE_SIZE} pixels, batch 1",
    )
    table.add_row("test accuracy", f"{scores['accuracy']:.3f}", "random weights", "")
    spread = f"{np.mean(members):.3f}"
    table.add_row("its members: mean", spread, "", "")
    for key, title in (("http", "HTTP"), ("engine", "engine")):
        row = result[key]
        low, high = row["interval"]
        for quantile in ("p50_ms", "p95_ms"):
            speed_up = f"{row['speed_up']:.2f}x ({low:.2f} to {high:.2f})" if quantile == "p50_ms" else ""
            name = f"{title}, {quantile.removesuffix('_ms')} (ms)"
            table.add_row(name, f"{row[ENSEMBLE][quantile]:.2f}", f"{row[BASELINE][quantile]:.2f}", speed_up)
    for key, title, unit in (
        ("parameters", "parameters (M)", 1e6),
        ("macs", "MACs (M)", 1e6),
        ("engine_bytes", "engine (MB)", 1e6),
    ):
        values = ensemble[key] / unit, baseline[key] / unit
        table.add_row(title, f"{values[0]:.1f}", f"{values[1]:.1f}", f"{values[1] / values[0]:.2f}x")
    print_table(table, to=console)
    for title, path in (
        ("images", DATA),
        ("checkpoints", ARTIFACTS / "models"),
        ("engines", ARTIFACTS / "engines"),
        ("Triton repository", REPOSITORY),
        ("these figures", ARTIFACTS / "demo.json"),
    ):
        console.print(f"{title:>18}: {path}", highlight=False, soft_wrap=True)


def failures(result: dict[str, Any]) -> list[str]:
    """What does not hold of what the demo is to show."""
    scores = result["models"][ENSEMBLE]["scores"]
    mean = float(np.mean([member["accuracy"] for member in scores["members"]]))
    checks = {
        f"ensemble accuracy {scores['accuracy']:.3f} is below 0.70": scores["accuracy"] >= 0.70,
        f"ensemble accuracy {scores['accuracy']:.3f} is not above its members' mean {mean:.3f}": scores["accuracy"]
        > mean,
        "the ensemble is not faster over HTTP": result["http"]["interval"][0] > 1,
        "the ensemble is not faster at the engine": result["engine"]["interval"][0] > 1,
    }
    return [message for message, holds in checks.items() if not holds]


def main() -> None:
    """Run the demo; exit 1 if what it is to show does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--target", help="engine target; default: openvino-bf16 where the CPU has it, else openvino-fp32"
    )
    parser.add_argument("--rounds", type=int, default=200, help="timed requests to each model")
    parser.add_argument("--save", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="tiny data and one epoch: the steps without the accuracy")
    arguments = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    stages = Stages()
    default = "openvino-fp32" if run_obstacle(target_named("openvino-bf16")) else "openvino-bf16"
    target = arguments.target or default
    result: dict[str, Any] = {"target": target, "image_size": IMAGE_SIZE, "rounds": arguments.rounds}
    result["models"] = make_models(target, arguments.quick, stages)
    files, labels = test_images(100)
    images = [file.read_bytes() for file in files]
    with serving() as url:
        rrr("predict", str(files[0]), "--url", url)
        result["http_accuracy"] = check_answers(url, files, labels)
        console.print(
            f"{len(files)} test images over HTTP: {100 * result['http_accuracy']:.1f} % right", highlight=False
        )
        stages.end("serving")
        result["http"] = measure_http(url, images, arguments.rounds)
    result["engine"] = measure_engines(target, images, arguments.rounds)
    stages.end("timing")
    result |= {"seconds": round(sum(stages.seconds.values()), 1), "stages_seconds": stages.seconds}
    # The other lines of the diagnosis hold paths, which mean nothing elsewhere.
    kept = ("cpu", "serving packages", "training packages")
    checks = rrr("doctor", capture=True)["checks"]
    result["machine"] = {check["name"]: check["found"] for check in checks if check["name"] in kept}
    for path in filter(None, (ARTIFACTS / "demo.json", arguments.save)):
        path.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    console.print(stages.line(), highlight=False)
    missed = [] if arguments.quick else failures(result)
    for message in missed:
        console.print(message, style="bold red")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
        sys.exit(0)
    sys.exit(130)
