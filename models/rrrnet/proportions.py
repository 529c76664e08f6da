"""Confidence intervals of shares of images, and of differences between shares. Pure functions."""

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """An estimate and its confidence interval.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def proportion(hits: float, images: int, alpha: float) -> Interval:
    """A share (Wilson, Journal of the American Statistical Association 22, 1927): good down to few images.

    Args:
        hits: images that count; a fraction where the share is a mean over draws.
        images: of all, at least 1.
        alpha: 1 - confidence.
    """
    z, share = NormalDist().inv_cdf(1 - alpha / 2), hits / images
    total = images + z * z
    center, half = (hits + z * z / 2) / total, z * math.sqrt(share * (1 - share) * images + z * z / 4) / total
    # The exact limits at 0 and 1 are lost to rounding.
    return Interval(share, 0.0 if hits == 0 else center - half, 1.0 if hits == images else center + half)


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
