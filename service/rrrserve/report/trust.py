"""What an engine's manifest tells of its cascade and of its probabilities, and predictions as it answers with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrrbuild.cascade_runner import AUTO, FULL
from rrrbuild.confidence.record import Confidence
from rrrbuild.confidence.thresholds import expected_cost_ms
from rrrbuild.evaluation import answer_scores
from rrrbuild.manifest import Manifest
from rrrnet.training.metrics import mean_of_members
from rrrserve.report.calibration import Floats, Labels


@dataclass(frozen=True)
class Answers:
    """Predictions of N images, and what is answered by them.

    Attributes:
        probabilities: of M members and C classes, shape (N, M, C); NaN for members that were not asked.
        labels: shape (N,).
        files: the N images; None if they are not known.
        source: where they come from, for people.
        effort: by which they were answered.
        confidence: of the engine that gave them; None for PyTorch and for engines without a record.
    """

    probabilities: Floats
    labels: Labels
    files: Sequence[Path] | None
    source: str
    effort: str = FULL
    confidence: Confidence | None = None

    @property
    def calibrated(self) -> Floats | None:
        """The calibrated mean, shape (N, C); None where the mean is answered as it is."""
        mean = mean_of_members(self.probabilities)
        return None if self.confidence is None else self.confidence.mean(mean, self.effort)

    def scores(self) -> dict[str, Any]:
        """See `answer_scores`."""
        return answer_scores(self.probabilities, self.labels, self.confidence, self.effort)


def trust_section(engine: Manifest) -> dict[str, Any]:
    """`cascade` and `confidence` of an engine, each None or with a reason beside; scores and references are left out.

    Each point of the cascade's `curve` has `expected_ms` too, by batch size.
    """
    return {
        "cascade": None if engine.cascade is None else _cascade(engine.cascade),
        "cascade_reason": engine.cascade_reason,
        "confidence": None if engine.confidence is None else _confidence(engine.confidence, engine.labels),
        "confidence_reason": engine.confidence_reason,
    }


def _cascade(found: Mapping[str, Any]) -> dict[str, Any]:
    first, rest = ({int(size): value for size, value in found["cost_ms"][part].items()} for part in ("first", "rest"))
    points = [
        {**point, "expected_ms": {str(size): cost for size, cost in expected.items()}}
        for point in found["curve"]
        for expected in [expected_cost_ms(first, rest, point["share_early"])]
    ]
    return {**found, "curve": points}


def _confidence(found: Confidence, labels: Sequence[str]) -> dict[str, Any]:
    usual = AUTO if AUTO in found.coverage else FULL
    sets = found.coverage.get(usual, {})
    return {
        "images": found.images,
        "source": found.source,
        "temperature": dict(found.temperature),
        "member_temperature": found.member_temperature,
        "before": {effort: dict(row) for effort, row in found.before.items()},
        "after": {effort: dict(row) for effort, row in found.after.items()},
        "coverage": [
            {"effort": effort, "wanted": float(nominal), **{key: row[key] for key in ("coverage", "mean_size")}}
            for effort, rows in found.coverage.items()
            for nominal, row in rows.items()
        ],
        "coverage_by_class": [
            {"label": label, **{nominal: row["by_class"][index] for nominal, row in sets.items()}}
            for index, label in enumerate(labels)
        ]
        if sets
        else [],
        "coverage_effort": usual,
        "drift_reference": found.drift is not None,
    }
