"""Accuracy, NLL and calibration error against numbers worked out by hand."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from rrrnet.errors import ArtifactError
from rrrnet.training.metrics import by_class, expected_calibration_error, mutual_information, score


def test_ensemble_and_members_are_scored_by_hand_worked_numbers() -> None:
    # Two images, two members, two classes. Member 0 is right twice, member 1 once.
    probabilities = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.7, 0.3]]])
    found = score(probabilities, np.array([0, 1]))
    assert found["images"] == 2
    assert found["accuracy"] == 1.0
    assert [member["accuracy"] for member in found["members"]] == [1.0, 0.5]
    assert found["nll"] == pytest.approx(-(math.log(0.75) + math.log(0.55)) / 2)
    assert found["members"][1]["nll"] == pytest.approx(-(math.log(0.6) + math.log(0.3)) / 2)
    assert found["brier"] == pytest.approx((2 * 0.25**2 + 2 * 0.45**2) / 2)


def test_members_are_scored_on_the_images_that_they_were_asked_about() -> None:
    nan = [np.nan, np.nan]
    probabilities = np.array([[[0.9, 0.1], [0.7, 0.3], nan], [[0.2, 0.8], nan, nan], [[0.4, 0.6], nan, nan]])
    labels = np.array([0, 1, 0])
    found = score(probabilities, labels)
    assert [member["images"] for member in found["members"]] == [3, 1, 0]
    assert found["members"][1]["accuracy"] == 1.0
    assert found["members"][2] == {"accuracy": None, "nll": None, "ece": None, "brier": None, "images": 0}
    assert found["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.8) + math.log(0.4)) / 3)
    assert by_class(probabilities, labels, ("a", "b"))["confusions"] == [{"label": "a", "predicted": "b", "count": 1}]
    assert mutual_information(probabilities)[1:] == pytest.approx(0.0)
    assert mutual_information(probabilities)[0] == pytest.approx(mutual_information(probabilities[:1, :2])[0])


def test_a_given_answer_is_scored_in_place_of_the_mean() -> None:
    probabilities = np.array([[[0.6, 0.4]], [[0.4, 0.6]]])
    found = score(probabilities, np.array([0, 1]), np.eye(2))
    assert (found["nll"], found["brier"], found["ece"]) == (pytest.approx(0), 0, 0)
    assert found["members"][0]["nll"] == pytest.approx(-math.log(0.6))


def test_calibration_error_is_the_weighted_gap_of_each_bin() -> None:
    # Three answers at 0.95 confidence of which two are right, one at 0.55 that is wrong.
    confidence = np.array([0.95, 0.95, 0.95, 0.55])
    correct = np.array([True, True, False, False])
    expected = 0.75 * (0.95 - 2 / 3) + 0.25 * 0.55
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_perfect_confidence_is_perfectly_calibrated() -> None:
    found = score(np.eye(3)[:, None, :], np.arange(3))
    assert (found["accuracy"], found["ece"]) == (1.0, 0.0)
    assert found["nll"] == pytest.approx(0.0)


def test_classes_are_told_apart_by_hand_worked_numbers() -> None:
    answers = [0, 0, 1, 1, 1, 0]  # of classes 0 0 0 1 1 1; class 2 has no image and is never answered
    found = by_class(np.eye(3)[answers][:, None, :], np.array([0, 0, 0, 1, 1, 1]), ("a", "b", "c"))
    assert found["per_class"] == [
        {"label": "a", "images": 3, "recall": 2 / 3, "precision": 2 / 3},
        {"label": "b", "images": 3, "recall": 2 / 3, "precision": 2 / 3},
        {"label": "c", "images": 0, "recall": None, "precision": None},
    ]
    assert found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["confusions"] == [
        {"label": "a", "predicted": "b", "count": 1},
        {"label": "b", "predicted": "a", "count": 1},
    ]


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.empty((0, 1, 2)), "no images"),
        (np.full((1, 1, 2), np.nan), "NaN or infinity"),
        (np.array([[[0.5, np.nan]]]), "NaN or infinity"),
        (np.array([[[np.inf, 0.0]]]), "NaN or infinity"),
    ],
)
def test_nothing_and_nan_are_refused(probabilities: npt.NDArray[np.float64], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        score(probabilities, np.zeros(len(probabilities), dtype=np.int64))
