"""The worker in waiting of a service with one HTTP worker: it has imported everything, and serves when that one dies.

To start a worker takes seconds, most of them for imports, in which nobody answers. With several workers the others do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from rrrserve.process import children

STANDBY_COMM = "rrr-standby"  # what `ps` calls a process that waits

log = logging.getLogger("rrrserve")

# The worker that has just taken over shall have the processor for itself.
_PAUSE_SECONDS = 5.0
# One that ended by itself was killed for its memory, or cannot start: not to be tried all the time.
_LONG_PAUSE_SECONDS = 30.0


class Standby:
    """Keeps one process waiting.

    Args:
        spawn: starts a process that waits for a byte on its standard input, a pipe, and then serves.
    """

    def __init__(self, spawn: Callable[[], Awaitable[asyncio.subprocess.Process]]) -> None:
        self._spawn = spawn
        self._wanted = asyncio.Event()
        self._taken = asyncio.Event()
        self._waiting: asyncio.subprocess.Process | None = None

    def begin(self) -> None:
        """Let `run` start the first one."""
        self._wanted.set()

    async def run(self) -> None:
        """Never returns; the caller cancels it, and nothing waits any more then."""
        await self._wanted.wait()
        try:
            while True:
                pause = await self._one()
                await asyncio.sleep(pause)
        finally:
            self.kill()
            if self._waiting is not None:
                await self._waiting.wait()

    async def _one(self) -> float:
        """Let one process wait until it is taken or ends; the pause until the next, in seconds."""
        self._taken.clear()
        try:
            process = self._waiting = await self._spawn()
        except OSError as error:
            log.warning("no HTTP worker can stand by: %s", error)
            return _LONG_PAUSE_SECONDS
        taken, ending = asyncio.create_task(self._taken.wait()), asyncio.create_task(process.wait())
        try:
            await asyncio.wait({taken, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            taken.cancel()
            ending.cancel()
        if self._taken.is_set():
            return _PAUSE_SECONDS
        self._waiting = None
        log.warning("the HTTP worker that stood by ended with exit code %d", ending.result())
        return _LONG_PAUSE_SECONDS

    def take(self) -> asyncio.subprocess.Process | None:
        """Tell the one that waits to serve; None where there is none."""
        process, self._waiting = self._waiting, None
        if process is None or process.returncode is not None or process.stdin is None:
            return None
        self._taken.set()
        process.stdin.write(b"\n")
        process.stdin.close()
        return process

    def kill(self) -> None:
        """End the one that waits at once."""
        if self._waiting is not None:
            children.kill(self._waiting)
