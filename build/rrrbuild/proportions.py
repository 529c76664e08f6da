"""Confidence intervals of shares of images, and of differences between shares."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from rrrbuild.confidence.wilson import wilson_limits


class Interval(NamedTuple):
    """An estimate and its confidence interval.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
        coarse: what would be left of the interval with endless samples: the bucket's width; None for exact counts.
    """

    value: float
    low: float
    high: float
    coarse: tuple[float, float] | None = None


def proportion(hits: int, images: int, alpha: float) -> Interval:
    """A share, with Wilson's limits.

    Args:
        hits: images that count.
        images: of all.
        alpha: 1 - confidence.
    """
    low, high = wilson_limits(hits, images, NormalDist().inv_cdf(1 - alpha / 2))
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


def difference(one: tuple[int, int], two: tuple[int, int], alpha: float) -> Interval:
    """A share less another of different images (Newcombe, Statistics in Medicine 17, 1998, his method 10).

    Args:
        one: hits and images of the first.
        two: of the second.
        alpha: 1 - confidence.
    """
    first, second = proportion(*one, alpha), proportion(*two, alpha)
    value = first.value - second.value
    low = math.hypot(first.value - first.low, second.high - second.value)
    high = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - low, value + high)


def changed(gain: int, moved: int, images: int, alpha: float) -> Interval:
    """A share less another of the same images, with half an image added to each cell of their table.

    Source: Agresti and Min, Statistics in Medicine 24, 2005.

    Args:
        gain: hits of the first less hits of the second.
        moved: images on which they differ, at most: what is not known of them counts as noise.
        images: of all.
        alpha: 1 - confidence.
    """
    z = NormalDist().inv_cdf(1 - alpha / 2)
    total = images + 2
    center = gain / total
    half = z * math.sqrt(max((moved + 1) - gain * gain / total, 0.0)) / total
    return Interval(gain / images, max(center - half, -1.0), min(center + half, 1.0))
