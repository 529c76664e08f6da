"""The HTTP server of a worker: uvicorn's, with a heartbeat, and with a stop that cuts nobody off."""

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import uvicorn

from rrrserve.http.connections import Connections, Limits
from rrrserve.http.protocol import GuardedProtocol
from rrrserve.http.refusal import Render

_CLOSE = (b"connection", b"close")


def protocol(
    connections: Connections, *, render: Render, gone: Callable[[dict[str, Any]], None]
) -> type[asyncio.Protocol]:
    """What uvicorn makes a client's connection with; see `GuardedProtocol`."""
    make = functools.partial(GuardedProtocol, connections=connections, render=render, gone=gone)
    # uvicorn only calls it; its annotation asks for a class.
    return cast(type[asyncio.Protocol], make)


class Beside(Protocol):
    """Another server in the same process."""

    async def start(self) -> None:
        """Listen."""

    async def stop(self) -> None:
        """Take nothing more, and let what is under way finish."""


class Server(uvicorn.Server):
    """uvicorn's server, with a heartbeat, and with a stop that lets requests in that are on their way.

    Args:
        config: uvicorn's.
        limits: the times of a stop.
        beat: called ten times a second; whether clients shall be told to close their connections.
        beside: started and ended before the application, in this order.
    """

    def __init__(
        self, config: uvicorn.Config, limits: Limits, *, beat: Callable[[], bool], beside: Sequence[Beside] = ()
    ) -> None:
        super().__init__(config)
        self._beside = beside
        self._limits = limits
        self._beat = beat

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; whether to stop."""
        ended = await super().on_tick(counter)
        if self._beat() and _CLOSE not in self.server_state.default_headers:
            # Clients that keep their connection would meet the closing of the port in the middle of a request.
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        return ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the other servers, then the application, and listen: who is ready at HTTP is ready at all of them."""
        for other in self._beside:
            await other.start()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, answer what has been sent already, and only then close what is idle."""
        await asyncio.sleep(self._limits.accept_seconds)
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        await asyncio.sleep(self._limits.last_seconds)
        for other in self._beside:
            await other.stop()  # HTTP goes on meanwhile
        await super().shutdown(sockets)
