"""HTTP/1.1 at some 0.1 ms a request: prepared bytes go out, httptools finds the end of the answer.

A general client (httpx: 1 ms of processor time a request) would take a quarter of a 2-core machine away from the
service it measures.
"""

import asyncio
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

import httptools

from rrrnet.errors import UsageError
from rrrserve.bench.clients.client import AnsweredBy, RequestFailedError
from rrrserve.net.tls import client_trust

_OK = 200
_PORTS = {"http": 80, "https": 443}
# Servers close connections that were idle for long (uvicorn after 5 s); a request sent at that moment would be lost.
_MAX_IDLE_SECONDS = 2.0
# Read from the answer's bytes: a JSON parser would take ten times as long.
_EFFORT = re.compile(rb'"effort": ?"([a-z]+)"')
_USED, _MEMBERS = (re.compile(rb'"' + name + rb'": ?([0-9]+)') for name in (b"members_used", b"members"))


class HttpClient:
    """POSTs prepared bodies; a connection whose answer has come is used again, the latest first."""

    def __init__(
        self,
        url: str,
        bodies: Sequence[bytes],
        *,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        keep_alive: bool = True,
        trust: ssl.SSLContext | None = None,
        heard: Callable[[int, bytes], None] | None = None,
    ) -> None:
        """Put the requests together.

        Args:
            url: where to POST, such as `http://127.0.0.1:3000/v1/predict`.
            bodies: encoded images, sent in turns.
            timeout_seconds: a request without an answer by then counts as failed, and its connection is closed.
            headers: further ones, or others in place of Content-Type.
            keep_alive: whether connections are used again.
            trust: for https; None for the certificates that this machine trusts.
            heard: told the ticket and the body of each good answer.

        Raises:
            UsageError: an address that is neither http nor https.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise UsageError(f"the address is {url!r}: expected http://HOST:PORT/PATH or https://HOST:PORT/PATH")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = {"Content-Type": "application/octet-stream", **(headers or {})}
        if not keep_alive:
            fields["Connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{lines}"
        self._host, self._port = parts.hostname, parts.port or _PORTS[parts.scheme]
        self._trust = (trust or client_trust(None)) if parts.scheme == "https" else None
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._timeout_seconds = timeout_seconds
        self._keep_alive = keep_alive
        self._heard = heard
        self.answered_by: Counter[AnsweredBy] = Counter()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def ask(self, ticket: int) -> float:
        """See `Client.ask`."""
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                connection = self._reusable() or await self._connect()
                status, finished = await connection.ask(self._requests[ticket % len(self._requests)])
                body = connection.body
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            self._drop(connection)
            raise RequestFailedError(type(error).__name__, answered=False) from error
        except asyncio.CancelledError:
            self._drop(connection)
            raise
        if connection.closed or not self._keep_alive:
            self._drop(connection)
        else:
            connection.idle_since = finished
            self._idle.append(connection)
        if status != _OK:
            raise RequestFailedError(str(status), answered=True)
        if self._heard is not None:
            self._heard(ticket, body)
        if (by := _answered_by(body)) is not None:
            self.answered_by[by] += 1
        return finished

    async def close(self) -> None:
        """See `Client.close`."""
        for connection in list(self._open):
            self._drop(connection)
        self._idle.clear()

    def _reusable(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and time.perf_counter() - connection.idle_since < _MAX_IDLE_SECONDS:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._trust)
        self._open.add(connection)
        return connection

    def _drop(self, connection: "_Connection | None") -> None:
        if connection is not None:
            self._open.discard(connection)
            connection.close()


def _answered_by(body: bytes) -> AnsweredBy | None:
    """Who gave an answer; None where it does not tell."""
    effort, used, members = (pattern.search(body) for pattern in (_EFFORT, _USED, _MEMBERS))
    if effort is None or used is None or members is None:
        return None
    return AnsweredBy(effort[1].decode(), int(used[1]), int(members[1]))


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self) -> None:
        self.closed = True
        self.idle_since = 0.0
        self.body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, float]] | None = None

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, float]]":
        """Send a whole request; the future gives the answer's status, and when its last byte was here."""
        self._answer, self.body = asyncio.get_running_loop().create_future(), b""
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

    def on_body(self, data: bytes) -> None:
        """Called by httptools, mostly once an answer."""
        self.body += data

    def on_message_complete(self) -> None:
        """Called by httptools at the answer's last byte."""
        finished = time.perf_counter()
        if not self._parser.should_keep_alive():
            self.close()
        # A request that was given up has cancelled its future.
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), finished))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self.closed = True
        self._fail(error or ConnectionResetError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
