"""What Prometheus is told about drift: nothing before there is something to tell."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from rrrbuild.confidence.drift import LEAST, STEP, reference
from rrrbuild.confidence.record import Confidence
from rrrbuild.repository_document import ServedModel
from rrrnet.images.preprocess import Preprocess
from rrrserve.api.drift import DriftWatch

PLAIN = ServedModel("watched", "1", "t", "python", 2, 1, ("a", "b"), Preprocess(32), 32, 1, 1, ("probabilities",))
GOOD = {"uncertainty": {"agreement": 1.0, "entropy": 0.098}, "members_used": 2, "partial": False, "effort": "full"}
BAD = {**GOOD, "uncertainty": {"agreement": 0.5, "entropy": 0.6}}


@pytest.fixture
def model() -> ServedModel:
    """With a reference of 200 answers in agreement."""
    calibrated = np.full((200, 2), [0.98, 0.02])
    drift = reference(np.repeat(calibrated[:, None], 2, axis=1), calibrated, effort="full")
    own: dict[str, Any] = {key: {} for key in ("temperature", "scores", "before", "after", "coverage")}
    return replace(PLAIN, confidence=Confidence(images=200, source="tests", member_temperature=1.0, drift=drift, **own))


def score() -> float:
    found = REGISTRY.get_sample_value("rrr_drift_score", {"model": PLAIN.name})
    assert found is not None
    return found


def test_the_score_is_not_a_number_before_the_first_look_and_without_a_reference(model: ServedModel) -> None:
    watch = DriftWatch(model)
    for _ in range(LEAST - 1):
        watch.observe(GOOD)
        assert math.isnan(score())
    watch.observe(GOOD)
    assert 0 <= score() < 1
    DriftWatch(model)  # of a new version
    assert math.isnan(score())
    without = DriftWatch(PLAIN)
    for _ in range(LEAST):
        without.observe(GOOD)
    assert math.isnan(score())


def test_partial_answers_and_those_of_other_efforts_do_not_count(model: ServedModel) -> None:
    watch = DriftWatch(model)
    for _ in range(LEAST):
        watch.observe({**BAD, "partial": True})
        watch.observe({**BAD, "effort": "fast"})
    assert math.isnan(score())
    for _ in range(LEAST + STEP):
        watch.observe(BAD)
    assert score() > 1
