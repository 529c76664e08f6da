"""A closed-loop client of Triton alone: each request decodes its JPEG, sends the pixels, reads and ranks the answer.

Asynchronous: of grpcio 1.85's synchronous calls about one in 200 was seen to wait half a second for an answer that was
there, which says nothing about Triton.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence

import numpy as np
from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferRequestedOutput

from rrrbench.classifiers import decode, top_labels
from rrrbuild.manifest import INPUT, OUTPUT
from rrrbuild.repository_document import ServedModel
from rrrserve.bench.closed_loop import Result


def closed_loop(address: str, model: ServedModel, bodies: Sequence[bytes], concurrency: int, seconds: float) -> Result:
    """As `rrrserve.bench.closed_loop.closed_loop`: so many requests under way for so long."""
    return asyncio.run(_closed_loop(address, model, bodies, concurrency, seconds))


async def _closed_loop(
    address: str, model: ServedModel, bodies: Sequence[bytes], concurrency: int, seconds: float
) -> Result:
    tickets = itertools.count()
    latencies: list[float] = []
    async with InferenceServerClient(address) as client:
        await client.is_server_live()  # so that the connection is there
        start = time.perf_counter()

        async def one_client() -> None:
            while (sent := time.perf_counter()) < start + seconds:
                pixels = decode(bodies[next(tickets) % len(bodies)], model.image_size)[None]
                tensor = InferInput(INPUT, pixels.shape, "UINT8")
                tensor.set_data_from_numpy(pixels)
                result = await client.infer(model.name, [tensor], outputs=[InferRequestedOutput(OUTPUT)])
                top_labels(result.as_numpy(OUTPUT)[0].mean(0), model.labels)
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*(one_client() for _ in range(concurrency)))
        return Result(np.array(latencies), {}, time.perf_counter() - start)
