"""Closed-loop clients that judge every answer: right, wrong, refused in order, or lost; and when each came."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TOLERANCE = 1e-3
_PAUSE_SECONDS = 0.05  # after a refusal; a client that asks again at once would only heat the machine
# Kinds of an end: RIGHT and WRONG are answers of status 200.
RIGHT, WRONG, LOST, HUNG, UNREACHABLE = "right", "wrong", "lost", "hung", "unreachable"


@dataclass(frozen=True)
class Ending:
    """How one request ended.

    Attributes:
        kind: `RIGHT`, `WRONG`, `LOST` (the connection broke after the request was sent), `HUNG` (no answer a second
            after the deadline), `UNREACHABLE` (no connection: the request was never sent), or a status such as "503".
        sent: clock of `time.monotonic`.
        seconds: until the end.
        detail: what was wrong, for people.
    """

    kind: str
    sent: float
    seconds: float
    detail: str = ""

    @property
    def ended(self) -> float:
        """Clock of `time.monotonic`."""
        return self.sent + self.seconds


@dataclass
class Tally:
    """All that the clients saw."""

    endings: list[Ending] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Requests by kind of end."""
        return dict(Counter(ending.kind for ending in self.endings))

    def count(self, *kinds: str) -> int:
        """How many ended so."""
        return sum(ending.kind in kinds for ending in self.endings)

    def slowest_seconds(self) -> float:
        """The longest time to any end."""
        return max((ending.seconds for ending in self.endings), default=0.0)

    def recovered_after(self, moment: float) -> float:
        """Seconds from a fault until requests were answered rightly again, without a failure after that."""
        failed = [ending.ended for ending in self.endings if ending.kind != RIGHT and ending.ended >= moment]
        if not failed:
            return 0.0
        good = [ending.ended for ending in self.endings if ending.kind == RIGHT and ending.ended > max(failed)]
        return min(good) - moment if good else float("inf")


class Clients:
    """So many clients, each with one request under way and its own connection, until they are told to stop."""

    def __init__(
        self, url: str, bodies: Sequence[bytes], golden: Sequence[Any], deadline_seconds: float, *, headers: str = ""
    ) -> None:
        """Prepare.

        Args:
            url: where to POST.
            bodies: encoded images.
            golden: the right answer to each (see `essence`).
            deadline_seconds: sent with each request.
            headers: more of them, each with its line end.
        """
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        head = f"POST {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        head += f"X-Request-Timeout-Ms: {deadline_seconds * 1000:.0f}\r\n{headers}"
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._golden = golden
        self._limit_seconds = deadline_seconds + 1.0
        self._stop = False
        self.tally = Tally()

    async def run(self, concurrency: int) -> None:
        """Ask until `stop`."""
        await asyncio.gather(*(self._one(index) for index in range(concurrency)))

    def stop(self) -> None:
        """Let each client end with the request that it has under way."""
        self._stop = True

    async def _one(self, index: int) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stop:
            index = (index + 1) % len(self._requests)
            sent = time.monotonic()
            try:
                async with asyncio.timeout(self._limit_seconds):
                    fresh = connection is None
                    if connection is None:
                        connection = await asyncio.open_connection(self._host, self._port)
                    kind, detail, keep = await self._ask(connection, index)
            except ConnectionRefusedError:
                kind, detail, keep = UNREACHABLE, "connection refused", False
            except TimeoutError:
                kind, detail, keep = HUNG, "no answer", False
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                where = "a fresh connection" if fresh else "a kept connection"
                kind, detail, keep = LOST, f"{type(error).__name__} on {where}", False
            self.tally.endings.append(Ending(kind, sent, time.monotonic() - sent, detail))
            if not keep and connection is not None:
                connection[1].close()
                with contextlib.suppress(OSError):
                    await connection[1].wait_closed()
                connection = None
            if kind not in (RIGHT, WRONG):
                await asyncio.sleep(_PAUSE_SECONDS)
        if connection is not None:
            connection[1].close()

    async def _ask(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], index: int
    ) -> tuple[str, str, bool]:
        """Kind of the end, its detail, and whether the connection may be used again."""
        reader, writer = connection
        writer.write(self._requests[index])
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, *lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        keep = headers.get("connection") != "close"
        code = status.split()[1]
        if code != "200":
            return code, body["error"]["code"], keep
        fault = self.fault(body, index)
        return (WRONG if fault else RIGHT), fault, keep

    def fault(self, answer: Mapping[str, Any], index: int) -> str:
        """What is wrong with an answer of status 200 to a body; empty if nothing is."""
        return difference(essence(answer), self._golden[index])


def essence(answer: Mapping[str, Any]) -> dict[str, float]:
    """What must be the same whenever an image is asked about: each label's probability."""
    return {entry["label"]: entry["probability"] for entry in answer["predictions"]}


def difference(found: Mapping[str, float], golden: Mapping[str, float]) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if found.keys() != golden.keys():
        return f"labels {sorted(found)} instead of {sorted(golden)}"
    if max(found, key=found.__getitem__) != max(golden, key=golden.__getitem__):
        return f"{max(found, key=found.__getitem__)} first instead of {max(golden, key=golden.__getitem__)}"
    largest = max(abs(found[label] - golden[label]) for label in golden)
    return f"probabilities differ by {largest:.4f}" if largest > TOLERANCE else ""
