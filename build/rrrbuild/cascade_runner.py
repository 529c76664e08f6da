"""A cascade as one callable: some members answer first, and only images that they do not settle go on to the rest.

Copied into Triton repositories beside a runtime: imports numpy and the standard library only.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FAST, AUTO, FULL = EFFORTS = ("fast", "auto", "full")
# What became of a member for one image; `NOT_ASKED` and those after it have NaN in place of probabilities.
USED, NOT_ASKED, NOT_FINITE, FAILED, LATE = range(5)


def settled(first: Probabilities, tau: float) -> Mask:
    """Which images some members settle: they agree on the label, with a mean confidence of at least `tau`.

    Args:
        first: their probabilities, shape (N, k, C). An image with NaN among them is not settled.
        tau: threshold of the mean over the k members of the label's probability; above 1 nothing is settled.

    Returns:
        Shape (N,).
    """
    labels = first.argmax(axis=2)
    agree = (labels == labels[:, :1]).all(axis=1)
    confidence = first.mean(axis=1, dtype=np.float64)[np.arange(len(first)), labels[:, 0]]
    return np.asarray(agree & (confidence >= tau))


def answered_by(probabilities: Probabilities, cascade: Mapping[str, Any], effort: str) -> Probabilities:
    """What a cascade answers, from the probabilities of all members: rows of those not asked become NaN.

    Args:
        probabilities: of all members, shape (N, M, C).
        cascade: `k`, `tau` and the `order` of members.
        effort: one of `EFFORTS`.
    """
    order, k = list(cascade["order"]), int(cascade["k"])
    found = probabilities.copy()
    early = np.full(len(found), effort == FAST)
    if effort == AUTO:
        early = settled(found[:, order[:k]], cascade["tau"])
    found[np.ix_(early, order[k:])] = np.nan
    return found


class Cascade:
    """Runs the first members on all images, and the others on the images that these do not settle.

    Attributes:
        first: the part that is always asked.
        rest: the other part.
        status: what became of each member in the last call, shape (N, M): `USED` and so on.
    """

    def __init__(
        self,
        first: Callable[[Images], tuple[Probabilities, Any]],
        rest: Callable[[Any, Sequence[int]], Probabilities],
        cascade: Mapping[str, Any],
    ) -> None:
        """Take the parts.

        Args:
            first: images (N, S, S, 3) -> probabilities (N, k, C) of the first members, and the stem's features.
            rest: those features and the rows to look at, R of them -> probabilities (R, M - k, C) of the others.
            cascade: `k`, `tau` and the `order` of members: the first k of it are those of `first`.
        """
        self.first, self.rest = first, rest
        self._tau = float(cascade["tau"])
        order, k = list(cascade["order"]), int(cascade["k"])
        self._early, self._late = order[:k], order[k:]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rest")
        self._under_way: Future[Probabilities] | None = None
        self.status: npt.NDArray[np.uint8] = np.empty((0, len(order)), np.uint8)

    def __call__(self, images: Images) -> Probabilities:
        """All members' answers: images (N, S, S, 3) -> probabilities (N, M, C)."""
        return self.ask(images, [FULL] * len(images))

    def warm_up(self, images: Images) -> None:
        """Ask all about batches of each size up to that of `images`: runtimes prepare a size when they meet it."""
        _, features = self.first(images)
        for count in range(1, len(images) + 1):
            self.rest(features, range(count))

    def ask(self, images: Images, efforts: Sequence[str], deadline: float | None = None) -> Probabilities:
        """Probabilities (N, M, C), NaN in the rows of members that did not answer.

        Args:
            images: shape (N, S, S, 3).
            efforts: of each image: `fast` asks the first members, `full` all, `auto` the rest where the first do not
                settle it.
            deadline: on the clock of `time.monotonic`: whatever has not answered by then is `LATE`; None waits, and
                lets errors of the others pass.
        """
        early, features = self.first(images)
        count, k, classes = early.shape
        found = np.full((count, k + len(self._late), classes), np.nan, np.float32)
        found[:, self._early] = early
        self.status = np.full(found.shape[:2], NOT_ASKED, np.uint8)
        self.status[:, self._early] = USED
        sure = settled(early, self._tau) if AUTO in efforts else None
        rows = [
            index
            for index, effort in enumerate(efforts)
            if effort == FULL or (effort == AUTO and sure is not None and not sure[index])
        ]
        if rows:
            became, answer = self._ask_rest(features, rows, deadline)
            place = np.ix_(rows, self._late)
            self.status[place] = became
            if answer is not None:
                found[place] = answer
        self.status[(self.status == USED) & ~np.isfinite(found).all(axis=2)] = NOT_FINITE
        found[self.status != USED] = np.nan
        return found

    def _ask_rest(self, features: Any, rows: Sequence[int], deadline: float | None) -> tuple[int, Probabilities | None]:
        """What became of the other members, and their answer where there is one."""
        if deadline is None:
            return USED, self.rest(features, rows)
        if self._under_way is not None and not self._under_way.done():
            return LATE, None  # for an earlier call, which has its answer without them
        self._under_way = self._thread.submit(self.rest, features, rows)
        try:
            return USED, self._under_way.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return LATE, None
        except Exception:  # each runtime raises its own types
            logging.getLogger(__name__).exception("the rest of the members failed")
            return FAILED, None
