"""The metrics at a port of their own, in plain HTTP and without a token, beside the API of each worker.

All workers accept at the one socket that the supervisor bound, and each tells the sum over all of them.
"""

import asyncio
import socket
from dataclasses import replace

import uvicorn
from starlette.types import ASGIApp

from rrrserve.api.endpoint import client_gone, raw_error
from rrrserve.http.connections import Connections, Limits
from rrrserve.http.server import protocol

_CONNECTIONS = 16  # a few scrapers; whoever opens more cannot take the API's file descriptors


class MetricsDoor:
    """The server of that port in one worker.

    Args:
        listener: the listening socket.
        application: answers a scrape, and nothing else.
        limits: of the API's port; that of connections is smaller here.
    """

    def __init__(self, listener: socket.socket, application: ASGIApp, limits: Limits) -> None:
        self._listener = listener
        connections = Connections(replace(limits, connections=_CONNECTIONS))
        config = uvicorn.Config(
            application,
            http=protocol(connections, render=raw_error, gone=client_gone),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. uvicorn's own `serve` would take over the signals of the process."""
        await self._server.startup([self._listener])
        self._ticking = asyncio.create_task(self._server.main_loop())

    async def stop(self) -> None:
        """Close the port and, when it has its answer, each connection."""
        self._server.should_exit = True
        if self._ticking is not None:
            await self._ticking
        await self._server.shutdown([self._listener])
