"""Sends mutated requests to a running service, several at a time, and judges whatever comes back."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from harness.mutations import Mutator

# No fault of a request: refused or late because others are being worked on.
BUSY = (429, 504)


@dataclass
class Findings:
    """What a run of the fuzzer saw.

    Attributes:
        statuses: answers by status; 0 where the connection was closed without one.
        kinds: requests by kind of mutation.
        faults: what should not have been, with the bytes that caused it.
        slowest_seconds: the longest time until an answer or the end of the connection.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0

    def fault(self, what: str, data: bytes) -> None:
        """Remember one."""
        self.faults.append(f"{what} for {data[:300]!r} ({len(data)} bytes)")


async def fuzz(
    address: tuple[str, int], mutator: Mutator, count: int, *, concurrency: int = 16, patience_seconds: float
) -> Findings:
    """Send `count` mutated requests, and a good one after every hundredth.

    Args:
        address: host and port of the service.
        mutator: makes the requests.
        count: how many.
        concurrency: connections at the same time.
        patience_seconds: after that long without an answer or an end the request counts as hung.
    """
    findings = Findings()
    left = iter(range(count))

    async def one_client() -> None:
        for index in left:
            kind, data = mutator.draw()
            findings.kinds[kind] += 1
            await _judge(address, data, findings, patience_seconds)
            if index % 100 == 0:
                await _judge(address, mutator.good(), findings, patience_seconds, good=True)

    await asyncio.gather(*(one_client() for _ in range(concurrency)))
    return findings


async def _judge(
    address: tuple[str, int], data: bytes, findings: Findings, patience_seconds: float, *, good: bool = False
) -> None:
    start = time.perf_counter()
    status, head, body = 0, b"", b""
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(patience_seconds):
            writer.write(data)
            status, head, body = await _answer(reader, data)
    except TimeoutError:
        findings.fault(f"no answer and no end within {patience_seconds:g} s", data)
    except (OSError, asyncio.IncompleteReadError):
        pass  # closed without an answer: allowed for what is no HTTP
    except ValueError:
        findings.fault("an answer that is no HTTP", data)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    findings.slowest_seconds = max(findings.slowest_seconds, time.perf_counter() - start)
    if not good:
        findings.statuses[status] += 1
    if good and status not in (200, *BUSY):
        findings.fault(f"a good request was answered {status}", data)
    elif status >= 500 and status not in BUSY:
        findings.fault(f"status {status}: {body[:200]!r}", data)
    elif status >= 400 and not _is_error(body, head):
        findings.fault(f"status {status} in another shape: {body[:200]!r}", data)


async def _answer(reader: asyncio.StreamReader, data: bytes) -> tuple[int, bytes, bytes]:
    """Status, header and body of the first answer that is final."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        if status >= 200:
            break
    lines = [line.lower() for line in head.split(b"\r\n")]
    (length,) = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
    # The answer to a HEAD request has no body; which method the server read from mutated bytes only it can tell.
    maybe_head = data.lstrip().startswith(b"HEAD")
    return status, head, b"" if maybe_head else await reader.readexactly(length)


def _is_error(body: bytes, head: bytes) -> bool:
    if not body:
        return b"content-type: application/json" in head.lower()
    try:
        error: dict[str, Any] = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return set(error) == {"code", "message", "request_id"} and "Traceback" not in error["message"]
