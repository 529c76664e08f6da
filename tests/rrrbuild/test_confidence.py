"""What answers are worth: temperatures, sets with a guarantee, and the threshold above which some members suffice."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rrrbuild.cascade_runner import AUTO, FAST, FULL, answered_by
from rrrbuild.confidence import conformal, thresholds
from rrrbuild.confidence.fit import fit_confidence
from rrrbuild.confidence.order import greedy_order
from rrrbuild.confidence.record import Confidence
from rrrbuild.confidence.temperature import fit_temperature, tempered
from rrrnet.training.metrics import mean_of_members, score_mean

Floats = npt.NDArray[np.floating[Any]]


def softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def images(count: int, seed: int, members: int = 4, classes: int = 10) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Probabilities (N, M, C) half as sure as they could be, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)) * 3
    labels = np.array([random.choice(classes, p=row) for row in softmax(logits)])
    noisy = logits[:, None] / 2 + random.normal(size=(count, members, classes)) * 0.2
    return softmax(noisy).astype(np.float32), labels


def test_a_temperature_of_one_half_is_found_where_answers_are_half_as_sure_as_they_should_be() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 6)) * 3
    labels = np.array([random.choice(6, p=row) for row in softmax(logits)])
    timid = softmax(logits / 2)

    assert fit_temperature(timid, labels) == pytest.approx(0.5, abs=0.03)
    assert fit_temperature(softmax(logits), labels) == pytest.approx(1.0, abs=0.05)
    calibrated = tempered(timid, 0.5)
    assert np.abs(calibrated - softmax(logits)).max() < 1e-6
    assert np.array_equal(calibrated.argmax(axis=1), timid.argmax(axis=1))
    assert score_mean(calibrated, labels)["ece"] < 0.02 < 0.1 < score_mean(timid, labels)["ece"]


def test_a_temperature_that_one_half_of_the_images_asks_for_and_the_other_refutes_is_1() -> None:
    sure = np.tile(np.array([0.8, 0.2], np.float32), (40, 2, 1))
    labels = np.tile([0, 1], 20)  # of each two images the first is told right, the second wrong
    found = fit_confidence(sure, sure, labels, None, source="tests")
    assert found.temperature == {FULL: 1.0}
    assert found.after == found.before
    always_right = fit_confidence(sure, sure, np.zeros(40, int), None, source="tests")
    assert always_right.temperature[FULL] < 1
    assert always_right.after[FULL]["nll"] < always_right.before[FULL]["nll"]


def test_labels_that_are_all_right_do_not_make_every_answer_certain() -> None:
    sure = np.tile([0.8, 0.1, 0.1], (30, 1))
    assert 0.1 < fit_temperature(sure, np.zeros(30, int)) < 0.5
    assert np.isnan(tempered(np.array([[np.nan, np.nan], [0.5, 0.5]]), 2.0)).tolist() == [[True, True], [False, False]]
    assert np.isfinite(tempered(np.array([1.0, 0.0]), 0.1)).all()


def test_the_limit_of_a_set_is_the_rank_that_split_conformal_prediction_gives() -> None:
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]  # 9 images: rank of 10 * coverage
    assert conformal.threshold(scores, 0.9) == 0.9
    assert conformal.threshold(scores, 0.5) == 0.5
    assert conformal.threshold(scores, 0.95) == math.inf
    probabilities = np.array([0.6, 0.3, 0.1])
    assert conformal.in_set(probabilities, 0.7).tolist() == [True, True, False]
    assert not conformal.in_set(probabilities, 0.3).any()  # empty: no label is credible
    assert conformal.in_set(probabilities, math.inf).all()


@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_sets_hold_the_right_label_as_often_as_they_promise_over_20_splits(coverage: float) -> None:
    probabilities, labels = images(3000, seed=1)
    mean = mean_of_members(probabilities)
    random, held, sizes = np.random.default_rng(2), [], []
    for _ in range(20):
        order = random.permutation(3000)
        fitted, fresh = order[:1000], order[1000:]
        temperature = fit_temperature(mean[fitted], labels[fitted])
        limit = conformal.threshold(conformal.scores_of(tempered(mean[fitted], temperature), labels[fitted]), coverage)
        sets = conformal.in_set(tempered(mean[fresh], temperature), limit)
        held.append(sets[np.arange(2000), labels[fresh]].mean())
        sizes.append(sets.sum(axis=1).mean())
    assert abs(np.mean(held) - coverage) < 0.01
    assert 1 < np.mean(sizes) < 4


def test_members_are_ordered_so_that_each_next_one_helps_most() -> None:
    labels = np.zeros(4, int)
    good = np.tile([0.9, 0.1], (4, 1))
    poor = np.tile([0.4, 0.6], (4, 1))
    fair = np.tile([0.7, 0.3], (4, 1))
    assert greedy_order(np.stack([poor, fair, good], axis=1), labels) == (2, 1, 0)


def test_the_bound_of_what_is_lost_needs_268_images_to_fall_below_one_point() -> None:
    assert thresholds.drop_bound_points(0, 0, 268) < 1 < thresholds.drop_bound_points(0, 0, 267)
    assert thresholds.drop_bound_points(5, 0, 1000) > 0.5
    assert thresholds.drop_bound_points(5, 5, 1000) < thresholds.drop_bound_points(5, 0, 1000)


def test_the_lowest_threshold_is_taken_above_which_none_loses_too_much() -> None:
    def step(tau: float, drop: float, bound: float) -> thresholds.Step:
        return thresholds.Step(tau, 1 - tau, drop, drop, bound)

    found = [step(1.01, 0, 0.3), step(0.9, 0.0, 0.4), step(0.8, 0.05, 0.5), step(0.7, 0.06, 0.5), step(0.6, 0.0, 0.5)]
    assert thresholds.best_step(found, 0.1).tau == 0.8  # half of what is allowed; luck further down is not believed
    assert thresholds.best_step(found, 1.0).tau == 0.6
    assert thresholds.best_step(found, 1.0, bound_points=0.45).tau == 0.9


def test_thresholds_are_counted_on_the_images_where_the_first_members_agree() -> None:
    probabilities, labels = images(400, seed=3)
    order = greedy_order(probabilities, labels)
    found = thresholds.steps(probabilities, labels, order, 2)

    assert (found[0].tau, found[0].share_early) == (1.01, 0.0)
    assert all(above.tau > below.tau for above, below in pairwise(found))
    for step in found[1::50]:
        answered = answered_by(probabilities.astype(np.float32), {"order": order, "k": 2, "tau": step.tau}, AUTO)
        early = np.isnan(answered[:, order[3], 0])
        assert early.mean() == pytest.approx(step.share_early)
        whole, early_too = (mean_of_members(found).argmax(axis=1) == labels for found in (probabilities, answered))
        lost = whole.mean() - early_too.mean()
        assert 100 * lost == pytest.approx(step.drop_counted_points)
        assert step.drop_points >= step.drop_counted_points


def test_the_expected_cost_counts_the_rest_by_how_many_images_of_a_batch_it_meets() -> None:
    first, rest = {1: 10.0, 2: 16.0}, {1: 8.0, 2: 12.0}
    cost = thresholds.expected_cost_ms(first, rest, 0.75)
    assert cost == {1: 12.0, 2: pytest.approx(16 + 2 * 0.25 * 0.75 * 8 + 0.0625 * 12)}
    assert thresholds.expected_cost_ms(first, rest, 1.0) == {1: 10.0, 2: 16.0}


def test_a_summary_counts_the_scores_and_tells_the_limits_of_sets() -> None:
    probabilities, labels = images(40, seed=6)
    record = fit_confidence(probabilities, probabilities, labels, None, source="tests")
    few = replace(record, scores={FULL: record.scores[FULL][:15]}, drift={"images": 40, "effort": FULL, "entropy": {}})
    summary = json.loads(json.dumps(few.summary(), allow_nan=False))

    assert summary["scores"] == {FULL: {"count": 15, "limits": {"0.90": record.scores[FULL][14], "0.95": None}}}
    assert summary["drift"] == {"images": 40, "effort": FULL}
    assert summary["coverage"] == record.to_json()["coverage"]
    assert record.summary()["drift"] is None  # too few images for a reference


def test_a_record_is_fitted_for_each_effort_and_reads_back() -> None:
    probabilities, labels = images(600, seed=5)
    cascade = {"order": greedy_order(probabilities, labels), "k": 2, "tau": 0.4}
    record = fit_confidence(probabilities, probabilities, labels, cascade, source="tests")

    assert set(record.temperature) == {FAST, AUTO, FULL}
    assert all(0.3 < temperature < 0.7 for temperature in record.temperature.values())
    for effort in (FAST, AUTO, FULL):
        assert record.after[effort]["nll"] < record.before[effort]["nll"]
        assert record.after[effort]["ece"] < record.before[effort]["ece"]
        assert record.coverage[effort]["0.90"]["coverage"] == pytest.approx(0.9, abs=0.03)
        assert list(record.scores[effort]) == sorted(record.scores[effort])
    assert Confidence.from_json(record.to_json()) == record
    as_it_is = fit_confidence(probabilities, probabilities, labels, None, source="tests", calibrate=False)
    assert (as_it_is.temperature, as_it_is.member_temperature) == ({FULL: 1.0}, 1.0)
    assert as_it_is.set_limit(FULL, 0.9) is not None
    assert as_it_is.set_limit(AUTO, 0.9) is None
