"""A cascade: some members on all images, the others on those that are left open, whose features stay on the GPU.

Random weights settle nothing, so which images are left open is imposed: a share of them, in random places. That the
first members' answers have to reach the host, and are looked at there, costs what it costs.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rrrgpu.network import Network
from rrrgpu.plans import Launch, captured

CASCADE = "cascade"
FIRST, REST = "first", "rest"  # its parts
_TAU = 0.5  # any will do
Floats = npt.NDArray[np.float32]


def settled(first: Floats, tau: float) -> npt.NDArray[np.bool_]:
    """Which images the first members settle, by their probabilities (N, k, C): a copy of the project's rule."""
    labels = first.argmax(axis=2)
    agree = (labels == labels[:, :1]).all(axis=1)
    confidence = first.mean(axis=1, dtype=np.float64)[np.arange(len(first)), labels[:, 0]]
    return np.asarray(agree & (confidence >= tau))


def imposed(share_early: float, calls: int, batch: int) -> list[list[int]]:
    """For each call the rows of its batch that are left open: of all together that share is not, in random order."""
    left_open = np.arange(calls * batch) >= round(share_early * calls * batch)
    np.random.default_rng(0).shuffle(left_open)
    return [np.flatnonzero(row).tolist() for row in left_open.reshape(calls, batch)]


class Cascade:
    """Launches of the two parts as one."""

    def __init__(self, first: Launch, rest: Sequence[Launch], gathered: Any) -> None:
        """Take the parts.

        Args:
            first: gives logits and probabilities (N, k, C) and the features of all N images.
            rest: for 1 to N images, gives logits and probabilities (n, M - k, C) of the first n of `gathered`.
            gathered: memory of the features' shape and layout.
        """
        self._first, self._rest, self._gathered = first, rest, gathered

    def __call__(self) -> tuple[Any, Any]:
        """All members: logits and probabilities (N, M, C), on the GPU."""
        *early, features = self._first()
        self._gathered.copy_(features)
        logits, probabilities = (torch.cat(pair, 1) for pair in zip(early, self._rest[-1](), strict=True))
        return logits, probabilities

    def ask(self, rows: Sequence[int]) -> tuple[Floats, Floats | None]:
        """Probabilities on the host: of the first members on all images, of the others on `rows`, in that order."""
        _, probabilities, features = self._first()
        early = probabilities.cpu().numpy()
        settled(early, _TAU)
        if not rows:
            return early, None
        for place, row in enumerate(rows):
            self._gathered[place].copy_(features[row])
        return early, self._rest[len(rows) - 1]()[1].cpu().numpy()


def prepare_cascade(first: Network, rest: Network, images: Any) -> Cascade:
    """A cascade in PyTorch: a CUDA graph of the first part, and one of the other for each number of images.

    Args:
        first: the members that are asked first, as `Network.some` gives them, on the device.
        rest: the others.
        images: (N, S, S, 3) uint8.
    """

    def run_first() -> tuple[Any, ...]:
        features = first.forward_stem(images)
        return *first.head(first.forward_tail(features, first.merged)), features

    def run_rest(count: int) -> tuple[Any, ...]:
        return rest.head(rest.forward_tail(gathered[:count], rest.merged))

    def launch(run: Launch) -> Launch:
        graph, outputs = captured(run, on_gpu=images.is_cuda)
        return lambda: (graph.replay(), outputs)[1]

    launch_first = launch(run_first)
    gathered = torch.zeros_like(launch_first()[2])
    return Cascade(launch_first, [launch(partial(run_rest, count)) for count in range(1, len(images) + 1)], gathered)


def largest_error(cascade: Cascade, reference: Any) -> float:
    """The largest difference of a probability from `reference` (n, M, C) where one image alone is left open."""
    errors = []
    for row, expected in enumerate(reference.numpy()):
        early, late = cascade.ask([row])
        assert late is not None
        errors.append(np.abs(np.concatenate([early[row], late[0]]) - expected).max())
    return float(np.max(errors))
