"""A tiny repository (two random networks, 32 px, 3 classes) and one running service, shared by the session."""

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

import httpx
import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from rrrbuild.build import build_engine
from rrrbuild.manifest import BatchRange
from rrrbuild.repository import write_repository
from rrrnet import sealed
from rrrnet.architecture import REDUCED_BLOCKS, Architecture
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.preprocess import Preprocess

LABELS = ("red", "green", "blue")
RRR = Path(sys.executable).parent / "rrr"
MAX_BATCH = 4


@dataclass
class Served:
    """A running `rrr serve`."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str

    def children(self) -> list[psutil.Process]:
        """Triton, its stubs and the HTTP workers."""
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


def start(folder: Path, *arguments: str, ready: bool = True) -> Served:
    """Start `rrr serve` with its own log and, by default, wait until it says that it is ready; it does not drain."""
    log = folder / "serve.log"
    if "--drain" not in arguments:
        arguments = (*arguments, "--drain", "0")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(RRR), "serve", *arguments], stdout=file, stderr=file, env={**os.environ, "COLUMNS": "200"}
        )
    served = Served(process, log, "")
    while ready and not served.url:
        found = re.search(r"ready: (\S+)", log.read_text())
        if found:
            served.url = found[1]
        elif process.poll() is not None:
            pytest.fail(f"rrr serve ended with {process.returncode}:\n{log.read_text()}")
        time.sleep(0.05)
    return served


def random_checkpoint(folder: Path, name: str, members: int, *, seed: int) -> Checkpoint:
    """A network that was never trained, with few channels."""
    import torch

    from rrrnet.ensemble import RRRNet

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
def repository(checkpoints: tuple[Checkpoint, Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks as ONNX Runtime engines in one Triton repository; the ensemble's members run side by side."""
    folder = tmp_path_factory.mktemp("engines")
    for checkpoint in checkpoints:
        build_engine(
            checkpoint.path,
            "onnxruntime-fp32",
            plan="split" if checkpoint.architecture.members > 1 else "sequential",
            batch=BatchRange(1, 2, MAX_BATCH),
            out=folder / checkpoint.name,
            images=8,
        )
    out = tmp_path_factory.mktemp("served") / "repository"
    write_repository([folder / item.name for item in checkpoints], out, backends=frozenset({"python"}))
    return out


@pytest.fixture(scope="session")
def service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`rrr serve` on a free port."""
    served = start(tmp_path_factory.mktemp("service"), str(repository), "--port", "0")
    yield served
    assert served.stop() == 0, served.log.read_text()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start services of one's own; those that still run when the test ends are killed."""
    running: list[Served] = []

    def starter(*arguments: str, ready: bool = True) -> Served:
        running.append(start(tmp_path, *arguments, ready=ready))
        return running[-1]

    yield starter
    for served in running:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()


@pytest.fixture
def client(service: Served) -> Iterator[httpx.Client]:
    """An HTTP client of the service."""
    with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as opened:
        yield opened


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
