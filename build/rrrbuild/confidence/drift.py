"""Whether answers still look like those to the calibration images: no labels are needed.

Three statistics of each answer are compared, each by the two-sample Kolmogorov-Smirnov test (Smirnov 1939): the largest
distance between the distribution of the last `WINDOW` answers and that of the reference. Its p-value counts the errors
of both samples, so a reference of 100 images is judged as what it is: it takes more to be an alarm. With ties
(agreement and members used have few values) the test errs towards no alarm. Its tail is taken to be that of the limit,
2 exp(-2 D^2 nm / (n + m)); Wei and Dudley (2012, arXiv:1107.5356) study where that bounds the exact one, and a test
counts the exact one for sizes in use.

It is looked at every `STEP` answers for `HORIZON` answers and `STATISTICS`: each look may err by that share of
`FALSE_ALARMS` (Bonferroni, which needs no independence: windows overlap, and all share one reference).
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild.cascade_runner import AUTO, FULL
from rrrnet.training.metrics import entropy, mean_of_members

FloatArray = npt.NDArray[np.floating[Any]]

STATISTICS = ("agreement", "entropy", "members_used")
MIN_IMAGES = 100
WINDOW, STEP, LEAST = 400, 25, 100
HORIZON, FALSE_ALARMS = 20_000, 0.01
_LEVEL = FALSE_ALARMS / (len(STATISTICS) * HORIZON / STEP)
_DIGITS = 3  # of a value: what differs by less differs by the engine's arithmetic


def limit(images: int, answers: int) -> float:
    """The distance between two samples of those sizes that one look takes for an alarm; above 1 none can be."""
    return math.sqrt(-math.log(_LEVEL / 2) / 2 * (1 / images + 1 / answers))


def distance(values: FloatArray, cumulative: FloatArray, sample: FloatArray) -> float:
    """The largest difference between two empirical distribution functions.

    Args:
        values: of the reference, ascending and distinct, shape (V,).
        cumulative: share of the reference at or below each of them, after a 0; shape (V + 1,).
        sample: in any order, shape (W,).
    """
    ordered = np.sort(sample)
    points = np.concatenate((values, ordered))
    expected = cumulative[np.searchsorted(values, points, side="right")]
    return float(np.abs(expected - np.searchsorted(ordered, points, side="right") / len(ordered)).max())


def reference(probabilities: FloatArray, calibrated: FloatArray, *, effort: str) -> dict[str, Any] | None:
    """What the answers to calibration images look like: JSON-ready; None for fewer than `MIN_IMAGES`.

    Args:
        probabilities: by members, shape (N, M, C); rows of those not asked are NaN.
        calibrated: mean over those asked, as clients are told it; shape (N, C).
        effort: that asked them.

    Returns:
        `images`, `effort`, and for each of `STATISTICS` its `values`, ascending, and their `counts`.
    """
    if len(probabilities) < MIN_IMAGES:
        return None
    used = np.isfinite(probabilities).all(axis=2)
    winners = mean_of_members(probabilities).argmax(axis=1)
    agree = (np.where(used[:, :, None], probabilities, 0.0).argmax(axis=2) == winners[:, None]) & used
    members = used.sum(axis=1)
    found = {"agreement": agree.sum(axis=1) / members, "entropy": entropy(calibrated), "members_used": members}
    document: dict[str, Any] = {"images": len(probabilities), "effort": effort}
    for name in STATISTICS:
        values, counts = np.unique(np.round(found[name].astype(np.float64), _DIGITS) + 0.0, return_counts=True)
        document[name] = {"values": values.tolist(), "counts": counts.tolist()}
    return document


class DriftDetector:
    """Compares the last answers with a reference.

    A look takes about 375 us of an idle core, and the answer whose turn it is waits for it; as one answer in `STEP`
    does, that is 15 us on average.

    Attributes:
        effort: of the answers to show it.
        score: the largest distance of the last look as a multiple of its `limit`: 0 is as in the reference, 1 an alarm.
    """

    def __init__(self, drift: Mapping[str, Any]) -> None:
        """Take what `reference` made."""
        self.effort: str = drift["effort"]
        self.score = 0.0
        self._images = int(drift["images"])
        self._reference = [
            (np.array(drift[name]["values"]), np.cumsum([0, *drift[name]["counts"]]) / self._images)
            for name in STATISTICS
        ]
        self._answers: deque[Sequence[float]] = deque(maxlen=WINDOW)
        self._until_look = LEAST

    def observe(self, agreement: float, entropy_nats: float, members_used: int) -> bool:
        """Take one answer; whether this was the time to look, and `score` is a new one."""
        self._answers.append((agreement, entropy_nats, members_used))
        self._until_look -= 1
        if self._until_look:
            return False
        self._until_look = STEP
        answers = np.round(np.array(self._answers, np.float64), _DIGITS)
        largest = max(distance(*known, answers[:, place]) for place, known in enumerate(self._reference))
        self.score = largest / limit(self._images, len(answers))
        return True


def effort_to_watch(cascade: Mapping[str, Any] | None) -> str:
    """The effort whose answers are compared: what clients get who ask for none."""
    return FULL if cascade is None else AUTO
