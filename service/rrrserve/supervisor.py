"""The parent of `rrr serve`: owns the listening socket, Triton and the HTTP workers, and leaves none of them behind."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx

from rrrbuild.repository_document import Repository
from rrrnet.errors import CheckFailedError
from rrrserve import children, scratch
from rrrserve.catalogue import backends_of
from rrrserve.listener import url_of
from rrrserve.triton_server import TritonServer

_STDERR = 2
_POLL_SECONDS = 0.1
_PROBE_TIMEOUT_SECONDS = 10.0
_WORKER_EXIT_SECONDS = 5.0  # beyond the grace for requests in flight


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        triton_url: HOST:PORT of a Triton that runs elsewhere; None starts one.
        default_model: the model that /v1/predict asks; None is the first.
        workers: HTTP worker processes.
        start_timeout_seconds: how long models may take to answer for the first time.
        grace_seconds: how long requests in flight may take after SIGTERM.
    """

    triton_url: str | None = None
    default_model: str | None = None
    workers: int = 1
    start_timeout_seconds: int = 120
    grace_seconds: int = 30


class Supervisor:
    """Starts the children, tells when they are ready, and ends them on SIGTERM, SIGINT or when one of them dies."""

    def __init__(self, repository: Repository, listener: socket.socket, options: ServeOptions) -> None:
        """Prepare; nothing is started.

        Raises:
            IncompatibleError: no usable tritonserver.
        """
        self._options = options
        self._repository = repository
        self._listener = listener
        self.url = url_of(listener)
        self.triton = None if options.triton_url else TritonServer(repository.path, backends_of(repository))
        self._folder = scratch.private_folder()
        self._workers: list[asyncio.subprocess.Process] = []
        self._deaths: dict[asyncio.Task[int], Callable[[int], CheckFailedError]] = {}
        self._stop = asyncio.Event()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until a signal.

        Args:
            on_ready: called once, when every model has answered a real inference over HTTP.

        Raises:
            CheckFailedError: a model did not become ready, or a child died.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            await self._start()
            if await self._unless_ended(self._until_ready()):
                on_ready()
                await self._unless_ended(asyncio.Event().wait())
        finally:
            await self._end()

    def _signalled(self) -> None:
        """The first signal lets requests finish; the second ends everything at once."""
        if self._stop.is_set():
            for worker in self._workers:
                children.kill(worker)
            if self.triton is not None:
                self.triton.kill()
        self._stop.set()

    async def _start(self) -> None:
        if self.triton is not None:
            await self.triton.start()
            self._deaths[asyncio.create_task(self.triton.wait())] = self.triton.failure
        environment = self._worker_environment()
        for index in range(1, self._options.workers + 1):
            command = [sys.executable, "-m", "rrrserve.worker", "--fd", str(self._listener.fileno())]
            command += ["--index", str(index), "--grace-seconds", str(self._options.grace_seconds)]
            worker = await children.spawn(
                command, environment=environment, output=_STDERR, fds=(self._listener.fileno(),)
            )
            self._workers.append(worker)
            self._deaths[asyncio.create_task(worker.wait())] = _worker_failure

    def _worker_environment(self) -> dict[str, str]:
        triton_url = self.triton.url if self.triton else self._options.triton_url
        environment = {
            **os.environ,
            "RRR_REPOSITORY": str(self._repository.path.absolute()),
            "RRR_TRITON_URL": triton_url or "",
            "RRR_DEFAULT_MODEL": self._options.default_model or "",
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(self._folder / "bentoml"),
        }
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if self.triton is not None:
            environment["RRR_TRITON_METRICS_URL"] = self.triton.metrics_url
        if self._options.workers > 1:
            metrics = self._folder / "metrics"
            metrics.mkdir()
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        return environment

    async def _until_ready(self) -> None:
        """Ask /readyz until it says yes."""
        last = "the HTTP worker does not answer"
        try:
            async with (
                asyncio.timeout(self._options.start_timeout_seconds),
                httpx.AsyncClient(timeout=_PROBE_TIMEOUT_SECONDS, trust_env=False) as client,
            ):
                while True:
                    try:
                        answer = await client.get(f"{self.url}/readyz")
                    except httpx.TransportError:
                        pass  # not listening yet
                    else:
                        if answer.status_code == httpx.codes.OK:
                            return
                        last = answer.json()["error"]["message"]
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise CheckFailedError(
                f"not ready after {self._options.start_timeout_seconds} s: {last}; raise --start-timeout if the models "
                "need longer to load"
            ) from error

    async def _unless_ended(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Run `work` while no signal comes and no child dies; whether it was completed.

        Raises:
            CheckFailedError: a child died, or `work` raised.
        """
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping, *self._deaths}, return_when=asyncio.FIRST_COMPLETED)
            for death, failure in self._deaths.items():
                if death.done() and not self._stop.is_set():
                    raise failure(death.result())
            if working.done():
                await working
                return True
            return False
        finally:
            working.cancel()
            stopping.cancel()

    async def _end(self) -> None:
        """First the HTTP workers, which finish what they have, then Triton."""
        self._listener.close()
        patience = self._options.grace_seconds + _WORKER_EXIT_SECONDS
        await asyncio.gather(*(children.terminate(worker, patience_seconds=patience) for worker in self._workers))
        if self.triton is not None:
            await self.triton.stop()
        scratch.remove(self._folder)


def _worker_failure(code: int) -> CheckFailedError:
    return CheckFailedError(f"an HTTP worker ended with exit code {code}; its messages are above")
