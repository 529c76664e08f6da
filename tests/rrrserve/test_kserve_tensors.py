"""What becomes of members that were left out, and of sets, in tensors."""

import json
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from rrrbuild.cascade_runner import AUTO, FAST, FULL, LATE, NOT_ASKED, USED
from rrrbuild.confidence.record import Confidence
from rrrbuild.repository_document import ServedModel
from rrrnet.images.preprocess import Preprocess
from rrrserve.api.errors import APIError
from rrrserve.api.v2 import json_body
from rrrserve.api.v2.inference import Answer
from rrrserve.api.v2.outputs import results
from rrrserve.api.v2.question import Output, Question, question
from rrrserve.api.v2.tensors import Tensor, outputs_of
from rrrserve.triton.client import Inference

SCORES = {FAST: (0.1, 0.2, 0.3, 0.9), AUTO: (0.1, 0.2, 0.3, 0.9), FULL: (0.1, 0.2, 0.3, 0.9)}
CONFIDENCE = Confidence(4, "tests", {FAST: 1.0, AUTO: 1.0, FULL: 0.5}, 1.0, SCORES)
CASCADE = ServedModel(
    *("m", "1", "t", "python", 2, 4, ("a", "b", "c"), Preprocess(32), 32, 1, 1, ("probabilities", "member_status")),
    cascade={"k": 1, "tau": 0.9, "order": [0, 1]},
    confidence=CONFIDENCE,
)
# The first image was settled by one member, of the second both were asked; of the third one was late.
FOUND = Inference(
    np.array([[[0.9, 0.06, 0.04], [np.nan] * 3], [[0.5, 0.4, 0.1]] * 2, [[0.5, 0.4, 0.1], [np.nan] * 3]], np.float32),
    np.array([[USED, NOT_ASKED], [USED, USED], [USED, LATE]], np.uint8),
)
THREE = Tensor("images", "UINT8", (3, 32, 32, 3), raw=bytes(9216))


def asked(outputs: list[Output] | None = None, **parameters: Any) -> Question:
    return question(CASCADE, [THREE], parameters, outputs or [], identifier="", headers={}, most=4)


def test_a_model_with_sets_says_so_and_gives_one_where_coverage_is_asked() -> None:
    assert outputs_of(CASCADE)[-1] == ("in_set", "BOOL", [-1, 3])
    assert [item.name for item in asked().wanted] == ["probabilities", "mean_probabilities", "members_used"]
    by_name = {item.wanted.name: item.array for item in results(FOUND, CASCADE, asked(coverage=0.5), AUTO)}
    assert by_name["members_used"].tolist() == [1, 2, 1]
    # The partial answer rules nothing out: no set is promised of it.
    assert by_name["in_set"].tolist() == [[True, False, False], [False, False, False], [True, True, True]]
    with pytest.raises(APIError, match="in_set needs the parameter coverage"):
        asked([Output("in_set", {})])


def test_numbers_of_members_that_were_not_asked_are_nan_in_bytes_and_null_in_json() -> None:
    def written(binary: bool) -> tuple[dict[str, Any], bytes, dict[str, str]]:
        wanted = asked([Output("probabilities", {}, binary)])
        reply = json_body.write(Answer(CASCADE, wanted, results(FOUND, CASCADE, wanted, AUTO), AUTO, True, Mock()))
        size = int(reply.headers.get(json_body.HEADER_LENGTH, len(reply.body)))
        return json.loads(reply.body[:size]), reply.body[size:], reply.headers

    document, rest, _ = written(binary=False)
    data = document["outputs"][0]["data"]
    assert (rest, data[3:6], data[0]) == (b"", [None] * 3, pytest.approx(0.9))
    assert document["parameters"] == {"effort": "auto", "partial": True}
    document, rest, _ = written(binary=True)
    assert document["outputs"][0]["parameters"] == {"binary_data_size": len(rest)}
    assert np.array_equal(np.frombuffer(rest, "<f4").reshape(3, 2, 3), FOUND.probabilities, equal_nan=True)


def test_means_and_best_labels_are_calibrated_by_the_effort_that_answered() -> None:
    wanted = asked([Output("mean_probabilities", {"classification": 9})])
    (best,) = results(FOUND, CASCADE, wanted, FULL)
    assert (best.datatype, best.array.shape) == ("BYTES", (3, 3))
    squared = np.array([0.5, 0.4, 0.1]) ** 2
    assert best.array[1].tolist() == [
        f"{value:f}:{place}:{'abc'[place]}".encode() for place, value in enumerate(squared / squared.sum())
    ]
