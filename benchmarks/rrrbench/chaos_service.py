"""One `rrr serve` under test: its processes by kind, and what it leaves behind."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from rrrbench.checking_client import essence
from rrrnet.errors import CheckFailedError
from rrrserve.process import scratch

_RRR = Path(sys.executable).parent / "rrr"
_READY_SECONDS = 120.0
# How the processes of each kind are told: a part of the command line.
KINDS = {"tritonserver": "bin/tritonserver", "stub": "triton_python_backend_stub", "worker": "rrrserve.worker"}


def is_of_kind(process: psutil.Process, kind: str) -> bool:
    """Whether a process is of one of `KINDS`."""
    return KINDS[kind] in " ".join(process.cmdline())


def regions(pid: int) -> int:
    """Shared memory of a service; the empty files that tell its owner are none."""
    return sum(1 for path in scratch.SHARED_MEMORY.glob(f"{scratch.prefix(pid)}*") if path.stat().st_size)


class Service:
    """A running service."""

    def __init__(self, repository: Path, log: Path, *arguments: str, port: int = 0) -> None:
        """Start it and wait until it is ready.

        Raises:
            CheckFailedError: it ended or was not ready in time; carries the end of its log.
        """
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [str(_RRR), "serve", str(repository), "--port", str(port), *arguments],
                stdout=file,
                stderr=file,
                env={**os.environ, "COLUMNS": "200"},
            )
        started = time.monotonic()
        while not (found := re.search(r"ready: (\S+)", log.read_text(errors="replace"))):
            if self.process.poll() is not None or time.monotonic() - started > _READY_SECONDS:
                self.process.kill()
                raise CheckFailedError(f"rrr serve is not ready: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        self.start_seconds = time.monotonic() - started
        self.url = found[1]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def children(self) -> list[psutil.Process]:
        """All processes below the parent."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """The live processes of one of `KINDS`."""
        found = []
        for process in self.children():
            try:
                if is_of_kind(process, kind):
                    found.append(process)
            except psutil.Error:
                continue  # it has just ended
        return found

    def shared_memory(self) -> int:
        """How many regions it has."""
        return regions(self.process.pid)

    def memory_mb(self) -> float:
        """Memory of all its processes that is theirs alone, in 10^6 bytes."""
        return float(sum(process.memory_full_info().uss for process in self.children())) / 1e6

    def golden(self, query: str, bodies: Sequence[bytes]) -> list[dict[str, float]]:
        """The answers to each image while nothing is wrong."""
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            return [essence(_good(client.post(f"/v1/predict?{query}", content=body))) for body in bodies]

    def left_behind(self, children: Sequence[psutil.Process]) -> list[str]:
        """What is still there after it has ended: processes, its port, shared memory, folders."""
        found = [f"process {process.pid}" for process in still_running(children, seconds=0.5)]
        if not port_is_free(self.port):
            found.append(f"port {self.port}")
        return found + self.files()

    def files(self) -> list[str]:
        """Its folders and shared memory."""
        prefix = scratch.prefix(self.process.pid)
        return [str(path) for place in scratch.places() for path in place.glob(f"{prefix}*")]

    def kill(self) -> None:
        """End it by force, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def still_running(processes: Sequence[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    """Those that still run after a while; one that only waits to be counted out by its parent does not."""
    left = psutil.wait_procs(processes, timeout=seconds)[1]
    return [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def port_is_free(port: int) -> bool:
    """Whether a new listener could take it."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _good(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document
