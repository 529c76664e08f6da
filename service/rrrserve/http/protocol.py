"""One client's connection: uvicorn's HTTP/1.1 with bounds on what a client may send and hold open.

uvicorn bounds neither the size of a header nor the time until it is complete, answers what it cannot parse as plain
text, and goes on working for a client that has gone.
"""

import asyncio
import enum
from collections.abc import Callable
from math import ceil
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from rrrserve.http.connections import Connections
from rrrserve.http.refusal import Refusal, Render, closing_answer

_BODY_FIELDS = (b"content-length", b"transfer-encoding", b"expect")  # they tell what follows the header
_ANSWER = tuple(b"HTTP/1.1 %d" % hundred for hundred in range(2, 6))  # and not 100 Continue, for which a client waits
_BYTES_FOR_EACH_TIME = 64 * 1024  # that the client must read in the time for a header


class _Phase(enum.Enum):
    """What the bytes that come next belong to."""

    BETWEEN = "between requests"
    HEADER = "header"
    BODY = "body"


class _Outlet:
    """The part of a transport that uvicorn writes answers to; to close it is left to the protocol.

    An answer's header waits for its body, so that both are sent, and read, in one piece.
    """

    __slots__ = ("_close", "_header", "_write", "abort", "is_closing")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None], is_closing: Callable[[], bool]) -> None:
        self._write = transport.write
        self._close = close
        self._header = b""
        self.abort = transport.abort
        self.is_closing = is_closing

    def write(self, data: bytes) -> None:
        """Send, unless it is the header of an answer."""
        if data.startswith(_ANSWER) and not self._header:
            self._header = data
        else:
            self._write(self._header + data)
            self._header = b""

    def flush(self) -> None:
        """Send the header of an answer without a body."""
        if self._header:
            self.write(b"")

    def close(self) -> None:
        """End the connection after all that was written."""
        self.flush()
        self._close()


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, less its patience.

    Args:
        connections: all connections of this worker, and their limits.
        render: makes the answer to a request that the application does not get to see.
        gone: told of a request's ASGI scope before its task is cancelled because its client has gone.
        config, server_state, app_state, _loop: given by uvicorn.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
        render: Render,
        gone: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._guard = connections
        self._render = render
        self._gone = gone
        self._limits = connections.limits
        self._phase = _Phase.BETWEEN
        self._wire: asyncio.Transport
        self._outlet: _Outlet
        self._deaf = False  # what the client sends from now on is thrown away
        self._closing = False
        self._header_bytes = self._header_fields = self._pending_bytes = self._body_bytes = self._chunks = 0
        self._offered = False  # an upgrade, by the request whose body has not been parsed yet
        self._refusal: Refusal | None = None
        self._running: tuple[RequestResponseCycle, asyncio.Task[None]] | None = None
        self.url = b""

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._wire = transport
        transport.set_write_buffer_limits(high=_BYTES_FOR_EACH_TIME)  # uvloop's own without TLS; with it, far more
        self._outlet = _Outlet(transport, self._close, self._is_closing)
        self.transport = cast(asyncio.Transport, self._outlet)
        if self._guard.opened():
            self._guard.wait(self, self._limits.header_seconds)
        else:
            self._send(Refusal("overloaded", f"{self._guard.most} connections are open, the most that is allowed"))
            self._end(gently=False)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop. Work for a client that has gone is given up, in Triton too."""
        self._guard.closed(self)
        self._closing = self._deaf = True
        super().connection_lost(error)
        if self._running is not None:
            cycle, task = self._running
            cycle.disconnected = True
            if not cycle.response_started:
                self._gone(cast(dict[str, Any], cycle.scope))
                task.cancel()

    def _is_closing(self) -> bool:
        return self._closing or self._wire.is_closing()

    def _close(self) -> None:
        """Called by uvicorn after an answer that is the last one."""
        self._end(gently=self._phase is not _Phase.BETWEEN)

    def _end(self, *, gently: bool) -> None:
        """Close the connection; `gently` gives the client time to read the answer.

        A socket that is closed with unread bytes in it is reset, and the client may never see what was sent before.
        """
        if self._closing:
            return
        self._closing = self._deaf = True
        if gently and self._wire.can_write_eof() and not self._wire.is_closing():
            self._wire.write_eof()
            self.flow.resume_reading()
        else:
            self._wire.close()
        # Both take effect when all that was written has gone: for a client that does not read, that would be never.
        self._guard.wait(self, self._patience())

    def _patience(self) -> float:
        """How long the client may take to read what the kernel has not taken yet, in seconds."""
        unsent = self._wire.get_write_buffer_size() or self.scheme == "https"  # TLS keeps what is below it to itself
        if not unsent or self._guard.stopping:
            return self._limits.linger_seconds
        return self._limits.header_seconds * ceil(unsent / _BYTES_FOR_EACH_TIME)

    def shutdown(self) -> None:
        """Called by uvicorn when the service stops."""
        self._guard.stopping = True
        super().shutdown()
        if self._closing or self._wire.get_write_buffer_size():
            self._guard.wait(self, self._patience())

    def waited_too_long(self) -> None:
        """Called by `Connections`."""
        if self._closing or self.flow.write_paused:
            self._wire.abort()
        elif self._phase is _Phase.HEADER:
            seconds = self._limits.header_seconds
            self._refuse(Refusal("request_timeout", f"the header was not complete after {seconds:g} s"))
        else:
            self._end(gently=False)

    def make_room(self) -> None:
        """Called by `Connections`."""
        self._wire.abort()

    def pause_writing(self) -> None:
        """Called by the event loop when the client does not read."""
        super().pause_writing()
        self._guard.wait(self, self._limits.header_seconds)

    def resume_writing(self) -> None:
        """Called by the event loop when the client reads again."""
        super().resume_writing()
        if self._closing:
            return
        if self._phase is _Phase.HEADER:
            self._wait(self._limits.header_seconds)
        elif self.cycle is None or self.cycle.response_complete:
            self._wait(self._limits.keep_alive_seconds)
        else:
            self._guard.release(self)

    def _wait(self, seconds: float) -> None:
        """Wait for the client to send; one that has answers to read is waited for in `pause_writing`."""
        if not self.flow.write_paused:
            self._guard.wait(self, seconds)

    # Bytes of requests

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._deaf:
            return
        before = self._phase
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            (end,) = offer.args  # of the header in `data`
            self.data_received(self._without_offer() + data[end:])
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or Refusal("bad_http", "the bytes are not a request of HTTP/1.1"))
            return
        if self._phase is _Phase.HEADER:
            if before is not _Phase.HEADER:
                self._wait(self._limits.header_seconds)
            else:
                self._pending_bytes += len(data)
                if self._pending_bytes > self._limits.header_bytes + self._limits.target_bytes:
                    self._refuse(self._too_large_header())
        elif before is _Phase.BODY and self._phase is _Phase.BODY:
            self._body_bytes += len(data)
            if self._body_bytes > self._limits.body_bytes:
                self._refuse(Refusal("body_too_large", f"the body takes more than {self._limits.body_bytes} bytes"))

    def _without_offer(self) -> bytes:
        """A header like the last one, less its offer of another protocol, for a new parser (RFC 9110, 7.8).

        httptools takes what follows such an offer for the other protocol, so that the body would never be seen.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        fields = [b"%s: %s\r\n" % pair for pair in self.headers if pair[0] in _BODY_FIELDS]
        return b"".join((b"POST / HTTP/1.1\r\n", *fields, b"\r\n"))

    def _too_large_header(self) -> Refusal:
        most, fields = self._limits.header_bytes, self._limits.header_fields
        return Refusal("header_too_large", f"at most {fields} header fields of {most} bytes together are allowed")

    def on_message_begin(self) -> None:
        """Called by httptools at a request's first byte."""
        self._phase = _Phase.HEADER
        self._header_bytes = self._header_fields = self._pending_bytes = self._body_bytes = self._chunks = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Called by httptools for each piece of the request's target."""
        super().on_url(url)
        if len(self.url) > self._limits.target_bytes:
            self._stop(Refusal("target_too_long", f"path and query have at most {self._limits.target_bytes} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools for each header field, and each trailer after a chunked body.

        Trailers are counted and thrown away: uvicorn would add them to the header, where a token or a length is looked
        for that a proxy before us has not seen there.
        """
        if self._phase is _Phase.HEADER:
            super().on_header(name, value.rstrip(b" \t"))  # httptools leaves the space behind a value
        self._header_bytes += len(name) + len(value) + 4
        self._header_fields += 1
        if self._header_bytes > self._limits.header_bytes or self._header_fields > self._limits.header_fields:
            self._stop(self._too_large_header())

    def on_headers_complete(self) -> None:
        """Called by httptools at the end of a header."""
        if self._offered:  # the request is known, and under way
            self._offered = False
            self._phase = _Phase.BODY
            return
        if self.parser.get_method() == b"CONNECT":
            self._stop(Refusal("method_not_allowed", "this is no proxy", headers={"Allow": "GET, HEAD, POST, PUT"}))
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            self._stop(Refusal("bad_http", "the version must be HTTP/1.1"))
        if len(self.pipeline) >= self._limits.pipelined:
            self._stop(Refusal("bad_http", f"more than {self._limits.pipelined} requests wait for an answer"))
        if not self.flow.write_paused:
            self._guard.release(self)
        super().on_headers_complete()
        self._phase = _Phase.BODY
        self._offered = self.parser.should_upgrade()

    def on_chunk_header(self) -> None:
        """Called by httptools for each chunk of a chunked body."""
        self._chunks += 1
        if self._chunks > self._limits.chunks:
            self._stop(Refusal("body_too_large", f"the body has more than {self._limits.chunks} chunks"))

    def on_message_complete(self) -> None:
        """Called by httptools at a request's last byte."""
        if self._offered:  # so httptools thinks
            return
        self._phase = _Phase.BETWEEN
        super().on_message_complete()
        if self.cycle.response_complete and not self._closing:  # what was left of a body that nobody wanted
            self._wait(self._limits.keep_alive_seconds)

    def _stop(self, refusal: Refusal) -> None:
        """End the parsing that called us; `data_received` then answers with `refusal`."""
        self._refusal = refusal
        raise refusal

    # Answers

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with an error and close, whatever the application is doing with the request."""
        self._deaf = True
        cycle = self.cycle
        answered = cycle is None or cycle.response_complete
        if self._phase is not _Phase.BODY and not answered:
            cycle.keep_alive = False  # requests before this one still get their answers, then comes the end
            return
        if self._phase is _Phase.BODY and (answered or self.pipeline or cycle.response_started):
            self._wire.abort()
            return
        if not answered:
            cycle.disconnected = True  # the application must not answer as well
            cycle.message_event.set()
        self._send(refusal)
        self._end(gently=True)

    def _send(self, refusal: Refusal) -> None:
        answer = self._render(refusal.code, refusal.message, refusal.headers, self.url, self.headers or ())
        self._wire.write(closing_answer(answer))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """As uvicorn's, but the task is remembered."""
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._running = cycle, task

    def on_response_complete(self) -> None:
        """Called by uvicorn after an answer's last byte."""
        self._outlet.flush()
        self.server_state.total_requests += 1
        if self._is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._phase is _Phase.BETWEEN:
            self._wait(self._limits.keep_alive_seconds)
        elif self.expect_100_continue and self._phase is _Phase.BODY:
            self._end(gently=True)  # the client may or may not send the body now: what comes next cannot be told
        else:  # the rest of a body that nobody wants, or the next request's header
            self._wait(self._limits.header_seconds)
