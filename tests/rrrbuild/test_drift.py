"""Drift is told within 500 answers and, whatever the reference, hardly ever where there is none."""

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rrrbuild.confidence.drift import FALSE_ALARMS, HORIZON, STATISTICS, STEP, DriftDetector, distance, limit, reference

MEMBERS, CLASSES = 4, 5


def answers(random: np.random.Generator, count: int, doubt: float) -> npt.NDArray[np.float64]:
    """Agreement, entropy and members used of `count` images: the more doubt, the more often all members are asked."""
    entropy = random.gamma(0.5, doubt, count)
    agreement = 1 - random.binomial(MEMBERS, np.minimum(entropy / 4, 0.7)) / MEMBERS
    return np.column_stack((agreement, entropy, np.where(entropy > 0.4, MEMBERS, 2)))


def document(sample: npt.NDArray[np.float64]) -> dict[str, Any]:
    """A reference of such answers."""
    found: dict[str, Any] = {"images": len(sample), "effort": "auto"}
    for name, column in zip(STATISTICS, sample.round(3).T, strict=True):
        values, counts = np.unique(column, return_counts=True)
        found[name] = {"values": values.tolist(), "counts": counts.tolist()}
    return found


def alarm_at(detector: DriftDetector, stream: npt.NDArray[np.float64]) -> int | None:
    """After how many answers the score reaches 1."""
    for index, (agreement, entropy, used) in enumerate(stream.tolist(), 1):
        if detector.observe(agreement, entropy, int(used)) and detector.score >= 1:
            return index
    return None


def false_alarms(images: int, times: int, length: int) -> int:
    random, count = np.random.default_rng(images), 0
    for _ in range(times):
        detector = DriftDetector(document(answers(random, images, 0.3)))
        count += alarm_at(detector, answers(random, length, 0.3)) is not None
    return count


def exact_p_value(images: int, count: int, at_least: float) -> float:
    """Chance that two samples of one continuous distribution are so far apart, by counting lattice paths (Hodges 1957).

    Going on by one from the first sample or from the second, in random order, never leaves the band.
    """
    inside = np.zeros(count + 1)
    seconds = np.arange(count + 1)
    for first in range(images + 1):
        allowed = np.abs(first / images - seconds / count) < at_least - 1e-12
        row = inside * (first / (first + seconds).clip(1))
        if first == 0:
            row[0] = 1.0
        for second in range(count + 1):
            before = row[second - 1] * second / (first + second) if second else 0.0
            row[second] = row[second] + before if allowed[second] else 0.0
        inside = row
    return float(1 - inside[-1])


def test_a_reference_counts_the_members_asked_and_the_doubt_told() -> None:
    probabilities = np.full((100, 2, 2), np.nan)
    probabilities[:, 0] = [0.9, 0.1]
    probabilities[60:, 1] = [0.2, 0.8]
    calibrated = np.array([[1.0, 0.0]] * 60 + [[0.5, 0.5]] * 40)
    found = reference(probabilities, calibrated, effort="auto")
    assert found is not None
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "images": 100,
        "effort": "auto",
        "agreement": {"values": [0.5, 1.0], "counts": [40, 60]},
        "entropy": {"values": [0.0, 0.693], "counts": [60, 40]},
        "members_used": {"values": [1.0, 2.0], "counts": [60, 40]},
    }
    assert reference(probabilities[:99], calibrated[:99], effort="auto") is None


def test_the_distance_is_the_largest_between_the_distribution_functions() -> None:
    values, cumulative = np.array([0.0, 1.0]), np.array([0.0, 0.5, 1.0])
    assert distance(values, cumulative, np.array([1.0, 0.0])) == 0.0
    assert distance(values, cumulative, np.array([0.5, 0.5, 1.0, 0.0])) == pytest.approx(0.25)
    assert distance(values, cumulative, np.array([2.0])) == 1.0


@pytest.mark.parametrize(("images", "count"), [(100, 100), (100, 400), (400, 100)])
def test_a_look_errs_no_more_often_than_its_share(images: int, count: int) -> None:
    share = FALSE_ALARMS / (3 * HORIZON / STEP)
    assert exact_p_value(images, count, limit(images, count)) <= share


@pytest.mark.parametrize("images", [100, 300, 1000])
def test_drift_is_told_within_500_answers(images: int) -> None:
    random = np.random.default_rng(images)
    detector = DriftDetector(document(answers(random, images, 0.3)))
    assert alarm_at(detector, answers(random, 500, 0.3)) is None
    assert 0 <= detector.score < 0.8
    told = alarm_at(detector, answers(random, 500, 1.5))
    assert told is not None
    assert told <= 500


def test_a_small_reference_asks_for_more_than_a_large_one() -> None:
    assert [round(limit(images, 400), 3) for images in (100, 300, 1000)] == [0.286, 0.195, 0.151]
    assert math.isclose(limit(100, 400), limit(400, 100))


@pytest.mark.parametrize("images", [100, 1000])
def test_good_answers_are_no_drift(images: int) -> None:
    assert false_alarms(images, 2, 2000) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("images", [100, 300, 1000])
def test_twenty_thousand_good_answers_are_no_drift_for_any_reference(images: int) -> None:
    assert false_alarms(images, 50, HORIZON) == 0
