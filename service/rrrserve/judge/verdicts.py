"""Verdicts: pass if the whole interval satisfies the bound, fail if none of it does, else undecided."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rrrserve.claims.kinds import AnyClaim, Bound
from rrrserve.claims.reasons import UndecidableError

PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"


class Interval(NamedTuple):
    """An estimate and its confidence interval, in a claim's unit.

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


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: it.
        verdict: `pass`, `fail` or `undecided`.
        reason: a key of `REASONS`.
        explanation: a sentence for people.
        interval: estimate and confidence interval in the claim's unit, or None.
        samples: requests or images it rests on, by model.
        evidence: figures behind it, JSON-ready.
        queries: PromQL or commands that reproduce it.
    """

    claim: AnyClaim
    verdict: str
    reason: str
    explanation: str
    interval: Interval | None = None
    samples: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    queries: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As docs/internals/formats.md describes it."""
        interval = self.interval
        return {
            "name": self.claim.name,
            "kind": self.claim.kind,
            "sentence": self.claim.sentence,
            "verdict": self.verdict,
            "reason": self.reason,
            "explanation": self.explanation,
            "estimate": None if interval is None else interval.value,
            "interval": None if interval is None else [interval.low, interval.high],
            "bound": self.claim.bound.to_json(),
            "unit": unit_of(self.claim),
            "models": list(self.claim.models),
            "samples": self.samples,
            "evidence": self.evidence,
            "queries": list(self.queries),
        }


def unit_of(claim: AnyClaim) -> str:
    """The unit of a claim's bound and estimate."""
    if claim.kind in ("parameters", "macs", "engine_bytes"):
        return "x" if len(claim.models) > 1 else "bytes" if claim.kind == "engine_bytes" else ""
    return claim.unit


def judge(interval: Interval, bound: Bound, unit: str, *, remedy: str) -> tuple[str, str, str]:
    """Verdict, reason and explanation.

    Args:
        interval: estimate and interval in the bound's unit.
        bound: what is claimed.
        unit: for the explanation.
        remedy: what to do about an interval that is too wide.
    """
    found = f"{figure(interval.value)} ({figure(interval.low)} to {figure(interval.high)})"
    found = f"{found} {unit}".rstrip()
    limits = bound.text(unit)
    if _inside(interval.low, interval.high, bound):
        return PASS, "bound_met", f"measured {found}: {limits}, as claimed"
    if _outside(interval.low, interval.high, bound):
        return FAIL, "bound_missed", f"measured {found}, which is not {limits}"
    if interval.coarse is not None and not (_inside(*interval.coarse, bound) or _outside(*interval.coarse, bound)):
        low, high = (figure(end) for end in interval.coarse)
        return (
            UNDECIDED,
            "bucket_too_coarse",
            f"measured {found}; the histogram's buckets alone leave {low} to {high} open, and the bound, {limits}, "
            "lies in between: claim the mean, or verify from a result of rrr bench, which keeps finer histograms",
        )
    return UNDECIDED, "interval_straddles_bound", f"measured {found}; the bound, {limits}, lies in between: {remedy}"


def undecided(claim: AnyClaim, error: UndecidableError, queries: tuple[str, ...] = ()) -> Verdict:
    """The verdict on a claim without an estimate."""
    return Verdict(claim, UNDECIDED, error.reason, str(error), samples=error.samples, queries=queries)


def agreed(asked: Verdict, scraped: Verdict) -> Verdict:
    """One verdict of two on the same claim and time: Prometheus's, if what was scraped says the same."""
    one, two = asked.interval, scraped.interval
    other: dict[str, Any] = {"verdict": scraped.verdict, "reason": scraped.reason}
    if two is not None:
        other |= {"estimate": two.value, "interval": [two.low, two.high]}
    both = replace(asked, evidence={**asked.evidence, "scraped": other})
    if one is not None and two is not None and not (one.low <= two.high and two.low <= one.high):
        text = f"by Prometheus {asked.explanation}; but scraped {scraped.explanation}: the two exclude each other"
        return replace(both, verdict=UNDECIDED, reason="sources_disagree", explanation=text)
    if asked.verdict != UNDECIDED and asked.verdict != scraped.verdict:
        text = f"by Prometheus {asked.explanation}; but scraped: {scraped.explanation}"
        return replace(both, verdict=UNDECIDED, reason=scraped.reason, explanation=text)
    return both


def by_scrapes_alone(scraped: Verdict, why: str) -> Verdict:
    """The verdict on a claim of which Prometheus cannot see the same as our scrapes; says so."""
    note = f"by scrapes alone, without Prometheus: {why}"
    evidence = {**scraped.evidence, "scrapes_alone": why}
    return replace(scraped, evidence=evidence, explanation=f"{scraped.explanation}; {note}")


def figure(value: float) -> str:
    """Four digits at most, none of them a power of ten below a million."""
    if abs(value) >= 1e6:
        return f"{value:.4g}"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1e4 else f"{value:.4g}"


def _inside(low: float, high: float, bound: Bound) -> bool:
    return (bound.low is None or low >= bound.low) and (bound.high is None or high <= bound.high)


def _outside(low: float, high: float, bound: Bound) -> bool:
    return (bound.low is not None and high < bound.low) or (bound.high is not None and low > bound.high)
