"""What is compared over the wire: our service and its peers, each with the command that starts it."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

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


def percentiles(latencies_ms: Any) -> dict[str, float]:
    """p50, p95 and p99, JSON-ready."""
    return {f"p{percent}_ms": float(np.percentile(latencies_ms, percent)) for percent in (50, 95, 99)}


def pooled(results: Sequence[Result]) -> dict[str, Any]:
    """The requests of all rounds together, JSON-ready."""
    latencies_ms = 1000 * np.concatenate([result.latencies_seconds for result in results])
    return {"requests": len(latencies_ms), **percentiles(latencies_ms)}


def http(url: str, bodies: Sequence[bytes]) -> Drive:
    """Drive an HTTP server by POSTs of prepared bodies over keep-alive connections."""
    return lambda concurrency, seconds: asyncio.run(closed_loop(url, bodies, concurrency, seconds=seconds))


@contextmanager
def _http_server(
    name: str, command: Callable[[str], list[str]], ready: str, logs: Path, environment: Mapping[str, str]
) -> Iterator[Server]:
    """A server at a free port, which `command` gets; the path `ready` answers 200 when it is."""
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    log = logs / f"{name}.log"
    with running(command(port), url=url, ready=answers(url + ready), log=log, environment=environment) as server:
        yield server


def rrr_serve(
    path: Path, logs: Path, *, options: Sequence[str] = (), cores: Sequence[int] = (), log: str = "rrr-serve"
) -> AbstractContextManager[Server]:
    """Our service, as a user starts it; what dies must not be measured as if nothing had been.

    Args:
        path: the repository.
        logs: where its log goes.
        options: further ones of `rrr serve`.
        cores: that it may run on; all, if none is named.
        log: name of its log.
    """
    words = [*_pinned(cores), str(BIN / "rrr"), "serve", str(path), *options, "--drain", "0", "--restarts", "0"]
    return _http_server(log, lambda port: [*words, "--port", port], "/readyz", logs, {})


def bentoml_torch(networks: Networks, name: str, pixels: int, logs: Path) -> AbstractContextManager[Server]:
    """BentoML and PyTorch eager."""
    words = [str(BIN / "bentoml"), "serve", "bentoml_torch:Classifier", "--working-dir", str(PEERS)]
    words += ["--host", "127.0.0.1", "--port"]
    environment = {**python_path(), "PYTORCH_CHECKPOINT": str(networks.checkpoint(name, pixels).path)}
    environment["BENTOML_DO_NOT_TRACK"] = "True"
    return _http_server(f"bentoml-torch-{name}", lambda port: [*words, port], "/readyz", logs, environment)


def litserve(classifier: str, engine: Path, logs: Path) -> AbstractContextManager[Server]:
    """LitServe and a class of `rrrbench.classifiers` in its worker."""
    words = [sys.executable, str(PEERS / "litserve_peer.py")]
    environment = _in_process(classifier, engine)
    return _http_server(f"litserve-{classifier}", lambda port: [*words, port], "/health", logs, environment)


def fastapi(classifier: str, engine: Path, logs: Path) -> AbstractContextManager[Server]:
    """FastAPI, uvicorn and a class of `rrrbench.classifiers` in their process."""
    words = [sys.executable, "-m", "uvicorn", "fastapi_peer:app", "--app-dir", str(PEERS)]
    words += ["--no-access-log", "--log-level", "warning", "--port"]
    environment = _in_process(classifier, engine)
    return _http_server(f"fastapi-{classifier}", lambda port: [*words, port], "/health", logs, environment)


def _in_process(classifier: str, engine: Path) -> dict[str, str]:
    return {**python_path(), "PEER_CLASSIFIER": classifier, "PEER_ENGINE": str(engine.absolute())}


@contextmanager
def triton_alone(path: Path, logs: Path, *, cores: Sequence[int] = ()) -> Iterator[Server]:
    """Triton without a service in front of it, on some cores or all; its address is HOST:PORT."""
    port_file = logs / "triton.address"
    port_file.unlink(missing_ok=True)
    command = [*_pinned(cores), sys.executable, str(PEERS / "triton_alone.py"), str(path), str(port_file)]
    with running(
        command, url="", ready=lambda: _triton_ready(port_file), log=logs / "triton.log", environment=python_path()
    ) as server:
        server.url = port_file.read_text()
        yield server


def _pinned(cores: Sequence[int]) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []


def _triton_ready(port_file: Path) -> bool:
    if not (port_file.exists() and port_file.read_text()):
        return False
    with InferenceServerClient(port_file.read_text()) as client:
        try:
            return bool(client.is_server_ready(client_timeout=1))
        except InferenceServerException:
            return False


def python_path() -> dict[str, str]:
    """The variable by which a process of its own finds this package."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])}


def as_json(bodies: Sequence[bytes]) -> list[bytes]:
    """Images as LitServe's guide sends them: base64 in JSON."""
    return [json.dumps({"image": base64.b64encode(body).decode()}).encode() for body in bodies]
