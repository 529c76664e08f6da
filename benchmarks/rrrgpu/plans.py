"""Plans as CUDA graphs, ready to be replayed over and over; on a CPU the same steps are computed again each time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from rrrgpu.network import Network
from rrrgpu.streams import fork, join, new_stream, on, side_streams

PLANS = ("sequential", "merged", "streams", "split")
Launch = Callable[[], tuple[Any, ...]]  # gives logits and probabilities, each (N, M, C), and a first part its features


class _Recomputed:
    """What a CUDA graph is on a GPU: `replay` writes the result into the same memory again."""

    def __init__(self, function: Callable[[], Any], output: Any) -> None:
        self._function, self._output = function, output

    def replay(self) -> None:
        result = self._function()
        pairs = zip(self._output, result, strict=True) if isinstance(result, tuple) else [(self._output, result)]
        for memory, values in pairs:
            memory.copy_(values)


def captured(function: Callable[[], Any], *, on_gpu: bool = True) -> tuple[Any, Any]:
    """`function` as a CUDA graph, and what it returns: memory that every replay writes anew."""
    if not on_gpu:
        output = function()
        return _Recomputed(function, output), output
    side = new_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # Where a capture fails, PyTorch leaves its stream the current one.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = function()
    return graph, output


def prepare(network: Network, plan: str, images: Any) -> Launch:
    """A plan ready to be called over and over on `images`."""
    if plan == "split":
        return _prepare_split(network, images)
    run = {"sequential": network.run_sequential, "merged": network.run_merged, "streams": network.run_streams}[plan]
    graph, output = captured(lambda: run(images), on_gpu=images.is_cuda)

    def launch() -> tuple[Any, Any]:
        graph.replay()
        return output[0], output[1]

    return launch


def _prepare_split(network: Network, images: Any) -> Launch:
    """A graph for the stem, one for each member on a stream of its own, one for the softmax."""
    on_gpu = images.is_cuda
    stem, x = captured(lambda: network.forward_stem(images), on_gpu=on_gpu)
    tails = [captured(partial(network.forward_tail, x, layers), on_gpu=on_gpu) for layers in network.tails]
    head, output = captured(lambda: network.head(torch.cat([logits for _, logits in tails], 1)), on_gpu=on_gpu)
    sides = side_streams(len(tails), on_gpu=on_gpu)

    def launch() -> tuple[Any, Any]:
        stem.replay()
        fork(sides)
        for (graph, _), side in zip(tails, sides, strict=True):
            with on(side):
                graph.replay()
        join(sides)
        head.replay()
        return output[0], output[1]

    return launch
