"""The parent of `rrr serve`: owns the listening socket, Triton and the HTTP workers, and leaves none of them behind.

It keeps both kinds of children running (`versions.switch`, `worker_pool`), reloads the repository on SIGHUP, and takes
the service down in order: not ready any more, no new requests, no workers, no Triton.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable

import httpx

from rrrbuild.repository_document import Repository
from rrrnet.errors import CheckFailedError
from rrrnet.processor import cores
from rrrserve.config.service_config import ServiceConfig
from rrrserve.metrics.multiprocess import FOLDER_VARIABLE
from rrrserve.net.listener import admit_no_more, url_of
from rrrserve.net.tls import probe_context
from rrrserve.process.environment import variables
from rrrserve.process.scratch import PrivateFolder
from rrrserve.process.tasks import ended, first
from rrrserve.state.shared_state import Phase
from rrrserve.supervise.worker_pool import WorkerCommand, WorkerPool
from rrrserve.triton.server import TritonServer
from rrrserve.versions.running_services import announce
from rrrserve.versions.switch import Deployments

log = logging.getLogger("rrrserve")

# glibc learns to keep large blocks that were freed; pictures and bodies are to go back to the operating system.
_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**20),
}
# With its event engine gRPC hands each message through four threads of its own, and through two without it.
_GRPC = {"GRPC_EXPERIMENTS": "-event_engine_client"}
_STDIN = 0
_POLL_SECONDS = 0.1
_PROBE_TIMEOUT_SECONDS = 10.0
# Before the port closes new requests are refused for so long, so that clients turn elsewhere; then no connection is let
# in for so long, so that those that have begun are accepted and answered.
_REFUSE_SECONDS = 0.3
_EMPTY_QUEUE_SECONDS = 0.2
_LAST_SECONDS = 10.0  # from the second signal until this process ends, whatever hinders it


class Supervisor:
    """Starts the children, tells when they are ready, keeps them running, and ends them on SIGTERM or SIGINT."""

    def __init__(self, repository: Repository, listener: socket.socket, config: ServiceConfig) -> None:
        """Prepare; nothing is started.

        Raises:
            RRRError: see `Deployment`.
        """
        self._config = config
        self._source = repository.path
        self._listener = listener
        self.url = url_of(listener, scheme="https" if config.tls else "http")
        self._private = PrivateFolder()
        self._folder = self._private.path
        try:
            self._deployments = Deployments(self._folder, repository, config)
        except BaseException:
            self._private.remove()
            raise
        self._state = self._deployments.state
        self._had_terminal = os.isatty(_STDIN)
        self._is_ready = False
        self._pool = WorkerPool(self._worker_command(), self._state, most_restarts=config.most_restarts)
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
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        keepers = [asyncio.create_task(work) for work in (self._pool.run(), self._deployments.run())]
        try:
            await first(self._stop.wait(), *keepers, self._until_ready())
            if not self._stop.is_set():
                announce(self._folder, self.url, self._source)
                self._is_ready = True
                on_ready()
                await first(self._stop.wait(), *keepers)
                await self._drain(keepers)
        finally:
            await self._end(*keepers)

    def _signalled(self) -> None:
        """The first signal lets requests finish; the second ends everything at once; the third waits for nothing."""
        if self._at_once.is_set():
            _end_by_force()
        if self._stop.is_set():
            self._at_once.set()
            self._kill()
            watchdog = threading.Timer(_LAST_SECONDS, _end_by_force)  # a thread: the event loop may be what hangs
            watchdog.daemon = True
            watchdog.start()
        self._stop.set()
        if self._state.service.phase == Phase.SERVING:
            self._state.service.phase = Phase.DRAINING

    def _hung_up(self) -> None:
        """SIGHUP asks for a reload; but the one that comes when a terminal is closed ends what was started in it."""
        if self._had_terminal and not os.isatty(_STDIN):
            self._signalled()
        elif self._is_ready:
            self._deployments.reload()
        else:
            log.warning("SIGHUP is ignored until the service is ready")

    @property
    def triton(self) -> TritonServer | None:
        """The Triton that serves now; None where somebody else runs it."""
        return self._deployments.current.triton

    def _kill(self) -> None:
        self._pool.kill()
        self._deployments.kill()

    def _worker_command(self) -> WorkerCommand:
        file = self._folder / "config.json"
        self._config.model_copy(update={"private_folder": self._folder}).write(file)
        defaults = _GRPC | {"OMP_NUM_THREADS": str(cores())}  # numpy's threads, which begin when it is imported
        environment = defaults | variables() | _ALLOCATOR | {"BENTOML_HOME": str(self._folder / "bentoml")}
        environment.pop(FOLDER_VARIABLE, None)
        metrics = None
        if self._config.workers > 1:
            metrics = self._folder / "metrics"
            metrics.mkdir()
            environment[FOLDER_VARIABLE] = str(metrics)
        return WorkerCommand(self._listener.fileno(), file, environment, self._config.grace_seconds, metrics)

    async def _until_ready(self) -> None:
        """Ask /readyz until it says yes."""
        last = "the HTTP worker does not answer"
        verify = probe_context(self._config.tls) if self._config.tls else True
        try:
            async with (
                asyncio.timeout(self._config.start_timeout_seconds),
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
                f"not ready after {self._config.start_timeout_seconds} s: {last}; raise --start-timeout if the models "
                "need longer to load"
            ) from error

    async def _drain(self, keepers: list[asyncio.Task[None]]) -> None:
        """Answer for a while although not ready, then refuse for a moment; children that die are still replaced."""
        log.warning("stopping: not ready any more, requests are taken for %g s", self._config.drain_seconds)

        async def wait(seconds: float) -> None:
            with contextlib.suppress(TimeoutError, CheckFailedError):  # what cannot be kept running ends anyway
                async with asyncio.timeout(seconds):
                    await first(self._at_once.wait(), *keepers)

        await wait(self._config.drain_seconds)
        self._state.service.phase = Phase.REFUSING
        await wait(_REFUSE_SECONDS)
        admit_no_more(self._listener)
        await wait(_EMPTY_QUEUE_SECONDS)

    async def _end(self, keeping_workers: asyncio.Task[None], keeping_triton: asyncio.Task[None]) -> None:
        """First the HTTP workers, which finish what they have, then Triton, which is kept running until they have."""
        self._state.service.phase = Phase.REFUSING
        self._listener.close()
        await ended(keeping_workers)
        finishing = asyncio.create_task(self._pool.stop())
        await first(self._at_once.wait(), finishing)
        await ended(keeping_triton)  # before Triton is killed, or it would be started again
        if self._at_once.is_set():
            self._kill()
        await finishing
        await self._deployments.stop(at_once=self._at_once.is_set())
        self._private.remove()


def _end_by_force() -> None:
    """End this process now, and with it its children (`die_with_parent`); the next start removes the files."""
    os._exit(1)
