"""A claim about time, judged from blocks of whatever source."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rrrserve.claims.kinds import QUANTILES, Latency, Speedup, Throughput, Timed
from rrrserve.claims.levels import LEVELS, Window, promql, promql_rate
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.blocks import Blocks, no_traffic
from rrrserve.judge import intervals
from rrrserve.judge.verdicts import FAIL, PASS, UNDECIDED, Interval, Verdict, judge, undecided

_MS = 1000.0


class Evidence(Protocol):
    """Where blocks come from.

    Attributes:
        remedy: what to do about an interval that is too wide.
        saturated: whether the load was as high as the claim's concurrency, so that a low rate means a slow model.
    """

    remedy: str
    saturated: bool

    def blocks(self, models: Sequence[str], level: str, concurrency: int | None) -> tuple[list[Blocks], dict[str, Any]]:
        """Blocks of each model, side by side, and what is worth noting about them.

        Args:
            models: whose.
            level: a key of `LEVELS`.
            concurrency: of the load where the claim names one.

        Raises:
            UndecidableError: there is no such evidence.
        """

    def queries(self, claim: Timed, promql: Sequence[str]) -> tuple[str, ...]:
        """The PromQL of a claim, which is given, or what reproduces it in its place."""

    def window(self) -> Window | None:
        """The time that was looked at, if it can be asked for."""

    def direct(self, claim: Timed) -> Verdict | None:
        """A verdict that needs no blocks, if the source has one."""


def evaluate(claim: Timed, evidence: Evidence, alpha: float) -> Verdict:
    """The verdict on a claim about time.

    Args:
        claim: to judge.
        evidence: where to look.
        alpha: 1 - confidence.
    """
    level = claim.level if not isinstance(claim, Throughput) else "http"
    window = evidence.window()
    queries = evidence.queries(claim, [] if window is None else _queries(claim, level, window))
    samples: dict[str, int] = {}
    try:
        direct = evidence.direct(claim)
        if direct is not None:
            return direct
        concurrency = claim.concurrency if isinstance(claim, Throughput) else None
        found, notes = evidence.blocks(claim.models, level, concurrency)
        samples = {model: round(blocks.counts.sum()) for model, blocks in zip(claim.models, found, strict=True)}
        for model, count in samples.items():
            if count == 0:
                raise no_traffic(model, LEVELS[level])
        notes = {"blocks": len(found[0].counts), "confidence": 1 - alpha, **notes, **_figures(claim, found)}
        if isinstance(claim, Throughput):
            return _throughput(claim, found[0], evidence, alpha, samples, notes, queries)
        interval = _interval(claim, found, alpha)
    except UndecidableError as error:
        error.samples = error.samples or samples
        return undecided(claim, error, queries)
    verdict, reason, text = judge(interval, claim.bound, claim.unit, remedy=evidence.remedy)
    return Verdict(claim, verdict, reason, text + _dropped(notes), interval, samples, notes, queries)


def _interval(claim: Speedup | Latency, found: list[Blocks], alpha: float) -> Interval:
    if isinstance(claim, Speedup):
        model, baseline = found
        if claim.statistic == "mean":
            return intervals.mean_ratio(baseline, model, alpha)
        return intervals.quantile_ratio(baseline, model, QUANTILES[claim.statistic], alpha)
    if claim.statistic == "mean":
        return _scaled(intervals.mean(found[0], alpha), _MS)
    return _scaled(intervals.quantile(found[0], QUANTILES[claim.statistic], alpha), _MS)


def _scaled(interval: Interval, factor: float) -> Interval:
    value, low, high, coarse = interval
    scaled = None if coarse is None else (coarse[0] * factor, coarse[1] * factor)
    return Interval(value * factor, low * factor, high * factor, scaled)


def _throughput(
    claim: Throughput,
    blocks: Blocks,
    evidence: Evidence,
    alpha: float,
    samples: dict[str, int],
    notes: dict[str, Any],
    queries: tuple[str, ...],
) -> Verdict:
    """Both halves must hold, so each gets half of alpha."""
    found = intervals.rate(blocks, alpha / 2)
    p99 = _scaled(intervals.quantile(blocks, QUANTILES["p99"], alpha / 2), _MS)
    notes = {**notes, "p99_ms": [p99.value, p99.low, p99.high]}
    verdict, reason, text = judge(found, claim.bound, claim.unit, remedy=evidence.remedy)
    slow = f"p99 is {p99.value:.4g} ({p99.low:.4g} to {p99.high:.4g}) ms, and at most {claim.p99_ms:g} ms are claimed"
    if verdict == FAIL and not evidence.saturated:
        verdict, reason = UNDECIDED, "not_saturated"
        text += "; nothing tells whether more was asked for: --drive asks for all it can give, and rrr bench too"
    elif p99.low > claim.p99_ms:
        verdict, reason, text = FAIL, "bound_missed", f"{text}; {slow}"
    elif p99.high > claim.p99_ms and verdict == PASS:
        verdict, reason, text = UNDECIDED, "interval_straddles_bound", f"{text}; but {slow}"
    return Verdict(claim, verdict, reason, text + _dropped(notes), found, samples, notes, queries)


def _figures(claim: Timed, found: Sequence[Blocks]) -> dict[str, Any]:
    """Means, and the claim's figure of all requests together: what the PromQL of `_queries` gives, without weights."""
    means = {
        model: _MS * float(blocks.totals_seconds.sum() / blocks.counts.sum())
        for model, blocks in zip(claim.models, found, strict=True)
    }
    try:
        pooled = _pooled(claim, found)
    except UndecidableError:  # a percentile beyond the last bucket
        pooled = None
    return {"mean_ms": means, "pooled": pooled}


def _pooled(claim: Timed, found: Sequence[Blocks]) -> float | None:
    if isinstance(claim, Throughput):
        return float(found[0].counts.sum() / found[0].seconds.sum())
    figures = [_pooled_statistic(blocks, claim.statistic) for blocks in found]
    if None in figures or not figures[0]:
        return None
    of_model = figures[0]
    return _MS * of_model if isinstance(claim, Latency) else float(figures[1] or 0.0) / of_model


def _pooled_statistic(blocks: Blocks, statistic: str) -> float | None:
    """In seconds."""
    if statistic == "mean":
        return float(blocks.totals_seconds.sum() / blocks.counts.sum())
    cumulative = np.cumsum(blocks.buckets.sum(axis=0))[None]
    if not cumulative.any():
        return None
    return float(intervals.interpolated_quantile(cumulative, blocks.bounds_seconds, QUANTILES[statistic])[0])


def _dropped(notes: dict[str, Any]) -> str:
    count = notes.get("dropped_blocks", 0)
    return (
        f"; {count} of {notes['blocks']} blocks were left out: a counter was reset or a target down, or it was reloaded"
        if count
        else ""
    )


def _queries(claim: Timed, level_name: str, window: Window) -> list[str]:
    level = LEVELS[level_name]
    if isinstance(claim, Throughput):
        return [promql_rate(level, claim.model, window), f"1000 * ({promql(level, claim.model, 'p99', window)})"]
    one: Callable[[str], str] = lambda model: promql(level, model, claim.statistic, window)  # noqa: E731  used twice
    if isinstance(claim, Speedup):
        return [f"({one(claim.baseline)}) / ({one(claim.model)})"]
    return [f"1000 * ({one(claim.model)})"]
