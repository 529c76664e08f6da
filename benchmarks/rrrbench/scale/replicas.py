"""Replicas of the service on cores of their own: started, told apart by process, and weighed on the wire."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from rrrbench import contenders
from rrrbench.names import ENSEMBLE
from rrrbench.networks import Networks
from rrrbench.scale.simulation import Topology
from rrrbench.servers import Server
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import Repository, ServedModel, read_repository
from rrrserve.evidence.readings import parse
from rrrserve.triton.client import request_bytes
from rrrserve.triton.install import find_tritonserver

CORES = 2
ONE, TWO, APART = "1 replica", "2 replicas", "front and Triton apart"
TOPOLOGIES = {
    ONE: Topology(fronts=(0,), tritons=((0,),), cores=CORES),
    TWO: Topology(fronts=(0, 1), tritons=((0,), (1,)), cores=CORES),
    APART: Topology(fronts=(0,), tritons=((1,),), cores=CORES),
}
# How the processes of a replica are told by their command lines; the rest is the supervisor.
_PARTS = {"front": "rrrserve.worker", "triton": "bin/tritonserver", "model": "triton_python_backend_stub"}
# Triton's counters; looks at the model are among them.
_COUNTERS = {
    "nv_inference_count": "images",
    "nv_inference_exec_count": "batches",
    "nv_inference_queue_duration_us": "queue_us",
}


def usable_cores() -> list[int]:
    """The first cores that this process may run on.

    Raises:
        SystemExit: there are too few.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES:
        raise SystemExit(f"this process may run on {len(cores)} core: two replicas need {CORES}")
    return cores[:CORES]


def repository_of(networks: Networks, pixels: int, target: str) -> Repository:
    """A repository of the ensemble in one target alone: the service asks every model that it serves now and then."""
    out = networks.cache / str(pixels) / f"repository.{target}"
    engine = networks.engine_folder(ENSEMBLE, pixels, target)
    write_repository([engine], out, backends=find_tritonserver().backends, names=[ENSEMBLE])
    return read_repository(out)


@dataclass(frozen=True)
class Deployment:
    """A topology that runs.

    Attributes:
        fronts: each `rrr serve`.
        tritons: those that run apart from their front.
    """

    fronts: list[Server]
    tritons: list[Server]

    @property
    def urls(self) -> list[str]:
        """Where to POST an image to each front."""
        return [f"{server.url}/v1/predict" for server in self.fronts]

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time so far of each part of all replicas: `front`, `triton`, `model` and `other`."""
        found = dict.fromkeys([*_PARTS, "other"], 0.0)
        for process in (process for server in [*self.fronts, *self.tritons] for process in server.tree()):
            try:
                line, times = " ".join(process.cmdline()), process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            part = next((part for part, words in _PARTS.items() if words in line), "other")
            found[part] += times.user + times.system
        return found

    def inferences(self) -> dict[str, float]:
        """Images, batches and waiting of the replicas' own Tritons so far; 0 of those that run apart."""
        found = dict.fromkeys(_COUNTERS.values(), 0.0)
        for server in self.fronts[: len(self.fronts) - len(self.tritons)]:
            answer = httpx.get(f"{server.url}/metrics/triton", timeout=30, trust_env=False).raise_for_status()
            for (name, _), value in parse(answer.text, server.url).items():
                if name in _COUNTERS:
                    found[_COUNTERS[name]] += value
        return found


@contextmanager
def deployed(topology: Topology, repository: Path, logs: Path) -> Iterator[Deployment]:
    """Each front of a topology on its core; with its own Triton, or with one apart where that has another core."""
    cores = usable_cores()
    with ExitStack() as stack:
        found = Deployment([], [])
        for index, place in enumerate(topology.fronts):
            options = ["--workers", "1"]
            (engine_place,) = topology.tritons[index]
            if engine_place != place:
                apart = contenders.triton_alone(repository, logs, cores=[cores[engine_place]])
                found.tritons.append(stack.enter_context(apart))
                options += ["--triton-url", found.tritons[-1].url]
            service = contenders.rrr_serve(
                repository, logs, options=options, cores=[cores[place]], log=f"rrr-serve-{index}"
            )
            found.fronts.append(stack.enter_context(service))
        yield found


def since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was added between two readings."""
    return {name: value - before[name] for name, value in after.items()}


def wire_bytes(url: str, body: bytes) -> dict[str, int]:
    """Bytes of one request for a prediction and of its answer, with HTTP headers as a plain client sends them."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/octet-stream\r\n"
    request = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    with socket.create_connection((str(parts.hostname), int(parts.port or 80)), timeout=30) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"{url} answered {answer[:200]!r}")
    return {"request": len(request), "answer": len(answer)}


def pixels_bytes(model: ServedModel) -> int:
    """Bytes of the message in which the front hands one image to Triton."""
    return len(request_bytes(model, [np.zeros((model.image_size, model.image_size, 3), np.uint8)], timeout_seconds=1))


def folder_bytes(folder: Path) -> int:
    """What the files of a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
