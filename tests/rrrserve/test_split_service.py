"""Members side by side behind the real HTTP port: their metric, and a Triton ensemble that looks like one model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rrrbuild.build import build_engine
from rrrbuild.manifest import BatchRange
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import ServedModel, read_repository
from rrrnet.checkpoint import Checkpoint
from rrrnet.images.preprocess import Preprocess
from rrrserve.cli import run
from rrrserve.triton.client import member_seconds

Files = Callable[[int], bytes]


def member_samples(client: httpx.Client, suffix: str) -> dict[str, float]:
    """Values of the members' histograms by label set."""
    lines = client.get("/metrics").text.splitlines()
    found = (line.removeprefix(f"rrr_member_duration_seconds_{suffix}") for line in lines)
    return {labels: float(value) for labels, value in (line.split("} ") for line in found if line.startswith("{"))}


def test_after_k_predictions_the_duration_of_each_member_was_observed_k_times(client: httpx.Client, png: Files) -> None:
    before, seconds_before = member_samples(client, "count"), member_samples(client, "sum")
    for seed in range(5):
        assert client.post("/v1/predict", content=png(seed)).status_code == 200
    files = [("images", ("a", png(seed))) for seed in range(3)]
    assert client.post("/v1/models/tiny/predict_batch", files=files).status_code == 200  # one call of the engine
    assert client.post("/v1/models/single/predict", content=png(0)).status_code == 200

    after, seconds_after = member_samples(client, "count"), member_samples(client, "sum")
    assert set(after) == {f'{{member="{index}",model="tiny"' for index in range(3)}
    assert {after[labels] - before[labels] for labels in after} == {6}
    assert all(0 < seconds_after[labels] - seconds_before[labels] < 30 for labels in after)


def answer(seconds: Any, *, datatype: str = "FP32") -> service_pb2.ModelInferResponse:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="member_seconds", datatype=datatype, shape=seconds.shape)
    response.raw_output_contents.append(seconds.tobytes())
    return response


def test_durations_are_read_only_where_the_plan_that_ran_tells_them() -> None:
    model = ServedModel(
        "m", "1", "onnxruntime-fp32", "python", 2, 4, ("a",), Preprocess(32), 32, 1, 1, ("probabilities",)
    )
    rows = np.array([[0.5, 0.25]] * 3, np.float32)

    assert member_seconds(answer(rows), model) == (0.5, 0.25)
    assert member_seconds(answer(np.full_like(rows, np.nan)), model) is None
    assert member_seconds(answer(rows, datatype="FP64"), model) is None
    assert member_seconds(answer(rows[:0]), model) is None
    assert member_seconds(service_pb2.ModelInferResponse(), model) is None


@pytest.fixture(scope="module")
def triton_ensemble(checkpoints: tuple[Checkpoint, Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the ensemble as Triton models: stem, members and the model that joins them."""
    folder = tmp_path_factory.mktemp("ensemble")
    engine, repository = folder / "engine", folder / "repository"
    build_engine(checkpoints[0].path, "onnxruntime-fp32", plan="split", batch=BatchRange(1, 1, 2), out=engine, images=4)
    write_repository([engine], repository, backends=frozenset({"python"}), split_as="ensemble", threads=1)
    return repository


def test_rrr_tune_refuses_a_triton_ensemble_and_says_what_to_do(
    triton_ensemble: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tune", str(triton_ensemble)]) == 2
    told = capsys.readouterr().err
    assert "tiny is a Triton ensemble of 5 models, which rrr tune leaves as they are" in told
    assert "rrr repository --split-as process" in told
    assert read_repository(triton_ensemble).models[0].steps, "every digest is as it was"


@pytest.mark.nightly
def test_a_triton_ensemble_of_the_members_is_served_as_one_model_with_the_same_answers(
    start_service: Any, triton_ensemble: Path, client: httpx.Client, png: Files
) -> None:
    served = start_service(str(triton_ensemble), "--port", "0")

    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as ensemble:
        assert ensemble.get("/readyz").status_code == 200
        listed = ensemble.get("/v1/models").json()
        assert (listed["default"], [model["name"] for model in listed["models"]]) == ("tiny", ["tiny"])
        assert listed["models"][0]["labels"] == ["red", "green", "blue"]
        for seed in range(4):
            given = ensemble.post("/v1/predict?members=true&top_k=3", content=png(seed)).json()
            expected = client.post("/v1/predict?members=true&top_k=3", content=png(seed)).json()
            assert given["predictions"] == expected["predictions"]
            assert given["members"] == expected["members"]
        steps = {
            line.split('model="')[1].split('"')[0]
            for line in ensemble.get("/metrics/triton").text.splitlines()
            if line.startswith("nv_inference_count{")
        }
        assert steps == {"tiny", "tiny-stem", "tiny-member-0", "tiny-member-1", "tiny-member-2", "tiny-combine"}
        assert member_samples(ensemble, "count") == {}
    assert served.stop() == 0, served.log.read_text()
