"""Servers as processes: started, timed until ready, held while others are measured, weighed and ended."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from rrrnet.errors import CheckFailedError

_PATIENCE_SECONDS = 120.0
_ENDING_SECONDS = 6.0  # LitServe leaves its workers behind at SIGTERM


def ending_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does, so that servers that are held are not left behind."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def free_port() -> int:
    """A TCP port on loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running server with all its processes.

    Attributes:
        process: what was started.
        url: where it listens.
        start_seconds: from the start to the first answer that it is ready.
        log: what it wrote.
    """

    process: subprocess.Popen[bytes]
    url: str
    start_seconds: float
    log: Path

    def tree(self) -> list[psutil.Process]:
        """Its processes, parents first."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def hold(self) -> None:
        """Stop all its processes where they are, so that they take no time from what is measured."""
        for process in self.tree():
            process.suspend()

    def go_on(self) -> None:
        """Let them run again."""
        for process in reversed(self.tree()):
            process.resume()

    def memory_mb(self) -> float:
        """Memory of all its processes in 10^6 bytes; pages that several of them share are counted once (PSS)."""
        return sum(_proportional_bytes(process.pid) for process in self.tree()) / 1e6


def _proportional_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except ProcessLookupError:  # it has ended, and nobody has asked how
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@contextmanager
def running(
    command: Sequence[str],
    *,
    url: str,
    ready: Callable[[], bool],
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        command: what to start; it must end on SIGTERM.
        url: where it will listen.
        ready: asked until true.
        log: file for its output.
        environment: variables beside those of this process.

    Raises:
        CheckFailedError: it ended, or was not ready in time; carries the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(environment or {})})
    try:
        while not ready():
            if process.poll() is not None or time.monotonic() - started > _PATIENCE_SECONDS:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise CheckFailedError(f"{command[0]} is not ready; the end of {log}:\n{tail}")
            time.sleep(0.02)
        server = Server(process, url, time.monotonic() - started, log)
        yield server
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the parent, which ends its children; whatever is left after a while is killed."""
    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    tree = [*parent.children(recursive=True), parent]
    for member in tree:
        member.resume()
    process.terminate()
    _, left = psutil.wait_procs(tree, timeout=_ENDING_SECONDS)
    for member in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def answers(url: str) -> Callable[[], bool]:
    """Whether a GET of `url` gives status 200."""

    def ready() -> bool:
        try:
            return httpx.get(url, timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    return ready
