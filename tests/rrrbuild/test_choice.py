"""Which target `rrr build` takes by itself, which engine `rrr repository` does, and where INT8 is trusted."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rrrbuild import choice, machine
from rrrbuild.best_engine import pick_engine
from rrrbuild.choice import build_best
from rrrbuild.engine import distrust, load_engine
from rrrbuild.manifest import BatchRange, Manifest, read_engine, write_manifest
from rrrbuild.targets import TARGETS
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import CheckFailedError, IncompatibleError, UsageError
from rrrserve.cli import run

Capture = pytest.CaptureFixture[str]
INT8, FP32 = "openvino-int8", "openvino-fp32"
OPTIONS: dict[str, Any] = {
    "plan": "sequential",
    "batch": BatchRange(1, 1, 1),
    "max_drop": 0.5,
    "out": None,
    "data": None,
    "images": 12,
    "calibration_images": 12,
}


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with AVX2 and nothing beyond."""
    monkeypatch.setenv(machine.MASK_VARIABLE, "avx_vnni,avx512f,avx512_vnni,avx512_bf16,amx_bf16,amx_int8")
    monkeypatch.setattr(machine, "gpu", lambda: None)


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that pretends how many milliseconds targets take at every batch size."""

    def pretend(**times_ms: float) -> None:
        def measure(runners: Iterable[str], _: object, sizes: Sequence[int]) -> dict[str, Any]:
            rows = {name: {"median": times_ms[name.replace("-", "_")]} for name in runners}
            return {name: {str(size): row for size in sizes} for name, row in rows.items()}

        monkeypatch.setattr(choice, "measure_latency", measure)

    return pretend


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.mark.usefixtures("avx2")
def test_build_without_a_target_takes_the_fastest_that_passes_and_leaves_only_it(
    tmp_path: Path,
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    taking: Callable[..., None],
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    taking(openvino_int8=3, onnxruntime_int8=1.5, openvino_fp32=6, onnxruntime_fp32=8)
    arguments = ["build", str(checkpoint.path), "--plan", "sequential", "--batch", "1,2,2", "--max-drop", "9"]
    assert run([*arguments, "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert [engine["target"] for engine in document["engines"]] == ["onnxruntime-int8"]
    assert document["engines"][0]["verified"]["cpu_features"] == sorted(machine.cpu_features())
    chosen = document["choice"]
    assert (chosen["target"], chosen["plan"]) == ("onnxruntime-int8", "sequential")
    assert chosen["why"] == (
        "taking onnxruntime-int8, the fastest of 4 targets that run and pass here: 2.00 times as fast as openvino-int8 "
        "(mean over batch 1)"
    )
    trials = {trial["target"]: trial for trial in chosen["trials"]}
    assert list(trials) == [INT8, "onnxruntime-int8", "openvino-bf16", FP32, "onnxruntime-fp32"]
    assert "none of avx512_bf16" in trials["openvino-bf16"]["out"]
    assert trials[FP32]["latency_ms"] == {"1": {"median": 6}}
    assert trials[FP32]["verified"]["label_agreement"] == 1
    engines = tmp_path / "artifacts" / "engines" / "duo"
    assert [path.name for path in engines.iterdir()] == ["onnxruntime-int8"]
    assert "--target onnxruntime-int8" in read_engine(engines / "onnxruntime-int8").command


@pytest.mark.usefixtures("avx2")
def test_a_target_that_fails_its_gate_in_the_end_gives_way_to_the_next(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, taking: Callable[..., None]
) -> None:
    taking(openvino_int8=1, onnxruntime_int8=2, openvino_fp32=3, onnxruntime_fp32=4)
    asked: list[str] = []
    told: list[str] = []

    def build(_: Path, target: str, **__: object) -> str:
        asked.append(target)
        if target != FP32:
            raise CheckFailedError(f"{target}: too wrong on all images")
        return "the engine"

    monkeypatch.setattr(choice, "build_engine", build)
    engine, chosen = build_best(checkpoint.path, **{**OPTIONS, "max_drop": 9}, report=told.append)

    assert str(engine) == "the engine"
    assert asked == [INT8, "onnxruntime-int8", FP32]
    assert chosen.target == FP32
    assert [trial.out for trial in chosen.trials][:2] == [f"{name}: too wrong on all images" for name in asked[:2]]
    assert "openvino-int8 is left out: openvino-int8: too wrong on all images" in told


@pytest.mark.usefixtures("avx2")
def test_without_images_int8_is_out_and_another_is_taken(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], taking: Callable[..., None]
) -> None:
    taking(openvino_fp32=2, onnxruntime_fp32=1)
    bare = make_checkpoint(tmp_path / "bare")
    options = {**OPTIONS, "out": tmp_path / "engine"}
    engine, chosen = build_best(bare.path, **options, report=lambda _: None)

    assert engine.target == chosen.target == "onnxruntime-fp32"
    assert "never had data" in chosen.trials[0].out


@pytest.mark.usefixtures("avx2")
def test_no_target_that_can_be_tried_is_exit_4_with_every_reason(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "missing_package", lambda module, extra: f"{module} is missing")
    with pytest.raises(IncompatibleError, match="no target runs here: openvino-int8: openvino is missing; onnxruntime"):
        build_best(checkpoint.path, **OPTIONS, report=lambda _: None)
    with pytest.raises(UsageError, match="--images is 0"):
        build_best(checkpoint.path, **{**OPTIONS, "images": 0}, report=lambda _: None)


@pytest.mark.usefixtures("avx2")
def test_a_target_that_cannot_run_here_is_the_last_line_of_build_and_of_repository(
    tmp_path: Path, checkpoint: Checkpoint, capsys: Capture
) -> None:
    engine = str(tmp_path / "engine")
    build = ["build", str(checkpoint.path), "--target", "openvino-bf16", "--plan", "sequential", "--out", engine]
    assert run(build) == 0
    line = last_line(capsys.readouterr().out)
    assert line.startswith("openvino-bf16 cannot run here, so it is not verified: this CPU (")
    assert "none of avx512_bf16, amx_bf16" in line

    repository = ["repository", engine, "--out", str(tmp_path / "repository")]
    assert run(repository) == 0
    assert last_line(capsys.readouterr().out).startswith("duo cannot run here: this CPU (")
    assert run([*repository, "--json"]) == 0
    printed = capsys.readouterr()
    assert "none of avx512_bf16" in json.loads(printed.out)["models"][0]["obstacle"]
    assert last_line(printed.err).startswith("duo cannot run here: ")


def engine_like(manifest: Manifest, folder: Path, median_ms: float, **changes: Any) -> None:
    """An engine that says of itself what is asked for; its files are those of `manifest`."""
    shutil.copytree(manifest.path, folder)
    rows = {manifest.plan: {str(size): {"median": median_ms} for size in manifest.batch.sizes()}}
    write_manifest(replace(manifest, target=folder.name, latency_ms=rows, **changes), folder)


def test_of_a_models_engines_the_fastest_that_runs_here_is_taken(
    tmp_path: Path, openvino_engine: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(openvino_engine.device["cpu_features"]))
    folder = tmp_path / "duo"
    versions = {**openvino_engine.versions, "onnxruntime": machine.package_version("onnxruntime")}
    engine_like(openvino_engine, folder / "onnxruntime-fp32", 4.0, versions=versions)
    engine_like(openvino_engine, folder / FP32, 5.0)
    elsewhere = {**openvino_engine.device, "cpu": "another CPU"}
    engine_like(openvino_engine, folder / INT8, 1.0, device=elsewhere)
    never = {"verified": False, "unverified_reason": "it was never run"}
    engine_like(openvino_engine, folder / "onnxruntime-int8", 0.5, versions=versions, **never)
    picked = pick_engine(folder)

    assert (picked.target, picked.engine.name) == ("onnxruntime-fp32", "onnxruntime-fp32")
    assert "fastest of 2 by their manifests, measured here; at batch 1: onnxruntime-fp32 4.00 ms" in picked.why
    assert "; not openvino-int8 (measured elsewhere)" in picked.why
    assert "; not onnxruntime-int8 (" in picked.why

    shutil.rmtree(folder / "onnxruntime-fp32")
    assert run(["repository", str(folder), "--out", str(tmp_path / "repository"), "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert [model["target"] for model in document["models"]] == [FP32]
    assert document["chosen"][0]["engine"] == str(folder / FP32)
    assert f"{folder}: openvino-fp32 is the only one to compare" in printed.err


def test_an_engine_of_an_earlier_checkpoint_is_not_taken_however_fast(
    tmp_path: Path, openvino_engine: Manifest
) -> None:
    earlier = {**openvino_engine.checkpoint, "sha256": "0" * 64}
    engine_like(openvino_engine, tmp_path / "duo" / "onnxruntime-fp32", 1.0, checkpoint=earlier)
    engine_like(openvino_engine, tmp_path / "duo" / FP32, 5.0)

    assert pick_engine(tmp_path / "duo").target == FP32
    assert "not onnxruntime-fp32 (of another checkpoint)" in pick_engine(tmp_path / "duo").why


def test_a_folder_none_of_whose_engines_runs_here_is_exit_4_with_the_command_that_builds_one(
    tmp_path: Path, openvino_engine: Manifest, checkpoint: Checkpoint, capsys: Capture
) -> None:
    old = {**openvino_engine.versions, "openvino": "2019.1.0"}
    engine_like(openvino_engine, tmp_path / "duo" / FP32, 1.0, versions=old)

    assert run(["repository", str(tmp_path / "duo"), "--out", str(tmp_path / "repository")]) == 4
    printed = " ".join(capsys.readouterr().err.split())
    assert "openvino-fp32: built for openvino 2019.1.0" in printed
    assert "rrr build" in printed
    assert checkpoint.name in printed


@pytest.mark.parametrize(
    ("verified_on", "here", "trusted"),
    [
        ({"avx2"}, {"avx2"}, True),
        ({"avx2"}, {"avx2", "avx512_vnni"}, True),
        ({"avx2", "avx512f", "avx512_vnni"}, {"avx2"}, False),
        ({"avx2", "avx_vnni"}, {"avx2", "avx512f"}, False),
        ({"avx2"}, {"avx2", "avx512f"}, False),
    ],
)
def test_int8_is_trusted_where_its_kernels_are_exact_or_those_that_were_verified(
    verified_on: set[str], here: set[str], trusted: bool, openvino_engine: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert openvino_engine.verified is not False
    proof = {**openvino_engine.verified, "cpu_features": sorted(verified_on)}
    engine = replace(openvino_engine, target=INT8, verified=proof)
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(here))

    assert (distrust(engine, TARGETS[INT8]) is None) == trusted
    assert distrust(engine, TARGETS[FP32]) is None


def test_int8_from_a_cpu_with_vnni_is_exit_4_on_one_without_and_names_the_command(
    tmp_path: Path, openvino_engine: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    proof = {**(openvino_engine.verified or {}), "cpu_features": ["avx2", "avx512_vnni"]}
    engine = tmp_path / "duo" / INT8
    engine_like(openvino_engine, engine, 1.0, verified=proof)
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"avx2"}))

    expected = r"verified on a CPU with avx2 avx512_vnni; build it here.*built with: rrr build"
    with pytest.raises(IncompatibleError, match=expected):
        load_engine(engine)
    assert run(["repository", str(engine), "--out", str(tmp_path / "repository")]) == 0
    assert "build it here, which verifies it here" in last_line(capsys.readouterr().out)
    assert run(["serve", str(tmp_path / "repository"), "--port", "0"]) == 4
    assert "the model duo cannot run here: this CPU" in " ".join(capsys.readouterr().err.split())
