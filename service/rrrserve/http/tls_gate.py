"""Lets TLS connections in within the limits of all connections, from the first byte of the handshake on.

Where the event loop's own server does the handshake, a connection is made only after it: until then nobody counts it,
and nobody can close it in favour of another.
"""

import asyncio
import ssl
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from rrrserve.http.connections import Connections
from rrrserve.http.protocol import GuardedProtocol

_LIMIT_SECONDS = 86_400.0  # of the event loop's, for handshake and closing: `Connections` ends both long before
_PIECE_BYTES = 64 * 1024

T = TypeVar("T")


class TlsGate(asyncio.Protocol):
    """What uvicorn makes a client's plain connection with; after the handshake a `GuardedProtocol` takes its place.

    Args:
        connections: all connections of this worker, and their limits. The handshake has the time of a header.
        context: of the server.
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
        context: ssl.SSLContext,
    ) -> None:
        self._uvicorns = config, server_state, app_state, _loop
        self._all = cast(set[Any], server_state.connections)
        self._guard = connections
        self._context = context
        self._early: list[bytes] = []
        self._wire: asyncio.Transport
        self._handshake: asyncio.Task[None]
        self._left = False  # for a `GuardedProtocol`, or for good

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        self._wire = transport
        self._all.add(self)
        if not self._guard.opened():  # to tell why would take a handshake
            transport.abort()
            return
        self._guard.wait(self, self._guard.limits.header_seconds)
        loop = asyncio.get_running_loop()
        handshake = loop.start_tls(
            transport,
            self,
            self._context,
            server_side=True,
            ssl_handshake_timeout=_LIMIT_SECONDS,
            ssl_shutdown_timeout=_LIMIT_SECONDS,
        )
        # The first step must be taken here. uvloop begins to read when we return, whatever was said about pausing: to a
        # task that starts a little later the client's first bytes would be lost.
        waits_for = handshake.send(None)
        self._handshake = loop.create_task(self._shake_hands(_rest_of(handshake, waits_for)))

    async def _shake_hands(self, handshake: Coroutine[Any, Any, asyncio.Transport | None]) -> None:
        try:
            secured = await handshake
        except OSError:  # the client speaks no TLS, or none that we do, or has gone
            secured = None
        if secured is None or secured.is_closing() or self._wire.is_closing():
            self._wire.abort()
            self.connection_lost(None)
            return
        self._left = True
        self._all.discard(self)
        self._guard.release(self)
        guarded = GuardedProtocol(*self._uvicorns, connections=self._guard, counted=True)
        secured.set_protocol(guarded)
        guarded.connection_made(cast(asyncio.Transport, _Secured(secured, self._wire)))
        if self._early:
            guarded.data_received(b"".join(self._early))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what a client sends right after its part of the handshake."""
        self._early.append(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Called by the event loop, though not at each end of a handshake."""
        if not self._left:
            self._left = True
            self._all.discard(self)
            self._guard.closed(self)

    def shutdown(self) -> None:
        """Called by uvicorn when the service stops. Who still shakes hands has asked for nothing."""
        self._wire.abort()

    def waited_too_long(self) -> None:
        """Called by `Connections`."""
        self._wire.abort()

    def make_room(self) -> None:
        """Called by `Connections`."""
        self._wire.abort()


class _Secured:
    """The part of a TLS transport that is used of it, which tells what its client has not read.

    The event loop's takes an answer of any size, passes it on to the transport below, and says that nothing is left.
    """

    __slots__ = (
        *("_lower", "_upper", "abort", "can_write_eof", "close", "get_extra_info", "is_closing"),
        *("pause_reading", "resume_reading"),
    )

    def __init__(self, upper: asyncio.Transport, lower: asyncio.Transport) -> None:
        upper.set_write_buffer_limits(high=_PIECE_BYTES)  # as without TLS
        self._upper = upper
        self._lower = lower
        self.abort = upper.abort
        self.can_write_eof = upper.can_write_eof
        self.close = upper.close
        self.get_extra_info = upper.get_extra_info
        self.is_closing = upper.is_closing
        self.pause_reading = upper.pause_reading
        self.resume_reading = upper.resume_reading

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """In pieces: after one that the kernel does not take, the next ones stay in the upper transport."""
        if len(data) <= _PIECE_BYTES:
            self._upper.write(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _PIECE_BYTES):
            self._upper.write(view[start : start + _PIECE_BYTES])

    def get_write_buffer_size(self) -> int:
        """Of both."""
        return self._upper.get_write_buffer_size() + self._lower.get_write_buffer_size()


@types.coroutine
def _rest_of(coroutine: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """A coroutine that goes on where another one waits after its first step."""
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(sent)
    except StopIteration as ended:
        return cast(T, ended.value)
