"""The parent of `rrr serve`: owns the listening socket, Triton and the HTTP workers, and leaves none of them behind.

It keeps both kinds of children running (`triton_keeper`, `worker_pool`), and takes the service down in order: not ready
any more, no new requests, no workers, no Triton.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx

from rrrbuild.repository_document import Repository
from rrrnet.errors import CheckFailedError
from rrrserve import scratch
from rrrserve.catalogue import backends_of
from rrrserve.listener import admit_no_more, url_of
from rrrserve.restarts import DEFAULT_RESTARTS
from rrrserve.shared_state import PATH_VARIABLE, Phase, SharedState
from rrrserve.tls import TlsFiles, probe_context
from rrrserve.triton_keeper import TritonKeeper, watch_for_ever
from rrrserve.triton_server import TritonServer
from rrrserve.worker_pool import WorkerCommand, WorkerPool

log = logging.getLogger("rrrserve")

_POLL_SECONDS = 0.1
_PROBE_TIMEOUT_SECONDS = 10.0
# Before the port closes new requests are refused for so long, so that clients turn elsewhere; then no connection is let
# in for so long, so that those that have begun are accepted and answered.
_REFUSE_SECONDS = 0.3
_EMPTY_QUEUE_SECONDS = 0.2


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        triton_url: HOST:PORT of a Triton that runs elsewhere; None starts one.
        default_model: the model that /v1/predict asks; None is the first.
        workers: HTTP worker processes.
        start_timeout_seconds: how long models may take to answer for the first time.
        grace_seconds: how long requests in flight may take after SIGTERM.
        drain_seconds: how long requests are still taken after SIGTERM, while /readyz says that it is not ready.
        most_restarts: how often Triton, or a worker, is started again within two minutes.
        tls: the HTTP port's certificate and key; None for plain HTTP.
    """

    triton_url: str | None = None
    default_model: str | None = None
    workers: int = 1
    start_timeout_seconds: int = 120
    grace_seconds: int = 30
    drain_seconds: float = 1.0
    most_restarts: int = DEFAULT_RESTARTS
    tls: TlsFiles | None = None


class Supervisor:
    """Starts the children, tells when they are ready, keeps them running, and ends them on SIGTERM or SIGINT."""

    def __init__(self, repository: Repository, listener: socket.socket, options: ServeOptions) -> None:
        """Prepare; nothing is started.

        Raises:
            IncompatibleError: no usable tritonserver.
        """
        self._options = options
        self._repository = repository
        self._listener = listener
        self.url = url_of(listener, scheme="https" if options.tls else "http")
        self.triton = None if options.triton_url else TritonServer(repository.path, backends_of(repository))
        self._folder = scratch.private_folder()
        names = [model.name for model in repository.models]
        self._state = SharedState.create(self._folder / "state", names, options.workers)
        self._pool = WorkerPool(self._worker_command(), self._state, most_restarts=options.most_restarts)
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until a signal.

        Args:
            on_ready: called once, when every model has answered a real inference over HTTP.

        Raises:
            CheckFailedError: a model did not become ready, or a child died too often.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        keepers = [asyncio.create_task(work) for work in (self._keep_triton(), self._pool.run())]
        try:
            if await self._unless_ended(self._until_ready(), keepers):
                on_ready()
                await self._unless_ended(self._stop.wait(), keepers)
                await self._drain(keepers)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self._end()

    def _signalled(self) -> None:
        """The first signal lets requests finish; the second ends everything at once."""
        if self._stop.is_set():
            self._at_once.set()
            self._kill()
        self._stop.set()
        if self._state.phase is Phase.SERVING:
            self._state.phase = Phase.DRAINING

    def _kill(self) -> None:
        self._pool.kill()
        if self.triton is not None:
            self.triton.kill()

    async def _keep_triton(self) -> None:
        models = self._repository.models
        if self.triton is None:
            await watch_for_ever(self._options.triton_url or "", models, self._state)
            return
        timeout, most = self._options.start_timeout_seconds, self._options.most_restarts
        keeper = TritonKeeper(self.triton, models, self._state, most_restarts=most, start_timeout_seconds=timeout)
        await keeper.run()

    def _worker_command(self) -> WorkerCommand:
        options = self._options
        environment = {
            **os.environ,
            PATH_VARIABLE: str(self._folder / "state"),
            "RRR_REPOSITORY": str(self._repository.path.absolute()),
            "RRR_TRITON_URL": (self.triton.url if self.triton else options.triton_url) or "",
            "RRR_DEFAULT_MODEL": options.default_model or "",
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(self._folder / "bentoml"),
        }
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if self.triton is not None:
            environment["RRR_TRITON_METRICS_URL"] = self.triton.metrics_url
        metrics = None
        if options.workers > 1:
            metrics = self._folder / "metrics"
            metrics.mkdir()
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        return WorkerCommand(self._listener.fileno(), environment, options.grace_seconds, metrics)

    async def _until_ready(self) -> None:
        """Ask /readyz until it says yes."""
        last = "the HTTP worker does not answer"
        verify = probe_context(self._options.tls) if self._options.tls else True
        try:
            async with (
                asyncio.timeout(self._options.start_timeout_seconds),
                httpx.AsyncClient(timeout=_PROBE_TIMEOUT_SECONDS, trust_env=False, verify=verify) as client,
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

    async def _unless_ended(self, work: Coroutine[Any, Any, Any], keepers: list[asyncio.Task[None]]) -> bool:
        """Run `work` while no signal comes and no keeper gives up; whether it was completed.

        Raises:
            CheckFailedError: a keeper gave up, or `work` raised.
        """
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                return False
            for task in (*keepers, working):
                if task.done():
                    await task
            return True
        finally:
            working.cancel()
            stopping.cancel()

    async def _drain(self, keepers: list[asyncio.Task[None]]) -> None:
        """Answer for a while although not ready, then refuse for a moment; children that die are still replaced."""
        log.warning("stopping: not ready any more, requests are taken for %g s", self._options.drain_seconds)
        second_signal = asyncio.create_task(self._at_once.wait())

        async def wait(seconds: float) -> None:
            await asyncio.wait({second_signal, *keepers}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

        try:
            await wait(self._options.drain_seconds)
            self._state.phase = Phase.REFUSING
            await wait(_REFUSE_SECONDS)
            admit_no_more(self._listener)
            await wait(_EMPTY_QUEUE_SECONDS)
        finally:
            second_signal.cancel()

    async def _end(self) -> None:
        """First the HTTP workers, which finish what they have, then Triton."""
        self._state.phase = Phase.REFUSING
        self._listener.close()
        if self._at_once.is_set():
            self._kill()
        await self._pool.stop()
        if self.triton is not None:
            await self.triton.stop(at_once=self._at_once.is_set())
        scratch.remove(self._folder)
