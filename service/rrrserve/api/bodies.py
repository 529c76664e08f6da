"""The bodies of requests, read within bounds: of the size of each, and of the memory for all of a worker's together."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Self, cast

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from rrrserve.api.errors import APIError
from rrrserve.api.near_misses import shown
from rrrserve.api.requests import Headers

SLOW_SECONDS = 2.0


class BodyMemory:
    """Counts the bytes of all bodies that this worker holds, so that many large ones cannot use up its memory.

    Where there is no room, bodies that have been coming for `SLOW_SECONDS` give way, the oldest first: a few clients
    that stop just before the last byte must not shut all others out.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._coming: dict[ComingBody, None] = {}  # the oldest first

    def begin(self, evict: Callable[[], object]) -> "ComingBody":
        """A new body; `evict` is called, once, if it must give way: its bytes are not counted any more then.

        As a context manager it is counted until the end of the `with` statement.
        """
        body = ComingBody(self, evict)
        self._coming[body] = None
        return body

    def take(self, size: int, body: "ComingBody") -> None:
        """Count bytes of a body that were received.

        Raises:
            APIError: `overloaded`, when there is no room for them; they are not counted then.
        """
        if size > self._free:
            slow_since = time.monotonic() - SLOW_SECONDS
            slow = [other for other in self._coming if other is not body and other.size and other.began <= slow_since]
            if size > self._free + sum(other.size for other in slow):
                raise APIError("overloaded", "too many large bodies are being received")
            while size > self._free:
                slow.pop(0).give_way()
        self._free -= size

    def give_back(self, size: int) -> None:
        """Count bytes that are not needed any more."""
        self._free += size

    def end(self, body: "ComingBody") -> None:
        """All of a body is here, or nobody waits for the rest."""
        self._coming.pop(body, None)


class ComingBody:
    """One body that is being received.

    Attributes:
        size: bytes of it that are counted.
        began: on the clock of `time.monotonic`.
        gave_way: it had to give way to others.
        whole: all of it is here.
    """

    def __init__(self, memory: BodyMemory, evict: Callable[[], object]) -> None:
        self.size = 0
        self.began = time.monotonic()
        self.gave_way = self.whole = False
        self._memory = memory
        self._evict = evict

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def take(self, size: int) -> None:
        """Count bytes that were received; see `BodyMemory.take`."""
        self._memory.take(size, self)
        self.size += size

    def finish(self) -> None:
        """All is here: it stays counted, and need not give way any more."""
        self.whole = True
        self._memory.end(self)

    def drop(self) -> None:
        """Count none of it any more."""
        self._memory.end(self)
        self._memory.give_back(self.size)
        self.size = 0

    def give_way(self) -> None:
        """Make room for another body."""
        self.gave_way = True
        self.drop()
        self._evict()


async def read_body(receive: Receive, headers: Headers, coming: ComingBody, *, max_bytes: int) -> bytes:
    """The whole body, refused as soon as it is known to be too large.

    Args:
        receive: the request's.
        headers: the request's.
        coming: counts it, and cancels this task if it must give way.
        max_bytes: largest body.

    Raises:
        APIError: `body_too_large`, `encoding_not_supported`, or `overloaded`.
        ClientDisconnect: the client went away.
    """
    if (encoding := headers.get(b"content-encoding", b"identity").lower()) != b"identity":
        seen = shown(encoding.decode("latin-1"))
        raise APIError("encoding_not_supported", f"the Content-Encoding is {seen}: send the body as it is, without one")
    if headers.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
        raise APIError("encoding_not_supported", "the only Transfer-Encoding that is read here is chunked")
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > max_bytes:
        raise APIError("body_too_large", f"the body has {int(announced)} bytes: at most {max_bytes} are allowed")
    chunks: list[bytes] = []
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            if coming.size + len(chunk) > max_bytes:
                raise APIError("body_too_large", f"the body is larger than the {max_bytes} bytes that are allowed")
            coming.take(len(chunk))
            chunks.append(chunk)
            if not message.get("more_body", False):
                coming.finish()
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except asyncio.CancelledError:
        if not coming.gave_way or this_task().uncancel():  # somebody else ends it too: the deadline, or a stop
            raise
        raise APIError("overloaded", "the body came too slowly: the memory for bodies is used up") from None


def this_task() -> "asyncio.Task[Any]":
    """The one that runs."""
    return cast("asyncio.Task[Any]", asyncio.current_task())
