"""Engines of plan split in a Triton repository: as one process that times its members, and as a Triton ensemble."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from rrrbuild.build import build_engine
from rrrbuild.manifest import BatchRange, Manifest, read_engine, write_manifest
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import MEMBER_SECONDS, Repository, read_repository
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import ArtifactError, IncompatibleError, UsageError
from rrrserve.cli import run
from rrrserve.versions.catalogue import backends_of

PYTHON = frozenset({"python"})
ALL = frozenset({"python", "openvino", "onnxruntime", "tensorrt"})
STEPS = ("duo-stem", "duo-member-0", "duo-member-1", "duo-combine")


@pytest.fixture(scope="module")
def split_engine(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Manifest:
    out = tmp_path_factory.mktemp("engines") / "split"
    return build_engine(checkpoint.path, "onnxruntime-fp32", plan="split", batch=BatchRange(1, 2, 4), out=out, images=4)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory, split_engine: Manifest) -> Repository:
    """As for a Triton with native backends."""
    return write_repository([split_engine.path], tmp_path_factory.mktemp("native") / "repository", backends=ALL)


def config_of(repository: Path, name: str) -> Any:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), pb.ModelConfig())


def test_with_a_native_backend_a_split_engine_is_an_ensemble_that_counts_as_one_model(
    native: Repository, split_engine: Manifest
) -> None:
    (model,) = native.models

    assert (model.name, model.backend, model.steps, model.outputs) == ("duo", "onnxruntime", STEPS, ("probabilities",))
    assert backends_of(native) == {"onnxruntime", "python"}
    assert {path.name for path in native.path.iterdir()} == {"duo", *STEPS, "repository.json"}
    assert read_repository(native.path) == native
    parts = [read_engine(folder) for folder in native.engine_folders(model)]
    assert sum(part.engine_bytes for part in parts) == split_engine.engine_bytes > 1_000_000


def test_the_ensemble_hands_the_stems_output_to_every_member_and_theirs_to_combine(native: Repository) -> None:
    config = config_of(native.path, "duo")

    assert (config.platform, config.max_batch_size, len(config.instance_group)) == ("ensemble", 4, 0)
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in (*config.input, *config.output)] == [
        ("images", pb.TYPE_UINT8, [32, 32, 3]),
        ("probabilities", pb.TYPE_FP32, [2, 3]),
    ]
    steps = [(step.model_name, dict(step.input_map), dict(step.output_map)) for step in config.ensemble_scheduling.step]
    assert steps == [
        ("duo-stem", {"images": "images"}, {"features": "features"}),
        ("duo-member-0", {"features": "features"}, {"probabilities": "member_0"}),
        ("duo-member-1", {"features": "features"}, {"probabilities": "member_1"}),
        ("duo-combine", {"member_0": "member_0", "member_1": "member_1"}, {"probabilities": "probabilities"}),
    ]


def test_each_step_has_the_tensors_that_its_neighbours_have(native: Repository, split_engine: Manifest) -> None:
    stem, member, combine = (config_of(native.path, name) for name in ("duo-stem", "duo-member-1", "duo-combine"))

    assert (stem.backend, member.backend, combine.backend) == ("onnxruntime", "onnxruntime", "python")
    assert (stem.output[0].name, stem.output[0].data_type, list(stem.output[0].dims)) == (
        "features",
        pb.TYPE_FP32,
        [512, 4, 4],
    )
    assert text_format.MessageToString(member.input[0]) == text_format.MessageToString(stem.output[0])
    assert [list(tensor.dims) for tensor in (*member.output, *combine.input, *combine.output)] == [
        [3],
        [3],
        [3],
        [2, 3],
    ]
    assert {config.max_batch_size for config in (stem, member, combine)} == {4}
    assert member.dynamic_batching.max_queue_delay_microseconds == 0
    warm_up = member.model_warmup[0].inputs["features"]
    assert (warm_up.zero_data, warm_up.random_data) == (True, False)  # random bytes would hold NaN
    version = native.path / "duo-member-1" / "1"
    assert (version / "model.onnx").read_bytes() == (split_engine.path / "member_1.onnx").read_bytes()
    assert read_engine(version).outputs == [{"name": "probabilities", "dtype": "float32", "shape": [-1, 3]}]


def test_the_steps_of_a_version_lie_in_its_number(tmp_path: Path, split_engine: Manifest) -> None:
    written = write_repository([split_engine.path], tmp_path / "repository", backends=ALL, names=["duo@2"])
    (model,) = written.models
    assert model.steps == ("duo@2-stem", "duo@2-member-0", "duo@2-member-1", "duo@2-combine")
    for name in (model.name, *model.steps):
        assert [path.name for path in (written.path / name).iterdir() if path.is_dir()] == ["2"]
        assert config_of(written.path, name).name == name
    assert len(written.engine_folders(model)) == 4


@pytest.mark.parametrize(("backends", "split_as"), [(PYTHON, None), (ALL, "process")])
def test_as_a_process_it_is_one_model_with_the_members_durations_as_second_output(
    tmp_path: Path, split_engine: Manifest, backends: frozenset[str], split_as: str | None
) -> None:
    written = write_repository([split_engine.path], tmp_path / "repository", backends=backends, split_as=split_as)
    (model,) = written.models

    assert (model.backend, model.steps) == ("python", ())
    assert model.outputs == ("probabilities", MEMBER_SECONDS, "members_used", "member_status")
    outputs = config_of(written.path, "duo").output
    assert [(output.name, output.data_type, list(output.dims)) for output in outputs] == [
        ("probabilities", pb.TYPE_FP32, [2, 3]),
        ("member_seconds", pb.TYPE_FP32, [2]),
        ("members_used", pb.TYPE_INT32, [1]),
        ("member_status", pb.TYPE_UINT8, [2]),
    ]
    assert {"stem.onnx", "member_1.onnx", "plan_runner.py", "runtime.py", "model.py"} < {
        path.name for path in (written.path / "duo" / "1").iterdir()
    }


def test_a_native_backend_gets_the_overall_winner_of_several_plans_and_that_is_said(
    tmp_path: Path, checkpoint: Checkpoint, pretending: Callable[..., Any]
) -> None:
    batch = BatchRange(1, 4, 4)
    with pretending({"sequential": (1.0, 9.0), "merged": (2.0, 1.0), "split": (9.0, 9.0)}):
        engine = build_engine(checkpoint.path, "onnxruntime-fp32", batch=batch, out=tmp_path / "e", images=4)
    assert engine.plan_by_batch == {"1": "sequential", "4": "merged"}

    said: list[str] = []
    one = write_repository([engine.path], tmp_path / "native", backends=ALL, report=said.append)
    version = one.path / "duo" / "1"
    assert said == ["duo: the backend onnxruntime runs one plan for every batch size, so only merged is used"]
    assert (version / "model.onnx").read_bytes() == (engine.path / "merged" / "model.onnx").read_bytes()
    assert not (version / "merged").exists()
    assert (read_engine(version).plan, read_engine(version).plan_by_batch) == ("merged", {})

    both = write_repository([engine.path], tmp_path / "python", backends=PYTHON, report=said.append)
    assert len(said) == 1
    assert read_engine(both.path / "duo" / "1").kept_plans == ("merged", "sequential")


def test_what_does_not_go_together_is_refused(
    tmp_path: Path, split_engine: Manifest, openvino_engine: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "repository"
    with pytest.raises(UsageError, match=r"is for engines of plan split \(duo is sequential\): build one with"):
        write_repository([openvino_engine.path], out, backends=PYTHON, split_as="ensemble")
    with pytest.raises(UsageError, match="duo-stem would be a step of duo as an ensemble"):
        write_repository([split_engine.path] * 2, out, backends=PYTHON, names=["duo", "duo-stem"])
    with pytest.raises(IncompatibleError, match="needs Triton's backend python"):
        write_repository([split_engine.path], out, backends=frozenset({"onnxruntime"}))
    old = tmp_path / "old"
    shutil.copytree(split_engine.path, old)
    (old / "manifest.json").unlink()
    write_manifest(replace(split_engine, path=old, features=None), old)
    with pytest.raises(ArtifactError, match="build it again with --plan split"):
        write_repository([old], out, backends=PYTHON, split_as="ensemble")
    assert run(["repository", str(split_engine.path), "--out", str(out), "--split-as", "threads"]) == 2
    assert "--split-as is 'threads': allowed are process and ensemble" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
