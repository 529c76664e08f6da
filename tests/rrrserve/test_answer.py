import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rrrbuild.cascade_runner import AUTO, FAST, FULL
from rrrbuild.confidence.record import Confidence
from rrrbuild.confidence.temperature import tempered
from rrrbuild.repository_document import ServedModel
from rrrnet.images.preprocess import Preprocess
from rrrserve.api.answer import answer, answering_effort, is_unsure
from rrrserve.api.requests import Options

LABELS = ("a", "b", "c")
MODEL = ServedModel("m", "1", "t", "python", 2, 4, LABELS, Preprocess(32), 32, 1, 1, ("probabilities",))
CONFIDENCE = Confidence(
    99, "tests", {FAST: 2.0, AUTO: 0.5, FULL: 0.25}, 0.8, {FAST: (), AUTO: (0.1, 0.2, 0.3, 0.9), FULL: (0.01,) * 9}
)
CASCADE = replace(MODEL, cascade={"k": 1, "tau": 0.9, "order": [1, 0]}, confidence=CONFIDENCE)
TWO = np.array([[0.2, 0.6, 0.2], [0.5, 0.1, 0.4]], np.float32)
FIRST = np.array([[np.nan] * 3, [0.5, 0.1, 0.4]], np.float32)


def told(
    values: npt.ArrayLike, model: ServedModel = MODEL, status: list[int] | None = None, **options: Any
) -> dict[str, Any]:
    probabilities = np.array(values, np.float32)
    became = None if status is None else np.array(status, np.uint8)
    model = replace(model, members=len(probabilities))
    return answer(probabilities, became, model, Options(**({"top_k": 3, "members": False} | options)))


def test_members_that_agree_and_know_nothing_have_full_entropy_and_no_mutual_information() -> None:
    result = told(np.full((4, 3), 1 / 3))["uncertainty"]
    assert result["entropy"] == pytest.approx(math.log(3), abs=1e-6)
    assert result["mutual_information"] == pytest.approx(0.0, abs=1e-6)
    assert result["agreement"] == 1.0


def test_sure_members_that_contradict_each_other_have_all_entropy_as_mutual_information() -> None:
    result = told([[1, 0, 0], [0, 1, 0]])["uncertainty"]
    assert result["entropy"] == pytest.approx(math.log(2), abs=1e-6)
    assert result["mutual_information"] == pytest.approx(math.log(2), abs=1e-6)
    assert result["agreement"] == 0.5


def test_agreement_counts_members_with_the_label_of_the_mean() -> None:
    assert told([[0.6, 0.4, 0], [0.6, 0.4, 0], [0.1, 0.9, 0], [0.9, 0.1, 0]])["uncertainty"]["agreement"] == 0.75


def test_predictions_are_the_mean_sorted_with_ties_in_label_order() -> None:
    result = told([[0.2, 0.6, 0.2], [0.4, 0.2, 0.4]])
    assert result["predictions"] == [
        {"label": "b", "probability": 0.4},
        {"label": "a", "probability": 0.3},
        {"label": "c", "probability": 0.3},
    ]
    assert "members" not in result


def test_members_are_listed_with_their_own_labels_when_asked_for() -> None:
    result = told(TWO, top_k=1, members=True)
    assert len(result["predictions"]) == 1
    assert result["members"] == [
        {"member": 0, "label": "b", "probability": 0.6},
        {"member": 1, "label": "a", "probability": 0.5},
    ]


def test_a_model_without_a_cascade_answers_every_effort_with_all_members_and_says_full() -> None:
    for effort in (FAST, AUTO, FULL):
        assert answering_effort(MODEL, effort) == FULL
        assert answering_effort(CASCADE, effort) == effort
        result = told(TWO, effort=effort)
        assert (result["effort"], result["members_used"], result["partial"], result["unsure"]) == (
            FULL,
            2,
            False,
            False,
        )
        assert result["predictions"] == told(TWO)["predictions"]


def test_only_members_used_are_in_mean_doubt_and_list_and_those_not_asked_make_no_partial_answer() -> None:
    result = told(FIRST, status=[1, 0], members=True)
    assert (result["members_used"], result["partial"]) == (1, False)
    assert result["predictions"] == told(FIRST[1:])["predictions"]
    assert result["uncertainty"] == told(FIRST[1:])["uncertainty"]
    assert result["members"] == [{"member": 1, "label": "a", "probability": 0.5}]


@pytest.mark.parametrize("status", [2, 3, 4])
def test_a_member_that_failed_or_was_late_makes_a_partial_answer_without_a_set(status: int) -> None:
    result = told(FIRST, CASCADE, [status, 0], coverage=0.5)
    assert (result["partial"], result["members_used"]) == (True, 1)
    assert "set" not in result
    assert "missing" in result["set_reason"]


@pytest.mark.parametrize(("effort", "temperature"), [(FAST, 2.0), (AUTO, 0.5), (FULL, 0.25)])
def test_what_is_told_is_calibrated_for_the_effort_that_answered_and_labels_stay(
    effort: str, temperature: float
) -> None:
    result = told(TWO, CASCADE, [0, 0], effort=effort, members=True)
    plain = told(TWO)
    assert [item["label"] for item in result["predictions"]] == [item["label"] for item in plain["predictions"]]
    mean = tempered(TWO.mean(axis=0, dtype=np.float64), temperature)
    assert [item["probability"] for item in result["predictions"]] == [round(float(mean[i]), 6) for i in (0, 1, 2)]
    assert result["uncertainty"]["entropy"] == pytest.approx(-(mean * np.log(mean)).sum(), abs=1e-6)
    own = tempered(TWO, 0.8)
    assert [item["probability"] for item in result["members"]] == pytest.approx(own.max(axis=1).tolist(), abs=1e-6)


def test_a_set_is_the_smallest_with_the_coverage_asked_for_and_may_be_empty_or_everything() -> None:
    sure = [[0.8, 0.15, 0.05]] * 2  # calibrated: 0.962, 0.034, 0.004
    assert told(sure, CASCADE, [0, 0], coverage=0.6)["set"] == [{"label": "a", "probability": 0.962406}]
    assert [item["label"] for item in told(sure, CASCADE, [0, 0], coverage=0.95)["set"]] == ["a", "b", "c"]
    for coverage in (0.6, 1e-12):
        empty = told(np.full((2, 3), 1 / 3), CASCADE, [0, 0], coverage=coverage)
        assert (empty["set"], empty["unsure"]) == ([], True)
    assert "set" not in told(sure, CASCADE, [0, 0])


def test_a_model_without_scores_says_why_there_is_no_set() -> None:
    for model, effort in ((MODEL, AUTO), (CASCADE, FAST)):
        result = told(TWO, model, effort=effort, coverage=0.9)
        assert "set" not in result
        assert "no sets" in result["set_reason"]


def test_an_answer_is_unsure_with_an_empty_set_or_above_the_limit_of_entropy() -> None:
    assert not is_unsure(9.0, empty_set=False, abstain_above=None)
    assert is_unsure(0.0, empty_set=True, abstain_above=None)
    assert [is_unsure(doubt, empty_set=False, abstain_above=0.5) for doubt in (0.5, 0.51)] == [False, True]
    options = Options(1, False)
    assert answer(TWO, None, MODEL, options, abstain_above=0.1)["unsure"] is True
    assert answer(TWO, None, MODEL, options, abstain_above=3.0)["unsure"] is False
