"""A closed-loop client of Triton alone: each request decodes its JPEG, sends the pixels, reads and ranks the answer."""

import itertools
import threading
import time
from collections.abc import Sequence

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from rrrbench.onnx_classifier import decode, top_labels
from rrrbuild.manifest import INPUT, OUTPUT
from rrrbuild.repository_document import ServedModel
from rrrserve.load import Result


def closed_loop(address: str, model: ServedModel, bodies: Sequence[bytes], concurrency: int, seconds: float) -> Result:
    """As `rrrserve.load.closed_loop`, with a thread and a connection for each request under way."""
    tickets = itertools.count()
    latencies: list[float] = []
    start = time.perf_counter()

    def one_client() -> None:
        with InferenceServerClient(address) as client:
            while time.perf_counter() < start + seconds:
                sent = time.perf_counter()
                pixels = decode(bodies[next(tickets) % len(bodies)], model.image_size)[None]
                tensor = InferInput(INPUT, pixels.shape, "UINT8")
                tensor.set_data_from_numpy(pixels)
                result = client.infer(model.name, [tensor], outputs=[InferRequestedOutput(OUTPUT)])
                top_labels(result.as_numpy(OUTPUT)[0].mean(0), model.labels)
                latencies.append(time.perf_counter() - sent)

    threads = [threading.Thread(target=one_client) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Result(np.array(latencies), {}, time.perf_counter() - start)
