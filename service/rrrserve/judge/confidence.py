"""Claims about sets and probabilities: verdicts from a service's answers to labelled images. Pure functions of numbers.

What the images that got no usable answer would have shown is not known: intervals hold whatever it is.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rrrnet.training.metrics import ECE_BINS, expected_calibration_error
from rrrserve.judge.verdicts import Interval

_POINTS = 100.0


class Answer(NamedTuple):
    """What counts of one answer.

    Attributes:
        probability: of the first label.
        correct: whether that is the right one.
        in_set: whether the set holds the right one; None where the answer has no set.
        set_size: labels in it.
        effort: that answered.
        members_used: how many members the answer is of.
    """

    probability: float
    correct: bool
    in_set: bool | None
    set_size: int
    effort: str
    members_used: int


def coverage_interval(found: Sequence[Answer], lost: int, alpha: float) -> Interval:
    """Share of images whose set holds the right label; an empty set holds none.

    Args:
        found: answers with sets, at least one.
        lost: images without a usable answer, which may be hits or none.
        alpha: 1 - confidence.
    """
    hits, images = sum(bool(answer.in_set) for answer in found), len(found)
    low, high = exact(hits, images + lost, alpha).low, exact(hits + lost, images + lost, alpha).high
    return Interval(hits / images, low, high)


def exact(hits: int, images: int, alpha: float) -> Interval:
    """A share whose interval is never too narrow (Clopper and Pearson, Biometrika 26, 1934), however near 0 or 1.

    Args:
        hits: images that count.
        images: of all.
        alpha: 1 - confidence.
    """
    steps = np.arange(1, images + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(images - steps + 1) - np.log(steps))])  # of binomial coefficients

    def at_most(count: int, share: float) -> float:
        """Probability of so many hits or fewer."""
        few = np.arange(count + 1)
        return float(np.exp(logs[: count + 1] + few * math.log(share) + (images - few) * math.log1p(-share)).sum())

    low = 0.0 if hits == 0 else _share_at(lambda share: 1 - at_most(hits - 1, share), alpha / 2)
    high = 1.0 if hits == images else 1 - _share_at(lambda missed: at_most(hits, 1 - missed), alpha / 2)
    return Interval(hits / images, low, high)


def _share_at(tail: Callable[[float], float], wanted: float) -> float:
    """Where a probability that grows with a share has the wanted value, from below."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) < wanted else (low, middle)
    return low


def calibration_interval(found: Sequence[Answer], lost: int, alpha: float) -> Interval:
    """Expected calibration error in percentage points, with an interval that its bias does not shift.

    The error is the sum over bins of |d_b|, where d_b is the mean over all images of r = probability - correct of
    those in bin b. Chance makes each |d_b| larger, so the plain figure (the estimate here, as `rrr evaluate` tells
    it) is too large on average. Neither end of the interval rests on it being right:

    - The true error is sum s_b d_b in expectation, for the true signs s, and no choice of signs gives more than the
      plain figure. So that plus the half-width of *one* mean, whose variance is at most the mean of r^2, is an upper
      end.
    - For signs that were chosen on other images, sum s_b d_b is at most the true error in expectation. So the lower
      end takes the signs of each half of the images to the other, and the mean of both, less the half-width of a half.

    A half-width is that of Wilson's interval (score method), with the r of z^2 / 4 images unseen: a few images that
    all are right prove little.

    Args:
        found: answers, at least one.
        lost: images without a usable answer, each of which moves the error by at most its share.
        alpha: 1 - confidence.
    """
    probability = np.array([answer.probability for answer in found])
    residual = probability - np.array([answer.correct for answer in found])
    bins = np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)
    plain = expected_calibration_error(probability, np.array([answer.correct for answer in found]))
    spread, images = float((residual**2).mean()), len(found)
    unknown = lost / (images + lost)
    crossed = 0.0 if images == 1 else _crossed(residual, bins) - calibration_half_width(spread, images // 2, alpha)
    low, high = (
        max(min(crossed, plain) - unknown, 0.0),
        min(plain + calibration_half_width(spread, images, alpha) + unknown, 1.0),
    )
    return Interval(_POINTS * plain, _POINTS * low, _POINTS * high)


def calibration_half_width(spread: float, images: int, alpha: float) -> float:
    """How far chance moves a calibration error, as a share.

    Args:
        spread: mean square of probability - correct.
        images: of the sample.
        alpha: 1 - confidence.
    """
    z = NormalDist().inv_cdf(1 - alpha / 2)
    return z * z / (2 * images) + z * math.sqrt((spread + z * z / (4 * images)) / images)


def _crossed(residual: npt.NDArray[np.float64], bins: npt.NDArray[np.int_]) -> float:
    """The error of each half of the images by the signs of the other; the mean of both."""
    order = np.random.default_rng(0).permutation(len(residual))
    halves = [
        np.bincount(bins[part], weights=residual[part], minlength=ECE_BINS) / len(part)
        for part in np.array_split(order, 2)
    ]
    return float((np.sign(halves[0]) @ halves[1] + np.sign(halves[1]) @ halves[0]) / 2)
