"""The HTTP server of a worker: uvicorn's, with a heartbeat, and with a stop that cuts nobody off."""

import asyncio
import functools
import socket
import ssl
from typing import cast

import uvicorn

from rrrserve.api.routes import Routes
from rrrserve.config.service_config import ServiceConfig
from rrrserve.http.connections import Connections, Limits
from rrrserve.http.protocol import GuardedProtocol
from rrrserve.http.tls_gate import TlsGate

# What clients had sent before the port closed is accepted, and then read and answered, within these times.
_ACCEPT_SECONDS = 0.05
_LINGER_SECONDS = 0.2
_CLOSE = (b"connection", b"close")
_FRAMING_BYTES = 2**20  # chunk headers and trailers around the largest body


def protocol(settings: ServiceConfig, context: ssl.SSLContext | None = None) -> type[asyncio.Protocol]:
    """What uvicorn makes a client's connection with: TLS where there is a context, of which uvicorn must not know."""
    limits = Limits(
        body_bytes=settings.max_body_bytes + _FRAMING_BYTES,
        header_seconds=settings.header_timeout_ms / 1000,
        keep_alive_seconds=settings.keep_alive_ms / 1000,
        connections=settings.max_connections,
    )
    connections = Connections(limits)
    make = (
        functools.partial(GuardedProtocol, connections=connections)
        if context is None
        else functools.partial(TlsGate, connections=connections, context=context)
    )
    # uvicorn only calls it; its annotation asks for a class.
    return cast(type[asyncio.Protocol], make)


class Server(uvicorn.Server):
    """uvicorn's server, with a heartbeat, and with a stop that lets requests in that are on their way."""

    def __init__(self, config: uvicorn.Config, routes: Routes) -> None:
        super().__init__(config)
        self._routes = routes

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; whether to stop."""
        ended = await super().on_tick(counter)
        backend = self._routes.backend
        if backend is not None:
            state = backend.data_plane.state
            state.beat()
            if state.draining and _CLOSE not in self.server_state.default_headers:
                # Clients that keep their connection would meet the closing of the port in the middle of a request.
                self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        return ended

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, answer what has been sent already, and only then close what is idle."""
        await asyncio.sleep(_ACCEPT_SECONDS)
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        await asyncio.sleep(_LINGER_SECONDS)
        await super().shutdown(sockets)
