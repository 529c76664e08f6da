"""`rrr build`, `rrr targets` and `rrr repository` through the command line's own entry."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rrrbuild import machine
from rrrbuild.manifest import Manifest, read_engine
from rrrbuild.repository_document import ServedModel, read_repository
from rrrbuild.targets import TARGETS
from rrrnet.checkpoint import Checkpoint
from rrrnet.installing import install_line
from rrrserve.cli import run

Capture = pytest.CaptureFixture[str]


def test_build_prints_its_steps_and_what_came_out(tmp_path: Path, checkpoint: Checkpoint, capsys: Capture) -> None:
    out = tmp_path / "engine"
    code = run(
        ["build", str(checkpoint.path), "--target", "onnxruntime-fp32", "--batch", "1,1,2", "--out", str(out), "--json"]
    )

    printed = capsys.readouterr()
    assert code == 0
    (engine,) = json.loads(printed.out)["engines"]
    assert (engine["name"], engine["target"]) == ("duo", "onnxruntime-fp32")
    assert engine["plan"] in ("sequential", "merged", "split")
    assert engine["verified"]["images"] == 12
    assert {plan: set(rows) for plan, rows in engine["latency_ms"].items()} == {
        "sequential": {"1", "2"},
        "merged": {"1", "2"},
        "split": {"1", "2"},
    }
    assert engine["size_bytes"] == sum(path.stat().st_size for path in out.rglob("*.onnx")) > 1_000_000
    assert "onnxruntime-fp32: verifying against PyTorch on 12 images (test split of colours)" in printed.err
    assert read_engine(out).name == "duo"


def test_build_writes_below_artifacts_by_default_one_engine_for_each_target(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["build", str(checkpoint.path), "--target", "openvino-fp32", "--target", "onnxruntime-fp32"]
    code = run([*arguments, "--batch", "1,1,1", "--plan", "merged"])

    assert code == 0
    assert "accuracy" in capsys.readouterr().out
    engines = Path("artifacts/engines/duo")
    assert [read_engine(engines / name).target for name in ("openvino-fp32", "onnxruntime-fp32")] == [
        "openvino-fp32",
        "onnxruntime-fp32",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "tensorflow"], "unknown target 'tensorflow': allowed are openvino-fp32"),
        (["--target", "openvino-fp32", "--plan", "streams"], "not the branches of one request"),
        (["--target", "openvino-fp32", "--batch", "8"], "e.g. --batch 1,8,32; for at most 8 that is --batch 1,8,8"),
        (["--target", "openvino-fp32", "--images", "0"], "--images is 0"),
        (["--target", "openvino-fp32", "--target", "onnxruntime-fp32", "--out", "x"], "--out takes one engine"),
        (["--target", "openvino-fp32", "--data", "nowhere"], "nowhere"),
    ],
)
def test_usage_errors_exit_with_2_or_name_the_bad_input(
    arguments: list[str], message: str, checkpoint: Checkpoint, capsys: Capture
) -> None:
    code = run(["build", str(checkpoint.path), *arguments])

    assert code == (3 if "nowhere" in arguments else 2)
    assert message in " ".join(capsys.readouterr().err.split())


def test_build_of_a_folder_that_is_no_checkpoint_exits_with_3(tmp_path: Path, capsys: Capture) -> None:
    assert run(["build", str(tmp_path), "--target", "openvino-fp32"]) == 3
    assert "model.json is missing" in capsys.readouterr().err


@pytest.mark.skipif(machine.package_version("tensorrt") is not None, reason="tensorrt is installed")
@pytest.mark.parametrize("target", ["tensorrt-fp16", "tensorrt-int8"])
def test_build_for_a_missing_runtime_exits_with_4_and_says_what_to_install(
    target: str, tmp_path: Path, checkpoint: Checkpoint, capsys: Capture
) -> None:
    assert run(["build", str(checkpoint.path), "--target", target, "--out", str(tmp_path / "engine")]) == 4
    assert install_line("tensorrt") in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("target", ["openvino-fp32", "onnxruntime-fp32"])
def test_build_on_a_full_disk_exits_with_5_and_leaves_nothing(
    target: str, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    rrr = Path(sys.executable).with_name("rrr")
    done = subprocess.run(
        [rrr, "build", str(checkpoint.path), "--target", target, "--out", str(tmp_path / "engine")],
        preexec_fn=small_files_only,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 5
    assert f"no space left while writing {tmp_path / 'engine'}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_targets_lists_every_target_with_what_to_do(capsys: Capture) -> None:
    assert run(["targets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["targets"]}
    assert set(rows) == set(TARGETS)
    assert rows["onnxruntime-fp32"]["can_build"]
    assert rows["onnxruntime-fp32"]["can_run"]
    for row in rows.values():
        assert row["can_run"] == (row["run_obstacle"] is None)

    assert run(["targets"]) == 0
    assert "tensorrt-rtx-fp16" in capsys.readouterr().out


def test_repository_lists_its_models(tmp_path: Path, openvino_engine: Manifest, capsys: Capture) -> None:
    out = tmp_path / "repository"
    code = run(["repository", str(openvino_engine.path), "--out", str(out), "--json"])

    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in document["models"]] == ["duo"]
    assert document["models"][0]["labels"] == ["red", "green", "blue"]
    assert ServedModel.from_json(document["models"][0]) == read_repository(out).models[0]
    assert run(["repository", str(openvino_engine.path), "--out", str(out)]) == 0  # one of ours is replaced
    assert "openvino-fp32" in capsys.readouterr().out


def test_repository_is_written_for_another_triton_if_its_backends_are_given(
    tmp_path: Path, checkpoint: Checkpoint, capsys: Capture
) -> None:
    engine, out = tmp_path / "engine", tmp_path / "repository"
    build = ["build", str(checkpoint.path), "--target", "onnxruntime-fp32", "--plan", "sequential", "--batch", "1,1,1"]
    assert run([*build, "--out", str(engine)]) == 0
    assert run(["repository", str(engine), "--out", str(out), "--backends", "python, onnxruntime"]) == 0
    assert read_repository(out).models[0].backend == "onnxruntime"
    assert not (out / "duo" / "1" / "model.py").exists()

    capsys.readouterr()
    assert run(["repository", str(engine), "--out", str(out), "--backends", "tensorrt,pyton"]) == 2
    assert "allowed are onnxruntime, openvino, python, tensorrt, with commas" in capsys.readouterr().err


def test_repository_refuses_a_folder_that_is_no_engine(tmp_path: Path, capsys: Capture) -> None:
    assert run(["repository", str(tmp_path / "absent"), "--out", str(tmp_path / "repository")]) == 3
    assert "absent does not exist" in capsys.readouterr().err
