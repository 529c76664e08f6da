"""The connections of one worker that wait for their client: how many there may be, and for how long."""

import asyncio
import resource
from dataclasses import dataclass
from typing import Protocol

# File descriptors that are not clients': Triton's channel, the decoder's and the event loop's own, log files.
_OTHER_DESCRIPTORS = 64


@dataclass(frozen=True)
class Limits:
    """What one client may hold open, and for how long; all clocks of this room.

    Attributes:
        body_bytes: of a request's body on the wire, chunk headers and trailers included.
        header_bytes: of a request's header fields together.
        header_fields: number of them.
        target_bytes: of path and query.
        chunks: of a chunked body.
        pipelined: requests that are sent before the first one's answer.
        header_seconds: from a request's first byte to the end of its header; also for a new connection's first byte.
        keep_alive_seconds: between an answer and the next request.
        linger_seconds: for reading an answer after which the connection is closed.
        sweep_seconds: between two looks at who has waited too long.
        accept_seconds: at a stop, for accepting who has connected before the port closes.
        last_seconds: at a stop, for reading what was sent before the port closed.
        connections: at the same time, and at most what there are file descriptors for.
    """

    body_bytes: int
    header_bytes: int = 16 * 1024
    header_fields: int = 100
    target_bytes: int = 8 * 1024
    chunks: int = 16 * 1024
    pipelined: int = 16
    header_seconds: float = 8.0
    keep_alive_seconds: float = 75.0
    linger_seconds: float = 1.0
    sweep_seconds: float = 0.5
    accept_seconds: float = 0.05
    last_seconds: float = 0.2
    connections: int = 4096


class Waiting(Protocol):
    """A connection that can be told that it has waited long enough."""

    def waited_too_long(self) -> None:
        """The time that was given to `Connections.wait` has passed."""

    def make_room(self) -> None:
        """A new connection needs the place of this one."""


class Connections:
    """Closes connections that wait for their client too long, and the longest waiting one when there are too many.

    One sweep over all of them now and then costs less than a timer for each.

    Attributes:
        limits: what one client may hold open.
        most: connections at the same time.
        open: connections now.
        stopping: whether the service is; who does not read an answer then gets the time for lingering only.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.most = _most_connections(limits.connections)
        self.stopping = False
        self.open = 0
        self._waiting: dict[Waiting, float] = {}  # since a dict keeps its order, the first has waited longest
        self._sweeper: asyncio.TimerHandle | None = None

    def opened(self) -> bool:
        """Count a new connection; False if there is no room for it."""
        self.open += 1
        if self._sweeper is None:
            self._sweep()
        if self.open > self.most:
            longest = next(iter(self._waiting), None)
            if longest is None:
                return False
            self.release(longest)
            longest.make_room()
        return True

    def closed(self, connection: Waiting) -> None:
        """Count the end of a connection."""
        self.open -= 1
        self.release(connection)

    def wait(self, connection: Waiting, seconds: float) -> None:
        """From now on `connection` waits for its client, at most so long."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = asyncio.get_running_loop().time() + seconds

    def release(self, connection: Waiting) -> None:
        """`connection` does not wait any more."""
        self._waiting.pop(connection, None)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [connection for connection, until in self._waiting.items() if until <= now]:
            self.release(connection)
            connection.waited_too_long()
        self._sweeper = loop.call_later(self.limits.sweep_seconds, self._sweep)


def _most_connections(wanted: int) -> int:
    """As many as there are file descriptors for, after raising the soft limit as far as is allowed and needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(wanted + _OTHER_DESCRIPTORS, hard)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    return max(1, min(wanted, soft - _OTHER_DESCRIPTORS))
