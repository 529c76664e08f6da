"""Side streams that fork off from the current one and join it again; on a CPU there are none, and all runs in turn."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

new_stream: Any = torch.cuda.Stream  # untyped in PyTorch, as is its Event


def side_streams(count: int, *, on_gpu: bool) -> list[Any]:
    """`count` streams; None instead of each on a CPU."""
    return [new_stream() if on_gpu else None for _ in range(count)]


def fork(sides: Sequence[Any]) -> None:
    """Make all of `sides` wait for what the current stream was given so far."""
    for side in filter(None, sides):
        side.wait_stream(torch.cuda.current_stream())


def on(stream: Any) -> AbstractContextManager[Any]:
    """Within it, `stream` is the current one."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def join(sides: Sequence[Any]) -> None:
    """Make the current stream wait for all of `sides`."""
    for side in filter(None, sides):
        torch.cuda.current_stream().wait_stream(side)
