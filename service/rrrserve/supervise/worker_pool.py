"""Keep the HTTP workers running: one that dies or whose event loop stands still is replaced."""

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from rrrserve.metrics.multiprocess import forget_gauges
from rrrserve.process import children
from rrrserve.process.restarts import Restarts
from rrrserve.process.tasks import ended, first
from rrrserve.state.shared_state import SharedState

log = logging.getLogger("rrrserve")

_STDERR = 2
_LOOK_SECONDS = 0.5
# A worker is busy for milliseconds at a time; one whose event loop has not turned for this long is stuck.
STUCK_SECONDS = 5.0
# On a busy machine it may wait for a processor for long; one that was stopped (SIGSTOP) waits for nothing.
STOPPED_SECONDS = 1.5
_START_SECONDS = 60.0
_EXIT_SECONDS = 5.0  # beyond the grace for requests under way


@dataclass(frozen=True)
class WorkerCommand:
    """How a worker is started.

    Attributes:
        fd: the listening socket, which it inherits.
        config: the file of the service's settings.
        environment: all of its variables.
        grace_seconds: how long it may take to end.
        metrics_folder: where several workers keep their metrics, else None.
        metrics_fd: the listening socket of the metrics alone, where there is one.
    """

    fd: int
    config: Path
    environment: Mapping[str, str]
    grace_seconds: int
    metrics_folder: Path | None
    metrics_fd: int | None = None


class WorkerPool:
    """The HTTP workers, each in a slot of the shared state, counted from 1."""

    def __init__(self, command: WorkerCommand, state: SharedState, *, most_restarts: int) -> None:
        self._command = command
        self._state = state
        # Each its own: many workers that were killed one after the other are no crash loop.
        self._restarts = {slot: Restarts(f"HTTP worker {slot}", most_restarts) for slot in range(1, state.slots)}
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Never returns; the caller cancels it, then stops the workers.

        Raises:
            CheckFailedError: they died too often.
        """
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in range(1, self._state.slots)]
        try:
            await first(*self._keepers)
        finally:
            await ended(*self._keepers)

    async def _keep(self, slot: int) -> None:
        process: asyncio.subprocess.Process | None = await self._spawn(slot)  # what fails at first is told at once
        while True:
            started = time.monotonic()
            try:
                process = self._running[slot] = process or await self._spawn(slot)
                reason = await self._until_ended(slot, process)
            except OSError as error:  # no memory, no file descriptor, a full disk: it may pass
                reason = f"it cannot be started: {error}"
            process = None
            self._forget(slot)
            pause, which = self._restarts[slot].next_pause(reason, well_seconds=time.monotonic() - started)
            when = f"in {pause:.0f} s" if pause else "now"
            log.error("HTTP worker %d is started again %s (try %s): %s", slot, when, which, reason)
            await asyncio.sleep(pause)
            self._state.service.restarts_worker += 1

    async def _spawn(self, slot: int) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "rrrserve.worker", "--fd", str(self._command.fd)]
        command += ["--index", str(slot), "--config", str(self._command.config)]
        fds: tuple[int, ...] = (self._command.fd,)
        if self._command.metrics_fd is not None:
            command += ["--metrics-fd", str(self._command.metrics_fd)]
            fds = (*fds, self._command.metrics_fd)
        return await children.spawn(command, environment=self._command.environment, output=_STDERR, fds=fds)

    async def _until_ended(self, slot: int, process: asyncio.subprocess.Process) -> str:
        """Why a worker has ended; one that stands still is killed."""
        silent = 0.0
        while True:
            try:
                code = await asyncio.wait_for(process.wait(), _LOOK_SECONDS)
            except TimeoutError:
                since = self._state.since_beat(slot)
                # Counted in looks, not by the clock: this process may have stood still itself, with its machine.
                silent = silent + _LOOK_SECONDS if since > _LOOK_SECONDS else 0.0
                limit = _START_SECONDS if since == float("inf") else STUCK_SECONDS
                if silent >= (STOPPED_SECONDS if _is_stopped(process.pid) else limit):
                    children.kill(process)
                    await process.wait()
                    return f"it stood still for {silent:.0f} s and was killed"
            else:
                return f"it ended with exit code {code}; its messages are above"

    def _forget(self, slot: int) -> None:
        """What a dead worker had under way is under way no more; what it had counted still counts."""
        self._running.pop(slot, None)
        self._state.clear(slot)
        if self._command.metrics_folder is not None:
            with contextlib.suppress(OSError):  # the next one of this slot does it again
                forget_gauges(self._command.metrics_folder, slot)

    async def stop(self) -> None:
        """Let the workers finish what they have, then end them."""
        patience = self._command.grace_seconds + _EXIT_SECONDS
        running = self._running.values()
        await asyncio.gather(*(children.terminate(worker, patience_seconds=patience) for worker in running))

    def kill(self) -> None:
        """End all workers at once, for good."""
        for keeper in self._keepers:
            keeper.cancel()  # before its worker dies, which it would start again
        for worker in self._running.values():
            children.kill(worker)


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False
