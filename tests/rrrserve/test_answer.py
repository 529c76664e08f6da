import math

import numpy as np
import pytest

from rrrserve.api.answer import answer, uncertainty

LABELS = ("a", "b", "c")


def test_members_that_agree_and_know_nothing_have_full_entropy_and_no_mutual_information() -> None:
    result = uncertainty(np.full((4, 3), 1 / 3, np.float32))
    assert result["entropy"] == pytest.approx(math.log(3), abs=1e-6)
    assert result["mutual_information"] == pytest.approx(0.0, abs=1e-6)
    assert result["agreement"] == 1.0


def test_sure_members_that_contradict_each_other_have_all_entropy_as_mutual_information() -> None:
    result = uncertainty(np.array([[1, 0, 0], [0, 1, 0]], np.float32))
    assert result["entropy"] == pytest.approx(math.log(2), abs=1e-6)
    assert result["mutual_information"] == pytest.approx(math.log(2), abs=1e-6)
    assert result["agreement"] == 0.5


def test_agreement_counts_members_with_the_label_of_the_mean() -> None:
    members = np.array([[0.6, 0.4, 0], [0.6, 0.4, 0], [0.1, 0.9, 0], [0.7, 0.3, 0]], np.float32)
    # The mean is (0.5, 0.5, 0) to rounding; make it clear.
    members[3] = (0.9, 0.1, 0)
    assert uncertainty(members)["agreement"] == 0.75


def test_predictions_are_the_mean_sorted_with_ties_in_label_order() -> None:
    result = answer(np.array([[0.2, 0.6, 0.2], [0.4, 0.2, 0.4]], np.float32), LABELS, top_k=3, members=False)
    assert result["predictions"] == [
        {"label": "b", "probability": 0.4},
        {"label": "a", "probability": 0.3},
        {"label": "c", "probability": 0.3},
    ]
    assert "members" not in result


def test_members_are_listed_with_their_own_labels_when_asked_for() -> None:
    result = answer(np.array([[0.2, 0.6, 0.2], [0.5, 0.1, 0.4]], np.float32), LABELS, top_k=1, members=True)
    assert len(result["predictions"]) == 1
    assert result["members"] == [{"label": "b", "probability": 0.6}, {"label": "a", "probability": 0.5}]
