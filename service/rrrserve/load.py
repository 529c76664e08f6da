"""A closed-loop load generator: raw image bodies over keep-alive HTTP/1.1, at its own cost of some 0.1 ms a request.

A general client (httpx: 1 ms of processor time a request) would take a quarter of a 2-core machine away from the
service it measures. This one writes prepared bytes and lets httptools find the end of the answer.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import numpy.typing as npt

from rrrnet.errors import UsageError

_PAUSE_AFTER_FAILURE_SECONDS = 0.02  # a server that refuses connections must not be asked in a busy loop


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        latencies_seconds: of each request answered with status 200, in the order of the answers; shape (answers,).
        errors: number of the others, by status ("503") or failure ("ConnectionRefusedError").
        wall_seconds: from the first request to the last answer.
    """

    latencies_seconds: npt.NDArray[np.float64]
    errors: dict[str, int]
    wall_seconds: float

    @property
    def throughput(self) -> float:
        """Good answers per second."""
        return len(self.latencies_seconds) / self.wall_seconds if self.wall_seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies in milliseconds; infinite if no request was answered."""
        if not len(self.latencies_seconds):
            return float("inf")
        return 1000 * float(np.percentile(self.latencies_seconds, percent))


async def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    concurrency: int,
    *,
    requests: int | None = None,
    seconds: float | None = None,
    timeout_seconds: float = 30.0,
) -> Result:
    """Keep `concurrency` requests under way, each on a connection of its own, each sent when the last was answered.

    Args:
        url: where to POST, such as `http://127.0.0.1:3000/v1/predict`.
        bodies: encoded images, sent in turns.
        concurrency: connections.
        requests: how many to send in all, and
        seconds: for how long to begin new ones; at least one of both.
        timeout_seconds: a request without an answer by then counts as an error, and its connection is closed.

    Raises:
        UsageError: an address that is not plain HTTP, or neither limit is given.
    """
    if requests is None and seconds is None:
        raise UsageError("a load needs a limit: give a number of requests or of seconds")
    host, port, prepared = _prepare(url, bodies)
    tickets = itertools.count()
    state = _State()
    start = time.perf_counter()
    end = float("inf") if seconds is None else start + seconds
    most = float("inf") if requests is None else requests

    async def one_client() -> None:
        connection: _Connection | None = None
        while time.perf_counter() < end and (ticket := next(tickets)) < most:
            sent = time.perf_counter()
            try:
                async with asyncio.timeout(timeout_seconds):
                    if connection is None or connection.closed:
                        connection = await _connect(host, port)
                    status = await connection.ask(prepared[ticket % len(prepared)])
            except (OSError, TimeoutError, httptools.HttpParserError) as error:
                state.errors[type(error).__name__] += 1
                if connection is not None:
                    connection.close()
                connection = None
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)
                continue
            if status == 200:
                state.latencies.append(time.perf_counter() - sent)
            else:
                state.errors[str(status)] += 1
        if connection is not None:
            connection.close()

    await asyncio.gather(*(one_client() for _ in range(concurrency)))
    return Result(np.array(state.latencies), dict(state.errors), time.perf_counter() - start)


@dataclass
class _State:
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def _prepare(url: str, bodies: Sequence[bytes]) -> tuple[str, int, list[bytes]]:
    """Host, port and the whole requests, ready to be written."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"the address is {url!r}: expected http://HOST:PORT/PATH")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/octet-stream\r\n"
    return (
        parts.hostname,
        parts.port or 80,
        [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies],
    )


async def _connect(host: str, port: int) -> "_Connection":
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, host, port)
    return connection


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self.closed = True
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None

    def ask(self, request: bytes) -> "asyncio.Future[int]":
        """Send a whole request; the future gives the answer's status once its last byte is here."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)
        self.closed = False

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def on_message_complete(self) -> None:
        """Called by httptools at the answer's last byte."""
        if not self._parser.should_keep_alive():
            self.close()
        # A request that was given up has cancelled its future.
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self.closed = True
        self._fail(error or ConnectionResetError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
