"""Tells Prometheus how far a model's answers are from those to its calibration images."""

import math
from collections.abc import Mapping
from typing import Any

from rrrbuild.confidence.drift import DriftDetector
from rrrbuild.repository_document import ServedModel
from rrrserve.metrics.instruments import DRIFT_SCORE


class DriftWatch:
    """One model's detector in one HTTP worker; each worker sees its own answers only."""

    def __init__(self, model: ServedModel) -> None:
        """Begin anew: NaN, so that no score of an earlier version stays, until the first look."""
        drift = None if model.confidence is None else model.confidence.drift
        self._detector = None if drift is None else DriftDetector(drift)
        self._gauge = DRIFT_SCORE.labels(model.name)
        self._gauge.set(math.nan)

    def observe(self, result: Mapping[str, Any]) -> None:
        """Take an answer (see `rrrserve.api.answer.answer`); partial ones and those of other efforts do not count."""
        detector = self._detector
        if detector is None or result["partial"] or result["effort"] != detector.effort:
            return
        doubt = result["uncertainty"]
        if detector.observe(doubt["agreement"], doubt["entropy"], result["members_used"]):
            self._gauge.set(detector.score)
