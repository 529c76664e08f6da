"""What a build found out about an engine's answers, as manifest and repository keep it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild.cascade_runner import FULL
from rrrbuild.confidence import conformal
from rrrbuild.confidence.temperature import tempered


@dataclass(frozen=True)
class Confidence:
    """Temperatures and scores, fitted on images that no gradient step saw.

    Attributes:
        images: how many those are.
        source: where they come from, for people.
        temperature: by effort, of the mean over the members asked.
        member_temperature: of what each member tells.
        scores: by effort, conformal scores of the right labels, ascending (see `conformal.scores_of`).
        before: by effort, `accuracy`, `nll`, `ece` and `brier` of the mean as it is, on images that fitted nothing.
        after: by effort, the same at the temperature.
        coverage: by effort and nominal coverage ("0.90"), `coverage`, `mean_size` and `by_class` of the sets, on images
            that fitted nothing.
        drift: reference distributions of the answers (see `drift`), None where there are too few images.
    """

    images: int
    source: str
    temperature: Mapping[str, float]
    member_temperature: float
    scores: Mapping[str, tuple[float, ...]]
    before: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    after: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    coverage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    drift: Mapping[str, Any] | None = None

    def mean(self, mean: npt.NDArray[np.floating[Any]], effort: str = FULL) -> npt.NDArray[np.float64]:
        """The calibrated mean, shape (..., C), of a mean of members that answered by an effort."""
        return tempered(mean, self.temperature.get(effort, 1.0))

    def members(self, probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Calibrated probabilities of members, shape (..., M, C)."""
        return tempered(probabilities, self.member_temperature)

    def set_limit(self, effort: str, coverage: float) -> float | None:
        """See `conformal.threshold`; None where there are no scores for that effort."""
        scores = self.scores.get(effort)
        return None if not scores else conformal.threshold(scores, coverage)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        return {**asdict(self), "scores": {effort: list(scores) for effort, scores in self.scores.items()}}

    def summary(self) -> dict[str, Any]:
        """A JSON-ready dict without what there is of every image.

        In place of its scores each effort has their `count`, and by nominal coverage the `limits` of sets, None where
        so few scores promise none; of `drift` only `images` and `effort` are told.
        """
        scores = {}
        for effort, row in self.scores.items():
            limits = {nominal: conformal.threshold(row, float(nominal)) for nominal in self.coverage.get(effort, {})}
            told = {nominal: limit if math.isfinite(limit) else None for nominal, limit in limits.items()}
            scores[effort] = {"count": len(row), "limits": told}
        drift = None if self.drift is None else {key: self.drift[key] for key in ("images", "effort")}
        return {**asdict(self), "scores": scores, "drift": drift}

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> "Confidence | None":
        """Read what `to_json` wrote; None for None. Keys of a later version are let pass."""
        if values is None:
            return None
        known = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
        return cls(**known | {"scores": {effort: tuple(scores) for effort, scores in values["scores"].items()}})
