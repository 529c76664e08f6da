"""A tiny repository (two random networks, 32 px, 3 classes) and one running service, shared by the session."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from harness import needs
from harness.fake_hub import FakeHub, running
from harness.service import Service
from rrrbuild.build import build_engine
from rrrbuild.manifest import BatchRange
from rrrbuild.repository import write_repository
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture
from rrrserve.bench.closed_loop import closed_loop

LABELS = ("red", "green", "blue")
MAX_BATCH = 4
OBSERVE = Path(__file__).parents[1] / "deploy" / "prometheus" / "observe.py"
LOAD_SECONDS = 5.0
# With AMX OpenVINO 2026.4 gets a grouped 1x1 convolution in bf16 wrong that has a sum fused into it, 16 channels a
# group in and 32 out, and images of 2 x 2 at most: the tests' networks have one, those of ResNet's widths do not.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it needs: `pytest -m "not (service or build or train or nightly)"` is the quick part."""
    for item in items:
        if isinstance(item, pytest.Function):
            for mark in needs.marks(item):
                item.add_marker(mark)


def start(folder: Path, *arguments: str, ready: bool = True) -> Service:
    """Start `rrr serve` with its own log; it does not drain, and has one worker, unless it is told otherwise."""
    defaults = [("--drain", "0"), ("--workers", "1")]
    added = [word for pair in defaults if pair[0] not in arguments for word in pair]
    return Service(folder / "serve.log", *arguments, *added, ready=ready)


def random_checkpoint(folder: Path, name: str, members: int, *, seed: int) -> Checkpoint:
    """A network that was never trained, with few channels."""
    import torch

    from rrrnet.network.ensemble import RRRNet

    torch.manual_seed(seed)
    architecture = Architecture(len(LABELS), REDUCED_BLOCKS, members, (8, 8))
    checkpoint = Checkpoint(
        folder / name, name, "ensemble", architecture, LABELS, Preprocess(32), {"data": None}, "tests"
    )
    state = RRRNet(architecture).state_dict()
    weights = {key: value.numpy() for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for key in weights:
        if key.endswith("fc.weight"):
            weights[key] = weights[key] * 30  # so that images and members differ visibly
    with sealed.staged(folder / name, document=DOCUMENT) as stage:
        write_checkpoint(checkpoint, weights, stage)
    return read_checkpoint(folder / name)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    """An ensemble of 3 members and a single network."""
    folder = tmp_path_factory.mktemp("models")
    return random_checkpoint(folder, "tiny", 3, seed=1), random_checkpoint(folder, "single", 1, seed=2)


@pytest.fixture(scope="session")
def repository(
    checkpoints: tuple[Checkpoint, Checkpoint], tmp_path_factory: pytest.TempPathFactory, png: Callable[[int], bytes]
) -> Path:
    """Both networks as ONNX Runtime engines in one Triton repository; the ensemble's members run side by side.

    The single one gives embeddings. The repository has the first three pictures as samples, red, green and blue.
    """
    folder = tmp_path_factory.mktemp("engines")
    for checkpoint in checkpoints:
        several = checkpoint.architecture.members > 1
        build_engine(
            checkpoint.path,
            "onnxruntime-fp32",
            plan="split" if several else "sequential",
            batch=BatchRange(1, 2, MAX_BATCH),
            out=folder / checkpoint.name,
            images=8,
            embed=not several,
        )
    out = tmp_path_factory.mktemp("served") / "repository"
    samples = [(folder / f"{label}.png", label) for label in LABELS]
    for seed, (path, _) in enumerate(samples):
        path.write_bytes(png(seed))
    engines = [folder / item.name for item in checkpoints]
    write_repository(engines, out, backends=frozenset({"python"}), samples=samples)
    return out


@pytest.fixture(scope="session")
def service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`rrr serve` on free ports, KServe's gRPC too."""
    served = start(tmp_path_factory.mktemp("service"), str(repository), "--port", "0", "--grpc-port", "0")
    yield served
    assert served.stop() == 0, served.log.read_text()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services of one's own; those that still run when the test ends are killed."""
    running: list[Service] = []

    def starter(*arguments: str, ready: bool = True) -> Service:
        running.append(start(tmp_path, *arguments, ready=ready))
        return running[-1]

    yield starter
    for served in running:
        served.kill()


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """An HTTP client of the service."""
    with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of one's own, asked in place of the real one, and an empty cache."""
    from huggingface_hub import constants

    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.fixture(scope="session")
def picture() -> Callable[[int], npt.NDArray[np.uint8]]:
    """Pictures by number that are their own decoded form, being 32 x 32 already. Shape (32, 32, 3)."""

    def make(seed: int) -> npt.NDArray[np.uint8]:
        tiles = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        return np.ascontiguousarray(tiles.repeat(8, axis=0).repeat(8, axis=1))

    return make


@pytest.fixture(scope="session")
def png(picture: Callable[[int], npt.NDArray[np.uint8]]) -> Callable[[int], bytes]:
    """The same pictures as PNG bytes."""

    def make(seed: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture(seed)).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@dataclass
class Observed:
    """A running Prometheus and the time in which it watched the service under load.

    Attributes:
        url: Prometheus's own.
        service: the service that it scrapes every second.
        started: when the load began, in seconds since 1970, and
        ended: when all of it had been scraped and the rules evaluated.
        answers: good answers to the load, by model.
    """

    url: str
    service: Service
    started: float
    ended: float
    answers: dict[str, int]

    def get(self, path: str, **parameters: str) -> Any:
        """The data of one call of Prometheus's HTTP API."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str, at: float | None = None) -> dict[tuple[tuple[str, str], ...], float]:
        """The series of a PromQL expression at a time, by default at the end: sorted labels -> value."""
        found = self.get("query", query=expression, time=str(at or self.ended))["result"]
        return {tuple(sorted(series["metric"].items())): float(series["value"][1]) for series in found}


def watch(folder: Path, url: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path, str]:
    """Start what `make observe` runs, on a free port; the process, its log and Prometheus's URL."""
    log = folder / "observe.log"
    with log.open("wb") as file:
        command = [sys.executable, str(OBSERVE), "--url", url, "--port", "0", *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    while (found := re.search(r"Prometheus: (\S+)", log.read_text())) is None:
        if process.poll() is not None:
            pytest.fail(f"observe.py ended with {process.returncode}:\n{log.read_text()}")
        time.sleep(0.05)
    return process, log, found[1]


def counted_answers(service: Service) -> float:
    """Single images that the service has answered."""
    text = httpx.get(f"{service.url}/metrics", trust_env=False).text
    pattern = r'^rrr_request_duration_seconds_count\{.*outcome="ok",route=".*/predict"\} (\S+)$'
    return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))


async def load_both_models(service: Service, bodies: list[bytes]) -> dict[str, int]:
    """Both models under load at the same time, with requests that are refused among them."""
    routes = {"tiny": "/v1/predict", "single": "/v1/models/single/predict"}
    loads = {
        model: closed_loop(f"{service.url}{route}", bodies, 2, seconds=LOAD_SECONDS) for model, route in routes.items()
    }

    async def refused() -> None:
        end = time.monotonic() + LOAD_SECONDS
        async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
            while time.monotonic() < end:
                assert (await client.post("/v1/models/nobody/predict", content=bodies[0])).status_code == 404
                assert (await client.post("/v1/predict", content=b"no image")).status_code == 415
                await asyncio.sleep(0.1)

    refusing = asyncio.create_task(refused())
    results = await asyncio.gather(*loads.values())
    await refusing
    assert all(not result.errors for result in results)
    return {model: len(result.latencies_seconds) for model, result in zip(loads, results, strict=True)}


def observe_load(observed: Observed, bodies: list[bytes]) -> Observed:
    """Load the service between two scrapes that hold all that was answered before and after."""
    answers = 'sum(rrr_request_duration_seconds_count{outcome="ok",route=~".*/predict"})'

    def wait_until_scraped(count: float) -> float:
        for _ in range(100):
            now = time.time()
            if list(observed.query(answers, now).values()) == [count]:
                return now
            time.sleep(0.1)
        pytest.fail(f"Prometheus does not get at {count}: {observed.query(answers, now)}")

    count = counted_answers(observed.service)
    observed.started = wait_until_scraped(count)
    observed.answers = asyncio.run(load_both_models(observed.service, bodies))
    wait_until_scraped(count + sum(observed.answers.values()))
    time.sleep(2.5)  # rules build on rules, which see one another's values of a second ago
    observed.ended = time.time()
    return observed


@pytest.fixture(scope="session")
def observed(
    service: Service, png: Callable[[int], bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    """A real Prometheus that scraped the service every second while both models were under load (some 10 s)."""
    folder = tmp_path_factory.mktemp("observed")
    process, log, url = watch(folder, service.url, "--interval", "1s", "--baseline", "single")
    try:
        yield observe_load(Observed(url, service, 0, 0, {}), [png(seed) for seed in range(8)])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()


@pytest.fixture
def start_observing() -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path, str]]]:
    """Start what `make observe` runs; what still runs when the test ends is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def starter(folder: Path, url: str) -> tuple[subprocess.Popen[bytes], Path, str]:
        process, log, address = watch(folder, url)
        started.append(process)
        return process, log, address

    yield starter
    for process in started:
        process.terminate()
        process.wait()
