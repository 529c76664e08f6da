"""One HTTP worker process of `rrr serve`: the BentoML service under uvicorn, on a socket the supervisor bound.

It does what BentoML's own worker does for `bentoml serve`, with three differences: logs go to standard error, the
limits of the HTTP server are ours to set, and it stops in an order that cuts nobody off.
"""

import argparse
import asyncio
import logging
import socket

import uvicorn

from rrrserve.app import ROUTES, RRRService

# What clients had sent before the port closed is accepted, and then read and answered, within these times.
_ACCEPT_SECONDS = 0.05
_LINGER_SECONDS = 0.2
_CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """uvicorn's server, with a heartbeat, and with a stop that lets requests in that are on their way."""

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; whether to stop."""
        ended = await super().on_tick(counter)
        backend = ROUTES.backend
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


def main() -> None:
    """Serve until SIGTERM; requests that are in flight then finish first."""
    parser = argparse.ArgumentParser(prog="python -m rrrserve.worker")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--index", type=int, default=1, help="number of this worker, from 1")
    parser.add_argument("--grace-seconds", type=int, required=True, help="longest wait for requests in flight")
    arguments = parser.parse_args()

    from bentoml._internal.container import BentoMLContainer
    from bentoml._internal.context import server_context

    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
    )
    server_context.worker_index = arguments.index
    server_context.service_type = "entry_service"
    server_context.service_name = server_context.bento_name = RRRService.name
    server_context.bento_version = "not available"
    BentoMLContainer.development_mode.set(False)

    config = uvicorn.Config(
        RRRService.to_asgi(),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=arguments.grace_seconds,
    )
    Server(config).run(sockets=[socket.socket(fileno=arguments.fd)])


if __name__ == "__main__":
    main()
