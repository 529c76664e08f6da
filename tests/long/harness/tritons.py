"""A Triton without a service, to be killed, frozen and started again at its address while a service asks it."""

import asyncio
import signal
from pathlib import Path

import psutil

from rrrbuild.repository_document import read_repository
from rrrserve.triton.calls import TritonError
from rrrserve.triton.client import TritonClient
from rrrserve.triton.server import TritonServer
from rrrserve.versions.catalogue import backends_of

_START_SECONDS = 120.0
_POLL_SECONDS = 0.1


class Triton:
    """As `rrr serve` starts its own; it ends with this process.

    Attributes:
        url: HOST:PORT of its gRPC, which stays.
    """

    def __init__(self, repository: Path) -> None:
        """Nothing is started."""
        found = read_repository(repository)
        self._server = TritonServer(found.path, backends_of(found))
        self.url = self._server.url

    async def start(self) -> None:
        """Start it, again if need be, and wait until it answers: its port opens when its models are loaded."""
        await self.end()
        await self._server.start()
        client = TritonClient(self.url)
        try:
            async with asyncio.timeout(_START_SECONDS):
                while True:
                    if await _answers(client):
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            await client.close()

    async def end(self) -> None:
        """Remove it and what it left, if there is something."""
        await self._server.stop(at_once=True)

    def send(self, number: signal.Signals) -> None:
        """A signal to tritonserver alone; the processes of its models are left to themselves."""
        flag = f"--grpc-port={self.url.rpartition(':')[2]}"
        alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        next(child for child in alive if flag in child.cmdline()).send_signal(number)


async def _answers(client: TritonClient) -> bool:
    try:
        await client.server_version(timeout_seconds=1.0)
    except TritonError:
        return False
    return True
