"""Our repository's Triton without the HTTP service: clients speak gRPC and send tensors.

python triton_alone.py REPOSITORY PORT_FILE

PORT_FILE gets HOST:PORT of gRPC. Ends on SIGTERM.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rrrbuild.repository_document import read_repository
from rrrserve.triton.server import TritonServer


async def main(path: Path, tell: Callable[[str], object]) -> None:
    """Run until SIGTERM; `tell` gets the address."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    repository = read_repository(path)
    triton = TritonServer(repository.path, frozenset(model.backend for model in repository.models))
    try:
        await triton.start()
        tell(triton.url)
        await stop.wait()
    finally:
        await triton.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]).write_text))
