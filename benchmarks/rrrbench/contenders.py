"""What is compared over the wire: our service and its peers, each with the command that starts it."""

import asyncio
import base64
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rrrbench.environment import ROOT
from rrrbench.names import ENSEMBLE
from rrrbench.networks import Networks
from rrrbench.servers import Server, answers, free_port, running
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import Repository, read_repository
from rrrserve.bench.closed_loop import Result, closed_loop
from rrrserve.triton.install import find_tritonserver

BIN = Path(sys.executable).parent
PEERS = ROOT / "benchmarks" / "peers"
# Drives a server: concurrency, seconds -> what was measured.
Drive = Callable[[int, float], Result]


@dataclass(frozen=True)
class Contender:
    """One row of the comparison: a server that runs, and how to drive it."""

    server: Server
    drive: Drive


def repository(networks: Networks, pixels: int, engines: Sequence[tuple[str, str]]) -> Repository:
    """A Triton repository of (network, target) pairs; a model is named "NETWORK.TARGET"."""
    out = networks.cache / str(pixels) / "repository"
    folders = [networks.engine_folder(name, pixels, target) for name, target in engines]
    names = [f"{name}.{target}" for name, target in engines]
    write_repository(folders, out, backends=find_tritonserver().backends, names=names)
    return read_repository(out)


def exact_repository(cache: Path) -> Path:
    """The ensemble at 64 pixels in a target whose every answer can be judged."""
    return repository(Networks(cache), 64, [(ENSEMBLE, "onnxruntime-fp32")]).path


def http(url: str, bodies: Sequence[bytes]) -> Drive:
    """Drive an HTTP server by POSTs of prepared bodies over keep-alive connections."""
    return lambda concurrency, seconds: asyncio.run(closed_loop(url, bodies, concurrency, seconds=seconds))


@contextmanager
def rrr_serve(path: Path, logs: Path) -> Iterator[Server]:
    """Our service, as a user starts it."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(BIN / "rrr"), "serve", str(path), "--port", url.rpartition(":")[2]]
    command += ["--drain", "0", "--restarts", "0"]  # what dies must not be measured as if nothing had been
    with running(command, url=url, ready=answers(f"{url}/readyz"), log=logs / "rrr-serve.log") as server:
        yield server


@contextmanager
def bentoml_torch(networks: Networks, name: str, pixels: int, logs: Path) -> Iterator[Server]:
    """BentoML and PyTorch eager."""
    checkpoint = networks.checkpoint(name, pixels)
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(BIN / "bentoml"), "serve", "bentoml_torch:Classifier", "--working-dir", str(PEERS)]
    with running(
        [*command, "--host", "127.0.0.1", "--port", url.rpartition(":")[2]],
        url=url,
        ready=answers(f"{url}/readyz"),
        log=logs / f"bentoml-torch-{name}.log",
        environment={**_paths(), "PYTORCH_CHECKPOINT": str(checkpoint.path), "BENTOML_DO_NOT_TRACK": "True"},
    ) as server:
        yield server


@contextmanager
def litserve_onnxruntime(engine: Path, logs: Path) -> Iterator[Server]:
    """LitServe and ONNX Runtime."""
    url = f"http://127.0.0.1:{free_port()}"
    with running(
        [sys.executable, str(PEERS / "litserve_onnxruntime.py"), url.rpartition(":")[2]],
        url=url,
        ready=answers(f"{url}/health"),
        log=logs / "litserve.log",
        environment={**_paths(), "ONNX_ENGINE": str(engine.absolute())},
    ) as server:
        yield server


@contextmanager
def fastapi_onnxruntime(engine: Path, logs: Path) -> Iterator[Server]:
    """FastAPI, uvicorn and ONNX Runtime."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "uvicorn", "fastapi_onnxruntime:app", "--app-dir", str(PEERS)]
    with running(
        [*command, "--port", url.rpartition(":")[2], "--no-access-log", "--log-level", "warning"],
        url=url,
        ready=answers(f"{url}/health"),
        log=logs / "fastapi.log",
        environment={**_paths(), "ONNX_ENGINE": str(engine.absolute())},
    ) as server:
        yield server


@contextmanager
def triton_alone(path: Path, logs: Path) -> Iterator[Server]:
    """Triton without a service in front of it; its address is HOST:PORT."""
    port_file = logs / "triton.address"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, str(PEERS / "triton_alone.py"), str(path), str(port_file)]
    with running(
        command, url="", ready=lambda: _triton_ready(port_file), log=logs / "triton.log", environment=_paths()
    ) as server:
        server.url = port_file.read_text()
        yield server


def _triton_ready(port_file: Path) -> bool:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    if not (port_file.exists() and port_file.read_text()):
        return False
    with InferenceServerClient(port_file.read_text()) as client:
        try:
            return bool(client.is_server_ready(client_timeout=1))
        except InferenceServerException:
            return False


def _paths() -> dict[str, str]:
    """Where the peers find this package."""
    return {"PYTHONPATH": str(ROOT / "benchmarks")}


def as_json(bodies: Sequence[bytes]) -> list[bytes]:
    """Images as LitServe's guide sends them: base64 in JSON."""
    return [json.dumps({"image": base64.b64encode(body).decode()}).encode() for body in bodies]
