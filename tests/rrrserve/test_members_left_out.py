"""Effort, deadline and quorum on the wire to Triton, and what comes back about members that were left out."""

import asyncio
import re
import time
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY
from tritonclient.grpc import service_pb2 as pb

from rrrbuild.cascade_runner import AUTO, FAILED, FAST, FULL, LATE, NOT_ASKED, NOT_FINITE, USED
from rrrbuild.repository_document import MEMBER_STATUS, MEMBERS_USED, Repository, ServedModel
from rrrnet.images.preprocess import MAX_PIXELS, Preprocess
from rrrserve.api.data_plane import DataPlane, Timing
from rrrserve.api.decoding import DecodePool
from rrrserve.api.requests import Options
from rrrserve.metrics import instruments
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.calls import TritonError, _code_of
from rrrserve.triton.client import Inference, checked_output, quorum_of, request_bytes

OUTPUTS = ("probabilities", MEMBERS_USED, MEMBER_STATUS)
SPLIT = ServedModel("left_out", "1", "t", "python", 5, 2, ("a", "b"), Preprocess(32), 32, 1, 1, OUTPUTS)
CASCADE = replace(SPLIT, name="early", cascade={"k": 2, "tau": 0.9, "order": [0, 1, 2, 3, 4]})
PLAIN = replace(SPLIT, name="plain", outputs=("probabilities",))
IMAGE = np.zeros((32, 32, 3), np.uint8)
NAN = float("nan")
STATUS = np.array([[USED, USED, NOT_ASKED, NOT_FINITE, LATE]], np.uint8)
PROBABILITIES = np.array([[[0.9, 0.1], [0.7, 0.3], *[[NAN, NAN]] * 3]], np.float32)


def parameters(model: ServedModel, **options: Any) -> dict[str, Any]:
    """What a request tells beside the image."""
    request = pb.ModelInferRequest.FromString(request_bytes(model, [IMAGE], timeout_seconds=10, **options))
    assert request.raw_input_contents == [IMAGE.tobytes()]
    assert [output.name for output in request.outputs] == list(model.outputs)
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in request.parameters.items()}


def response(probabilities: Any = PROBABILITIES, status: Any = STATUS, used: int = 2) -> pb.ModelInferResponse:
    answer = pb.ModelInferResponse()
    for name, datatype, values in (
        (MEMBER_STATUS, "UINT8", np.asarray(status)),
        ("probabilities", "FP32", np.asarray(probabilities, np.float32)),
        (MEMBERS_USED, "INT32", np.array([[used]], np.int32)),
    ):
        answer.outputs.add(name=name, datatype=datatype, shape=values.shape)
        answer.raw_output_contents.append(values.tobytes())
    return answer


def test_a_request_tells_effort_deadline_and_quorum_only_to_models_that_understand_them() -> None:
    assert parameters(PLAIN, effort=FULL, quorum=2) == {}
    assert set(parameters(SPLIT, effort=FULL)) == {"deadline_us", "quorum"}
    assert "effort" not in parameters(CASCADE, effort=AUTO)
    assert parameters(CASCADE, effort=FAST, quorum=2)["effort"] == FAST
    left = parameters(SPLIT)["deadline_us"] / 1e6 - time.time()
    assert 9.3 < left < 9.55  # 5 % before the deadline


def test_the_quorum_is_half_of_the_members_or_the_first_of_a_cascade_or_as_it_is_set() -> None:
    assert [quorum_of(SPLIT, quorum) for quorum in (None, 1, 4, 9)] == [3, 1, 4, 5]
    assert quorum_of(CASCADE, None) == 2


def test_a_member_that_was_left_out_is_nan_and_named_with_what_became_of_it() -> None:
    probabilities, status = checked_output(response(), CASCADE, 1)
    np.testing.assert_array_equal(probabilities, PROBABILITIES)
    assert status is not None
    np.testing.assert_array_equal(status, STATUS)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (response(used=3), "3] as members used"),
        (response(status=np.where(STATUS == LATE, 5, STATUS).astype(np.uint8)), "5]] of its members"),
        (response(np.full_like(PROBABILITIES, NAN), np.full_like(STATUS, LATE), 0), "[0] as members used"),
        (response(np.nan_to_num(PROBABILITIES, nan=0.5)), "numbers for members that it left out"),
        (response(status=np.zeros_like(STATUS), used=5), "no probabilities"),
        (response(PROBABILITIES * 2), "no probabilities"),
        (response(status=STATUS[:, :4]), "UINT8 (1, 4) in 4 bytes as member_status"),
        (response(status=STATUS.astype(np.int32)), "in 20 bytes as member_status: expected UINT8 (1, 5)"),
        (pb.ModelInferResponse(), "no binary output 'probabilities'"),
    ],
)
def test_numbers_that_do_not_go_with_the_status_are_refused(bad: pb.ModelInferResponse, message: str) -> None:
    with pytest.raises(TritonError, match=re.escape(message)) as caught:
        checked_output(bad, CASCADE, 1)
    assert caught.value.code == "bad_model_output"


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", "deadline_exceeded"),
        (grpc.StatusCode.INTERNAL, "m: members were late: 1 of 5 answered, 3 must", "deadline_exceeded"),
        (grpc.StatusCode.INTERNAL, "m: the engine's output holds NaN, or members failed: 1 of 5", "bad_model_output"),
        (grpc.StatusCode.UNAVAILABLE, "m: the engine failed", "backend_unavailable"),
    ],
)
def test_too_few_members_in_time_are_a_deadline_and_too_few_that_work_a_bad_output(
    code: grpc.StatusCode, details: str, expected: str
) -> None:
    nothing = grpc.aio.Metadata()
    assert _code_of(grpc.aio.AioRpcError(code, nothing, nothing, details)) == expected


class Answers:
    """In place of the connection to Triton: gives what it was made with, and keeps what it was asked."""

    def __init__(self, status: list[list[int]]) -> None:
        self.status = np.array(status, np.uint8)
        self.asked: list[dict[str, Any]] = []

    async def infer(self, model: ServedModel, images: Any, **options: Any) -> Inference:
        """The next images' part."""
        self.asked.append(options)
        status, self.status = self.status[: len(images)], self.status[len(images) :]
        found = np.tile(np.array([0.8, 0.2], np.float32), (len(images), model.members, 1))
        found[status != USED] = NAN
        return Inference(found, status)


def test_answers_of_a_batch_are_counted_by_members_effort_and_what_became_of_those_missing(png: Any) -> None:
    rest = [NOT_ASKED] * 3
    answers = Answers([[USED] * 5, [USED, USED, *rest], [USED, NOT_FINITE, *rest], [FAILED, USED, LATE, USED, USED]])

    async def asked() -> Any:
        pool = DecodePool(1, max_pixels=MAX_PIXELS, memory_bytes=2**26)
        state = SharedState.in_process([CASCADE.name])
        plane = DataPlane(Repository(None, (CASCADE,), {}, "0" * 64), CASCADE, answers, pool, state, quorum=1)  # type: ignore[arg-type]
        now = time.perf_counter()
        images = [png(0), b"no image", png(1), png(2), png(3)]
        before = counts()
        found = await plane.predict(CASCADE, images, Options(1, False), deadline=now + 60, timing=Timing(now))
        pool.close()
        return before, found

    instruments.create_series([], [CASCADE], [])
    before, found = asyncio.run(asked())
    assert [getattr(item, "code", None) for item in found] == [None, "unsupported_image", None, None, None]
    good = [item for item in found if isinstance(item, dict)]
    assert [(item["members_used"], item["partial"]) for item in good] == [(5, False), (2, False), (1, True), (3, True)]
    assert {(options["effort"], options["quorum"]) for options in answers.asked} == {(AUTO, 1)}
    rises = {name: value - before[name] for name, value in counts().items() if value != before[name]}
    assert rises == {
        "rrr_members_used_count": 4,
        "rrr_members_used_sum": 11,
        "rrr_effort_total auto": 4,
        "rrr_early_answers_total": 2,
        "rrr_member_failures_total 0 error": 1,
        "rrr_member_failures_total 1 nan": 1,
        "rrr_member_failures_total 2 late": 1,
    }


def counts() -> dict[str, float]:
    """Samples of the cascade's series, all of which are there beforehand."""
    names = ("rrr_members_used", "rrr_effort", "rrr_early", "rrr_member_failures")
    samples = [sample for metric in REGISTRY.collect() for sample in metric.samples if sample.name.startswith(names)]
    return {
        " ".join(
            [sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "model")]
        ): sample.value
        for sample in samples
        if sample.labels["model"] == CASCADE.name and "le" not in sample.labels
    }
