"""Confidence intervals of means, percentiles, rates and their ratios from blocks of time (docs/internals/claims.md).

Blocks of one model follow each other, so their noise is autocorrelated; blocks of two models lie side by side, so what
the machine does meets both. Every estimate is a smooth function of sums over blocks, on the logarithmic scale:

* two models are compared under Mantel-Haenszel weights (n m / (n + m) of each block's n and m requests, the rate ratio
  of stratified data: Greenland & Robins, Biometrics 41, 1985): a time at which one model had more traffic than the
  other cannot pass for a difference between them, and blocks of few requests cause no bias;
* its standard error is the delete-one-block jackknife's (Miller, Biometrika 61, 1974), inflated by (1 + r) / (1 - r)
  for the blocks' lag-1 autocorrelation r, which is first freed of its downward bias (Kendall, Biometrika 41, 1954);
* the interval is Student's t, and never narrower than that of 10 batches of adjacent blocks (Schmeiser, Operations
  Research 30, 1982), which holds where correlation reaches further than one block. A single model's interval takes 5:
  what the machine does to two models side by side cancels out in their ratio, but stays in each alone;
* a percentile lies somewhere in its bucket: beyond the sampling error the interval reaches to the bucket's ends.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.blocks import Array, Blocks
from rrrserve.judge.verdicts import Interval

MIN_BLOCKS = 8
MIN_SAMPLES = 30
MIN_BEYOND = 10  # requests on either side of a percentile
_MIN_IN_BLOCK = 4  # requests of each model; blocks with fewer are merged with the next
_BATCHES, _BATCHES_OF_ONE = 10, 5
_MAX_AUTOCORRELATION = 0.9


class _Part(NamedTuple):
    """A logarithm of sums over blocks: contributions (B, K) and the function of their sums (R, K) -> (R,)."""

    contributions: Array
    log: Callable[[Array], Array]


def mean(blocks: Blocks, alpha: float) -> Interval:
    """Mean duration in seconds; `alpha` is 1 - confidence."""
    blocks = _answered(blocks)
    return _exponential(*_log_interval([_mean_part(blocks, blocks.counts)], alpha, _BATCHES_OF_ONE))


def mean_ratio(above: Blocks, below: Blocks, alpha: float) -> Interval:
    """How many times as long `above` takes as `below`, which lies beside it block by block."""
    above, below, weights = _paired(above, below)
    return _exponential(*_log_interval([_mean_part(above, weights), _mean_part(below, weights)], alpha))


def quantile(blocks: Blocks, share: float, alpha: float) -> Interval:
    """The duration in seconds that a share of requests keep below."""
    blocks = _answered(blocks)
    _check_beyond(blocks, share)
    part = _quantile_part(blocks, blocks.counts, share)
    center, half = _log_interval([part], alpha, _BATCHES_OF_ONE)
    down, up = _slack(blocks.bounds_seconds, center, half)
    coarse_down, coarse_up = _slack(blocks.bounds_seconds, center, 0.0)
    if not math.isfinite(up):
        raise UndecidableError("off_scale", f"p{100 * share:g} may lie beyond the histogram's last finite bucket")
    return Interval(
        math.exp(center),
        math.exp(center - half - down),
        math.exp(center + half + up),
        (math.exp(center - coarse_down), math.exp(center + coarse_up)),
    )


def quantile_ratio(above: Blocks, below: Blocks, share: float, alpha: float) -> Interval:
    """Ratio of two models' percentiles."""
    above, below, weights = _paired(above, below)
    parts = []
    for blocks in (above, below):
        _check_beyond(blocks, share)
        parts.append(_quantile_part(blocks, weights, share))
    center, half = _log_interval(parts, alpha)
    (one, one_half), (two, two_half) = (_log_interval([part], alpha) for part in parts)
    bounds = (above.bounds_seconds, below.bounds_seconds)
    ends = []
    for scale in (1.0, 0.0):
        one_down, one_up = _slack(bounds[0], one, scale * one_half)
        two_down, two_up = _slack(bounds[1], two, scale * two_half)
        ends.append((center - scale * half - one_down - two_up, center + scale * half + one_up + two_down))
    if not all(math.isfinite(end) for end in ends[0]):
        raise UndecidableError(
            "off_scale",
            f"p{100 * share:g} may lie in the histogram's first or last bucket, which have one end only",
        )
    (low, high), coarse = (tuple(math.exp(end) for end in pair) for pair in ends)
    return Interval(math.exp(center), low, high, (coarse[0], coarse[1]))


def rate(blocks: Blocks, alpha: float) -> Interval:
    """Requests a second."""
    _check_samples(blocks)
    _merged([blocks])
    contributions = np.stack([blocks.counts, blocks.seconds], axis=1)
    part = _Part(contributions, lambda sums: np.log(sums[:, 0] / sums[:, 1]))
    return _exponential(*_log_interval([part], alpha, _BATCHES_OF_ONE))


def _exponential(center: float, half: float) -> Interval:
    return Interval(math.exp(center), math.exp(center - half), math.exp(center + half))


def _answered(blocks: Blocks) -> Blocks:
    """Blocks in each of which requests ended."""
    _check_samples(blocks)
    (blocks,) = _merged([blocks])
    return blocks


def _paired(above: Blocks, below: Blocks) -> tuple[Blocks, Blocks, Array]:
    """Blocks in each of which both answered, and their Mantel-Haenszel weights."""
    _check_samples(above)
    _check_samples(below)
    above, below = _merged([above, below])
    return above, below, above.counts * below.counts / (above.counts + below.counts)


def _merged(side_by_side: list[Blocks]) -> list[Blocks]:
    """Merge neighbours until every model has a few requests in every block; what is left joins the last block."""
    starts = [0]
    gathered = np.zeros(len(side_by_side))
    for index, counts in enumerate(zip(*(blocks.counts for blocks in side_by_side), strict=True)):
        gathered += counts
        if (gathered >= _MIN_IN_BLOCK).all():
            starts.append(index + 1)
            gathered[:] = 0
    starts = starts[:-1]
    if len(starts) < MIN_BLOCKS:
        raise UndecidableError(
            "too_few_blocks",
            f"{len(starts)} blocks of time with answers of {'both' if len(side_by_side) > 1 else 'it'}: "
            f"an interval needs {MIN_BLOCKS}; measure longer",
        )
    return [
        Blocks(
            np.add.reduceat(blocks.seconds, starts),
            np.add.reduceat(blocks.counts, starts),
            np.add.reduceat(blocks.totals_seconds, starts),
            blocks.bounds_seconds,
            np.add.reduceat(blocks.buckets, starts, axis=0),
        )
        for blocks in side_by_side
    ]


def _check_samples(blocks: Blocks) -> None:
    if blocks.counts.sum() < MIN_SAMPLES:
        raise UndecidableError(
            "too_few_samples", f"{blocks.counts.sum():g} requests: an interval needs at least {MIN_SAMPLES}"
        )


def _check_beyond(blocks: Blocks, share: float) -> None:
    if not len(blocks.bounds_seconds):
        raise UndecidableError("untrusted_metric", "this metric has sums only: it gives means, not percentiles")
    needed = math.ceil(MIN_BEYOND / min(share, 1 - share) - 1e-9)
    if blocks.counts.sum() < needed:
        raise UndecidableError(
            "too_few_samples",
            f"{blocks.counts.sum():g} requests: p{100 * share:g} needs {needed}, {MIN_BEYOND} of them beyond it",
        )


def _mean_part(blocks: Blocks, weights: Array) -> _Part:
    contributions = np.stack([weights * blocks.totals_seconds / blocks.counts, weights], axis=1)
    if (contributions[:, 0].sum()) <= 0:
        raise UndecidableError("bad_metrics", "the durations add up to 0 seconds although requests were answered")
    return _Part(contributions, lambda sums: np.log(sums[:, 0] / sums[:, 1]))


def _quantile_part(blocks: Blocks, weights: Array, share: float) -> _Part:
    inside = blocks.buckets.sum(axis=1)
    shares = np.cumsum(blocks.buckets, axis=1) / np.where(inside > 0, inside, 1.0)[:, None]
    return _Part(
        weights[:, None] * shares, lambda sums: np.log(interpolated_quantile(sums, blocks.bounds_seconds, share))
    )


def interpolated_quantile(cumulative: Array, bounds: Array, share: float) -> Array:
    """As PromQL's histogram_quantile: linear within the bucket, which begins at 0 if it is the first.

    Args:
        cumulative: weights of requests at or below each bound; shape (R, K).
        bounds: upper bounds of the buckets, shape (K,).
        share: of requests below the quantile.

    Returns:
        Shape (R,).

    Raises:
        UndecidableError: it lies beyond the last finite bound.
    """
    rows = np.arange(len(cumulative))
    wanted = share * cumulative[:, -1]
    index = (cumulative >= wanted[:, None]).argmax(axis=1)
    if not np.isfinite(bounds[index]).all():
        finite = bounds[np.isfinite(bounds)]
        raise UndecidableError(
            "off_scale", f"p{100 * share:g} lies beyond the last bucket, {finite[-1] if len(finite) else 0:g} s"
        )
    padded = np.concatenate([np.zeros((len(rows), 1)), cumulative], axis=1)
    begin, end = padded[rows, index], padded[rows, index + 1]
    lower, upper = np.concatenate([[0.0], bounds])[index], bounds[index]
    found: Array = lower + (upper - lower) * np.where(
        end > begin, (wanted - begin) / np.maximum(end - begin, 1e-300), 1.0
    )
    return found


def _slack(bounds: Array, center: float, half: float) -> tuple[float, float]:
    """How far the buckets' ends lie beyond center -+ half, on the logarithmic scale; infinite below the first bound."""
    edges = np.concatenate([[0.0], bounds])
    begin = edges[np.searchsorted(bounds, math.exp(center - half) * (1 - 1e-12))]
    end = bounds[min(int(np.searchsorted(bounds, math.exp(center + half) * (1 - 1e-12))), len(bounds) - 1)]
    down = center - half - math.log(begin) if begin > 0 else math.inf
    up = math.log(end) - center - half if math.isfinite(end) else math.inf
    return max(down, 0.0), max(up, 0.0)


def _log_interval(parts: list[_Part], alpha: float, batches: int = _BATCHES) -> tuple[float, float]:
    """The estimate's logarithm and half of its interval's width.

    Args:
        parts: one, or two whose difference is estimated.
        alpha: 1 - confidence.
        batches: of adjacent blocks, whose interval is the narrowest that is given.
    """
    signs = (1.0, -1.0)
    blocks = len(parts[0].contributions)

    def left_out(groups: list[Array]) -> Array:
        return sum(
            (
                sign
                * part.log(np.array([part.contributions.sum(0) - part.contributions[group].sum(0) for group in groups]))
                for sign, part in zip(signs, parts, strict=False)
            ),
            start=np.zeros(len(groups)),
        )

    whole = sum(
        sign * float(part.log(part.contributions.sum(0)[None])[0]) for sign, part in zip(signs, parts, strict=False)
    )
    singles = left_out(list(np.arange(blocks)[:, None]))
    half = _half_width(singles, alpha, correct=True)
    if blocks > batches:
        batched = left_out(np.array_split(np.arange(blocks), batches))
        half = max(half, _half_width(batched, alpha, correct=False))
    return whole, half


def _half_width(left_out: Array, alpha: float, *, correct: bool) -> float:
    """Student's half width from the estimates with each group left out, in the groups' order in time."""
    groups = len(left_out)
    deviations = left_out - left_out.mean()
    squares = float((deviations**2).sum())
    variance = squares * (groups - 1) / groups
    inflation = 1.0
    if correct and squares > 0:
        raw = float((deviations[1:] * deviations[:-1]).sum()) / squares
        unbiased = min(max((groups * raw + 1) / (groups - 4), 0.0), _MAX_AUTOCORRELATION)
        inflation = (1 + unbiased) / (1 - unbiased)
    freedom = max((groups - 1) / inflation, 2.0)
    return math.sqrt(variance * inflation) * float(stdtrit(freedom, 1 - alpha / 2))
