"""Run tritonserver as a child: loopback only, admin interfaces locked, gone when the parent is gone.

HTTP is switched off: our client speaks gRPC, and the HTTP front of the wheel's Triton 2.51 can be crashed by requests.
"""

import asyncio
import contextlib
import os
import random
import re
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

import psutil

from rrrnet.errors import CheckFailedError, IncompatibleError
from rrrnet.processor import threads
from rrrserve.process import children
from rrrserve.process.scratch import PrivateFolder
from rrrserve.triton.install import check_libpython, child_environment, find_tritonserver, lay_out
from rrrserve.triton.models import link_models

EXIT_TIMEOUT_SECONDS = 10
# Engines take all cores they get. What is over the limit is refused quickly only if the HTTP workers go before them.
_NICE = 5
_LAST = 19
_PATIENCE_SECONDS = EXIT_TIMEOUT_SECONDS + 5
_LOG = "triton.log"
# It runs in its private folder and is given paths from there: the Python backend writes them into a command for bash
# without quotes, so that a space in TMPDIR, or in a repository's path, would be the end of a word.
_REPOSITORY = "models-served"
_LOG_TAIL_LINES = 30
# How Triton's log tells that a model did not load: the model's name, and the first line of the reason.
_NOT_LOADED = re.compile(
    r"(?:failed to load|Poll failed for model directory) '([^']+)'(?: version \d+)?: (?:Internal: )?(.*?)(?:\\n|\"|$)",
    re.M,
)
# Reasons that are faults of the moment, not of the model: its process died, or a lock was lost while others started.
_PASSING = re.compile(r"boost|stub process|lock_exception", re.I)
_STUB = "triton_python_backend_stub"
_LOWEST_PORT = 10_000
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_NOISE = re.compile(r"[+|]|\S+ I ")  # tables, and remarks of level INFO
_ADMIN = "shared-memory,model-repository,model-config,statistics,trace,logging"
# Every gRPC service but health, metadata and inference asks for a header of this name, with a value made at each start.
# Triton takes it from its command line only, which every user of the machine can read; so the name has a capital
# letter, which HTTP/2 forbids: no client, and nobody needs one, can ever send it.
_ADMIN_KEY = "Rrr-admin-key"


class TritonServer:
    """A tritonserver child; it can be started again after it has ended, at the same ports, with a new private folder.

    Attributes:
        url: HOST:PORT of gRPC.
        metrics_url: URL of Triton's own Prometheus metrics.
    """

    def __init__(self, repository: Path, backends: frozenset[str]) -> None:
        """Look for a tritonserver; nothing is started.

        Args:
            repository: a Triton model repository.
            backends: the Triton backends that its models need.

        Raises:
            IncompatibleError: no tritonserver, or a backend or library is missing; says what to install.
        """
        self._install = find_tritonserver()
        missing = sorted(backends - self._install.backends)
        if missing:
            raise IncompatibleError(
                f"{self._install.binary} has no backend {', '.join(missing)}, which models in {repository} need "
                f"(it has {', '.join(sorted(self._install.backends))}): run rrr repository again on this machine"
            )
        if "python" in backends:
            check_libpython(self._install)
        self._repository = repository.absolute()
        self._folder: PrivateFolder | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._grpc_port, self._metrics_port = _free_ports(2)
        self.url = f"127.0.0.1:{self._grpc_port}"
        self.metrics_url = f"http://127.0.0.1:{self._metrics_port}/metrics"

    async def start(self) -> None:
        """Start the child. It loads its models in the background: readiness is for the caller to find out."""
        self._folder = PrivateFolder()
        folder = self._folder.path
        link_models(self._repository, folder / _REPOSITORY, threads())
        backends = lay_out(self._install, folder)
        environment = child_environment(self._install, folder, threads=threads().count)
        with (folder / _LOG).open("wb") as log:
            command = self._command(folder, backends)
            self._process = await children.spawn(
                command, environment=environment, output=log.fileno(), nice=_NICE, folder=folder
            )

    def _command(self, folder: Path, backends: Path) -> list[str]:
        return [
            str(self._install.binary),
            f"--model-repository={_REPOSITORY}",
            f"--backend-directory={backends.relative_to(folder) if backends.is_relative_to(folder) else backends}",
            f"--backend-config=python,shm-region-prefix-name={folder.name}",
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            "--exit-on-error=true",
            "--strict-readiness=true",
            f"--exit-timeout-secs={EXIT_TIMEOUT_SECONDS}",
            "--allow-http=false",
            "--allow-grpc=true",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._grpc_port}",
            f"--grpc-restricted-protocol={_ADMIN}:{_ADMIN_KEY}={secrets.token_hex(16)}",
            "--allow-metrics=true",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self._metrics_port}",
            "--log-format=ISO8601",
        ]

    async def wait(self) -> int:
        """Wait until the child ends; its exit code, negative for a signal."""
        if self._process is None:
            raise RuntimeError("tritonserver was not started")
        return await self._process.wait()

    def model_processes(self) -> list[psutil.Process]:
        """The processes in which the Python backend runs models."""
        if self._process is None:
            return []
        try:
            everything = psutil.Process(self._process.pid).children(recursive=True)
            return [process for process in everything if _STUB in " ".join(process.cmdline()[:1])]
        except psutil.NoSuchProcess:
            return []

    def give_way(self, models: Sequence[str]) -> None:
        """Put the processes of some models behind all others, for as long as they run: nobody may raise them again."""
        for process in self.model_processes():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # it, or a thread, has just ended
                if any(f"/{model}/" in word for model in models for word in process.cmdline()):
                    for thread in process.threads():  # each has a priority of its own
                        os.setpriority(os.PRIO_PROCESS, thread.id, _LAST)

    def failure(self, code: int) -> CheckFailedError:
        """The error to report after the child ended by itself: the models that did not load, or the log's tail."""
        unloaded = self._unloaded()
        if unloaded:
            reasons = "; ".join(f"the model {name} ({reason})" for name, reason in unloaded.items())
            return CheckFailedError(f"Triton could not load {reasons}")
        remarks = [line for line in self._log().splitlines() if line and not _NOISE.match(line)]
        tail = "\n".join(remarks[-_LOG_TAIL_LINES:])
        return CheckFailedError(f"Triton ended with exit code {code}. The end of its log:\n{tail}")

    def has_unusable_model(self) -> bool:
        """Whether the child ended since a model cannot be loaded, as it will not the next time."""
        unloaded = self._unloaded()
        return any(not _PASSING.search(reason) for reason in unloaded.values())

    def _unloaded(self) -> dict[str, str]:
        """Models that did not load, with the reasons that Triton's log tells."""
        return dict(_NOT_LOADED.findall(self._log()))

    def _log(self) -> str:
        log = self._folder.path / _LOG if self._folder is not None else None
        text = log.read_text(errors="replace") if log is not None and log.exists() else ""
        return text.replace(_REPOSITORY, str(self._repository))

    async def stop(self, *, at_once: bool = False) -> None:
        """End the child; nothing of it is left, neither process, shared memory nor file.

        Args:
            at_once: else inferences under way finish first.
        """
        if self._process is not None:
            if at_once:
                children.kill(self._process)
            await children.terminate(self._process, patience_seconds=_PATIENCE_SECONDS)
            self._process = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def kill(self) -> None:
        """End the child and its Python stubs at once."""
        if self._process is not None:
            children.kill(self._process)


def _free_ports(count: int) -> list[int]:
    """Ports on loopback that are free now, held open together, so that they differ.

    Below those that the kernel gives to outgoing connections: one of these might take the port while Triton restarts.
    """
    lowest = int(_EPHEMERAL_PORTS.read_text().split()[0])
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            wanted = random.randint(_LOWEST_PORT, lowest - 1) if lowest > 2 * _LOWEST_PORT else 0  # noqa: S311  no secret
            with contextlib.suppress(OSError):
                ports.append(held.enter_context(socket.create_server(("127.0.0.1", wanted))).getsockname()[1])
    return ports
