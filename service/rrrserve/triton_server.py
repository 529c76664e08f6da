"""Run tritonserver as a child: loopback only, admin interfaces locked, gone when the parent is gone.

HTTP is switched off: our client speaks gRPC, and the HTTP front of the wheel's Triton 2.51 can be crashed by requests.
"""

import asyncio
import re
import secrets
import socket
from pathlib import Path

from rrrnet.errors import CheckFailedError, IncompatibleError
from rrrserve import children, scratch
from rrrserve.settings import available_cores
from rrrserve.triton_install import check_libpython, child_environment, find_tritonserver, lay_out

EXIT_TIMEOUT_SECONDS = 10
_PATIENCE_SECONDS = EXIT_TIMEOUT_SECONDS + 5
_LOG_TAIL_LINES = 30
# How Triton's log tells that a model did not load: the model's name, and the first line of the reason.
_NOT_LOADED = re.compile(
    r"(?:failed to load|Poll failed for model directory) '([^']+)'(?: version \d+)?: (?:Internal: )?(.*?)(?:\\n|\"|$)",
    re.M,
)
_NOISE = re.compile(r"[+|]|\S+ I ")  # tables, and remarks of level INFO
_ADMIN = "shared-memory,model-repository,model-config,statistics,trace,logging"


class TritonServer:
    """One tritonserver child with its private folder, ports and log.

    Attributes:
        url: HOST:PORT of gRPC.
        metrics_url: URL of Triton's own Prometheus metrics.
    """

    def __init__(self, repository: Path, backends: frozenset[str]) -> None:
        """Look for a tritonserver and prepare its folder; nothing is started.

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
        self._folder = scratch.private_folder()
        self._log = self._folder / "triton.log"
        self._process: asyncio.subprocess.Process | None = None
        self._grpc_port, self._metrics_port = _free_ports(2)
        self.url = f"127.0.0.1:{self._grpc_port}"
        self.metrics_url = f"http://127.0.0.1:{self._metrics_port}/metrics"

    async def start(self) -> None:
        """Start the child. It loads its models in the background: readiness is for the caller to find out."""
        backends = lay_out(self._install, self._folder)
        environment = child_environment(self._install, self._folder, threads=available_cores())
        with self._log.open("wb") as log:
            self._process = await children.spawn(self._command(backends), environment=environment, output=log.fileno())

    def _command(self, backends: Path) -> list[str]:
        return [
            str(self._install.binary),
            f"--model-repository={self._repository}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._folder.name}",
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            "--exit-on-error=true",
            "--strict-readiness=true",
            f"--exit-timeout-secs={EXIT_TIMEOUT_SECONDS}",
            "--allow-http=false",
            "--allow-grpc=true",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._grpc_port}",
            f"--grpc-restricted-protocol={_ADMIN}:rrr-admin-key={secrets.token_hex(16)}",
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

    def failure(self, code: int) -> CheckFailedError:
        """The error to report after the child ended by itself: the models that did not load, or the log's tail."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        unloaded = dict(_NOT_LOADED.findall(text))
        if unloaded:
            reasons = "; ".join(f"the model {name} ({reason})" for name, reason in unloaded.items())
            return CheckFailedError(f"Triton could not load {reasons}")
        remarks = [line for line in text.splitlines() if line and not _NOISE.match(line)]
        tail = "\n".join(remarks[-_LOG_TAIL_LINES:])
        return CheckFailedError(f"Triton ended with exit code {code}. The end of its log:\n{tail}")

    async def stop(self) -> None:
        """End the child: in-flight inferences finish, then nothing of it is left, neither process, shm nor file."""
        if self._process is not None:
            await children.terminate(self._process, patience_seconds=_PATIENCE_SECONDS)
        scratch.remove(self._folder)

    def kill(self) -> None:
        """End the child and its Python stubs at once."""
        if self._process is not None:
            children.kill(self._process)


def _free_ports(count: int) -> list[int]:
    """Ports on loopback that are free now. Held open together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports
