"""How many requests a second this client can send and have answered: against a server that does nothing.

What is measured is client and answerer together, on this machine's cores, so the client's own limit is rather higher.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rrrnet.errors import CheckFailedError
from rrrserve.bench.clients.subjects import Subject
from rrrserve.bench.figures import told
from rrrserve.bench.loops import Recorder, closed_loop
from rrrserve.process import children
from rrrserve.process.environment import variables

# What answers in place of a level; an engine's stand-in is a function in this process.
_ANSWERERS = {"http": "http", "triton": "grpc"}
_CONCURRENCY = 8
_WARM_UP_SECONDS = 0.2
_SECONDS = 0.5
_PATIENCE_SECONDS = 2.0


async def client_limit(subject: Subject) -> float:
    """Requests a second of the subject's own size that this client gets answered by a server that does nothing.

    Raises:
        CheckFailedError: that server cannot be started or reached.
    """
    async with _answerer(subject.level) as address:
        client = subject.connect_to_answerer(address)
        recorder = Recorder()
        try:
            await closed_loop(client, _CONCURRENCY, Recorder(), requests=None, seconds=_WARM_UP_SECONDS)
            await closed_loop(client, _CONCURRENCY, recorder, requests=None, seconds=_SECONDS)
        finally:
            await client.close()
    if not recorder.latencies_seconds:
        raise CheckFailedError(f"the client's own limit cannot be measured: {told(recorder.errors)} on loopback")
    return len(recorder.latencies_seconds) / recorder.wall_seconds


@asynccontextmanager
async def _answerer(level: str) -> AsyncIterator[str]:
    """HOST:PORT of an answerer in a child process; nothing where the level needs none."""
    if level not in _ANSWERERS:
        yield ""
        return
    reader, writer = os.pipe()
    with os.fdopen(reader) as said:
        try:
            process = await children.spawn(
                [sys.executable, "-m", "rrrserve.bench.clients.answerer", _ANSWERERS[level]],
                environment=variables(),
                output=writer,
            )
        finally:
            os.close(writer)
        try:
            line = await asyncio.to_thread(said.readline)
            if not line.strip().isdigit():
                words = f"{line}{said.read()}".strip()
                raise CheckFailedError(f"the client's own limit cannot be measured: its answerer said {words!r}")
            yield f"127.0.0.1:{int(line)}"
        finally:
            await children.terminate(process, patience_seconds=_PATIENCE_SECONDS)
