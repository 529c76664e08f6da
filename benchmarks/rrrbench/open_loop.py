"""Requests at a given rate whatever the answers do, as users are; each judged by its status and time."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Outcome:
    """One request.

    Attributes:
        status: of the answer; 0 if there was none.
        due: when it was to be sent, in seconds from the start.
        seconds: from then until the answer, the wait for a connection included.
    """

    status: int
    due: float
    seconds: float


class OpenLoop:
    """A client that sends when the time has come, over as many kept connections as that takes."""

    def __init__(self, host: str, port: int, path: str, bodies: Sequence[bytes], *, deadline_ms: int) -> None:
        """Prepare; `deadline_ms` is sent with each request, and a second more is waited for its answer."""
        self._address = host, port
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nX-Request-Timeout-Ms: {deadline_ms}\r\n"
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._limit_seconds = deadline_ms / 1000 + 1.0
        self._idle: list[Connection] = []
        self._outcomes: list[Outcome] = []

    async def run(self, rate: float, seconds: float) -> list[Outcome]:
        """Send `rate` requests a second for so many seconds; what became of each."""
        self._outcomes = []
        start = time.perf_counter()
        under_way: set[asyncio.Task[None]] = set()
        for index in range(round(rate * seconds)):
            due = index / rate
            wait = start + due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._one(index, start, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
        return self._outcomes

    async def _one(self, index: int, start: float, due: float) -> None:
        status = 0
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._limit_seconds):
                connection = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
                status, keep = await self._ask(connection, self._requests[index % len(self._requests)])
            if keep:
                self._idle.append(connection)
            else:
                connection[1].close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            if connection is not None:
                connection[1].close()
        self._outcomes.append(Outcome(status, due, time.perf_counter() - start - due))

    async def _ask(self, connection: Connection, request: bytes) -> tuple[int, bool]:
        reader, writer = connection
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        return int(head[9:12]), b"connection: close" not in head


def figures(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Counts by status, and times of the good answers and of the refusals, JSON-ready."""
    good = [outcome.seconds for outcome in outcomes if outcome.status == 200]
    refused = [outcome.seconds for outcome in outcomes if outcome.status == 429]
    return {
        "statuses": {str(status): count for status, count in sorted(Counter(o.status for o in outcomes).items())},
        "good_per_second": len(good) / seconds,
        "good_p50_ms": percentile_ms(good, 50),
        "good_p99_ms": percentile_ms(good, 99),
        "refused_p50_ms": percentile_ms(refused, 50),
        "refused_p95_ms": percentile_ms(refused, 95),
    }


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """A percentile in milliseconds; 0 of nothing."""
    return 1000 * float(np.percentile(seconds, percent)) if seconds else 0.0
