"""One `rrr serve` under test: its processes by kind, its answers, and what it leaves behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from harness.clients import essence
from rrrnet.errors import CheckFailedError
from rrrserve.process import scratch

RRR = Path(sys.executable).parent / "rrr"
_READY_SECONDS = 120.0
# How the processes of each kind are told: a part of the command line.
KINDS = {"tritonserver": "bin/tritonserver", "stub": "triton_python_backend_stub", "worker": "rrrserve.worker"}


def is_of_kind(process: psutil.Process, kind: str) -> bool:
    """Whether a process is of one of `KINDS`."""
    return KINDS[kind] in " ".join(process.cmdline())


def wait_for(condition: Callable[[], Any], *, seconds: float = 60.0) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: it is not so in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def regions(pid: int) -> int:
    """Shared memory of a service; the empty files that tell its owner are none."""
    return sum(1 for path in scratch.SHARED_MEMORY.glob(f"{scratch.prefix(pid)}*") if path.stat().st_size)


class Service:
    """A running service, killed at the end of a `with` block.

    Attributes:
        process: the parent.
        log: what all its processes write.
        url: where it listens; empty if it was not waited for.
        start_seconds: from the start until it said that it is ready.
    """

    def __init__(self, log: Path, *arguments: str, ready: bool = True, before: Sequence[str] = ()) -> None:
        """Start it, by default at a free port, and wait until it says that it is ready.

        Args:
            log: a file, written anew.
            arguments: of `rrr serve`.
            ready: whether to wait.
            before: words before its command, of a program that runs it.

        Raises:
            CheckFailedError: it ended or was not ready in time; carries the end of its log.
        """
        self.log, self.url = log, ""
        log.parent.mkdir(parents=True, exist_ok=True)
        port = () if "--port" in arguments else ("--port", "0")
        with log.open("wb") as file:
            command = [*before, str(RRR), "serve", *arguments, *port]
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "COLUMNS": "200"})
        started = time.monotonic()
        while ready and not self.url:
            if found := re.search(r"ready: (\S+)", log.read_text(errors="replace")):
                self.url = found[1]
            elif self.process.poll() is not None or time.monotonic() - started > _READY_SECONDS:
                self.kill()
                raise CheckFailedError(f"rrr serve is not ready: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        self.start_seconds = time.monotonic() - started

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it by force, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def grpc(self) -> str:
        """HOST:PORT of KServe's gRPC; there is one with `--grpc-port`."""
        return str(re.findall(r"its gRPC at (\S+)", self.log.read_text())[0])

    def ask(self, path: str, **arguments: Any) -> httpx.Response:
        """One request: a GET, or a POST of what is given."""
        method = "POST" if arguments else "GET"
        return httpx.request(method, f"{self.url}{path}", timeout=30, trust_env=False, **arguments)

    def is_ready(self) -> bool:
        """What /readyz says; not ready where nobody answers."""
        try:
            return self.ask("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def golden(self, query: str, bodies: Sequence[bytes]) -> list[dict[str, float]]:
        """The answers to each image while nothing is wrong."""
        answers = (self.ask(f"/v1/predict?{query}", content=body).raise_for_status() for body in bodies)
        return [essence(answer.json()) for answer in answers]

    def children(self) -> list[psutil.Process]:
        """All processes below the parent: Triton, its stubs and the HTTP workers."""
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

    def left_behind(self, children: Sequence[psutil.Process]) -> list[str]:
        """What is still there after it has ended: processes, its port, shared memory, folders."""
        found = [f"process {process.pid}" for process in still_running(children, seconds=1.0)]
        if self.url and not port_is_free(self.port):
            found.append(f"port {self.port}")
        return found + self.files()

    def files(self) -> list[str]:
        """Its folders and shared memory."""
        prefix = scratch.prefix(self.process.pid)
        return [str(path) for place in scratch.places() for path in place.glob(f"{prefix}*")]


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
