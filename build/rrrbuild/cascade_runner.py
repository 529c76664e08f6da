"""A cascade as one callable: some members answer first, and only images that they do not settle go on to the rest.

Copied into Triton repositories beside a runtime: imports numpy and the standard library only.
"""

from collections.abc import Callable, Mapping, Sequence
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
        self._first, self._rest = first, rest
        self._tau = float(cascade["tau"])
        order, k = list(cascade["order"]), int(cascade["k"])
        self._early, self._late = order[:k], order[k:]
        self.status: npt.NDArray[np.uint8] = np.empty((0, len(order)), np.uint8)

    def __call__(self, images: Images) -> Probabilities:
        """All members' answers: images (N, S, S, 3) -> probabilities (N, M, C)."""
        return self.ask(images, [FULL] * len(images))

    def ask(self, images: Images, efforts: Sequence[str]) -> Probabilities:
        """Probabilities (N, M, C), NaN in the rows of members that were not asked.

        Args:
            images: shape (N, S, S, 3).
            efforts: of each image: `fast` asks the first members, `full` all, `auto` the rest where the first do not
                settle it.
        """
        early, features = self._first(images)
        count, k, classes = early.shape
        found = np.full((count, k + len(self._late), classes), np.nan, np.float32)
        found[:, self._early] = early
        unsettled = None if FULL in efforts and len(set(efforts)) == 1 else ~settled(early, self._tau)
        rows = [
            index
            for index, effort in enumerate(efforts)
            if effort == FULL or (effort == AUTO and (unsettled is None or unsettled[index]))
        ]
        if rows:
            found[np.ix_(rows, self._late)] = self._rest(features, rows)
        self.status = np.full(found.shape[:2], USED, np.uint8)
        self.status[:, self._late] = NOT_ASKED
        self.status[rows] = USED
        self.status[(self.status == USED) & ~np.isfinite(found).all(axis=2)] = NOT_FINITE
        return found
