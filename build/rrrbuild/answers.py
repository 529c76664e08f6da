"""What an engine answers about images, as arrays: labels, calibrated probabilities, doubt, sets. numpy only.

Letters: N images, M members, C classes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rrrbuild.confidence.conformal import in_set
from rrrbuild.confidence.record import Confidence
from rrrnet.errors import UsageError
from rrrnet.training.metrics import entropy, mean_of_members, mutual_information

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Of N images; the service tells the same about each (docs/http.md).

    Attributes:
        classes: C class names, in the order of the last axes.
        labels: of each image the class with the largest mean over the members used.
        probabilities: that mean, calibrated where the build could, shape (N, C).
        members: probabilities of each member, calibrated, shape (N, M, C); NaN for a member that was not asked.
        members_used: how many answered, shape (N,).
        agreement: share of those whose own label is the ensemble's, shape (N,).
        entropy: of `probabilities`, in nats, shape (N,).
        mutual_information: between label and member, in nats, shape (N,).
        effort: which members were asked: "fast", "auto" or "full".
        confidence: what the build found out about such answers; None where it could not.
    """

    classes: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: FloatArray
    members: FloatArray
    members_used: npt.NDArray[np.int64]
    agreement: FloatArray
    entropy: FloatArray
    mutual_information: FloatArray
    effort: str
    confidence: Confidence | None

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def sets(self, coverage: float) -> list[tuple[str, ...]]:
        """Of each image the smallest set of labels, likeliest first, that holds the right one so often.

        Args:
            coverage: how often, such as 0.95.

        Raises:
            UsageError: not between 0 and 1, or the engine was built without images to calibrate on.
        """
        if not 0 < coverage < 1:
            raise UsageError(f"coverage is {coverage}: allowed is a number between 0 and 1, such as 0.95")
        limit = None if self.confidence is None else self.confidence.set_limit(self.effort, coverage)
        if limit is None:
            raise UsageError(
                "the engine has no sets: it was built without images to calibrate on; rrr build --calibration-data DIR"
            )
        held, order = in_set(self.probabilities, limit), np.argsort(-self.probabilities, axis=1, kind="stable")
        return [
            tuple(self.classes[place] for place in row if chosen[place])
            for row, chosen in zip(order, held, strict=True)
        ]


def answers_of(
    probabilities: npt.NDArray[np.float32], classes: tuple[str, ...], confidence: Confidence | None, effort: str
) -> Answers:
    """What an engine's probabilities mean.

    Args:
        probabilities: of each member, shape (N, M, C), N at least 1; NaN for members that were not asked.
        classes: C names.
        confidence: of the engine.
        effort: by which it answered.
    """
    mean = mean_of_members(probabilities)
    winners = mean.argmax(axis=1)
    answered, own = mean, probabilities.astype(np.float64)
    if confidence is not None:
        answered, own = confidence.mean(mean, effort), confidence.members(probabilities)
    used = np.isfinite(probabilities).all(axis=2)
    agree = used & (own.argmax(axis=2) == winners[:, None])
    return Answers(
        classes,
        tuple(classes[winner] for winner in winners),
        answered,
        own,
        used.sum(axis=1),
        agree.sum(axis=1) / used.sum(axis=1),
        np.maximum(0.0, entropy(answered)),
        np.maximum(0.0, mutual_information(own)),
        effort,
        confidence,
    )
