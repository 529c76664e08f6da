"""benchmarks/gpu.py without a GPU: its copied rules, its numbers, its refusal, its budget."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from rrrgpu import engines
from rrrgpu.network import Network
from rrrgpu.onnx_graph import onnx_model
from rrrgpu.shapes import REDUCED, RESNET152, branch_widths, count_macs
from rrrnet import architecture

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)


@pytest.mark.parametrize("classes", [3, 20, 62, 706])
def test_the_copied_rules_are_those_of_the_project(classes: int) -> None:
    for members in (1, 2, 4, 8, 16, 32):
        widths = branch_widths(classes, members)
        assert widths == architecture.branch_widths(classes, members)
        ours = architecture.ensemble(classes, members)
        for pixels in (32, 100, 128, 224):
            wanted = architecture.cost(ours, pixels)["total"]["macs"]
            assert count_macs(REDUCED, widths, classes, members, pixels) == wanted
    full = architecture.full(classes)
    assert count_macs(RESNET152, (256, 512), classes, 1, 224) == architecture.cost(full, 224)["total"]["macs"]


def test_on_a_cpu_every_plan_gives_what_float64_gives(tmp_path: Path) -> None:
    result = run("--device", "cpu", "--smoke", "--out", str(tmp_path / "gpu.json"))

    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["peak_tflops"]["float32"] > 0
    assert document["left_out"] == []
    rows = {(row["network"], row["plan"], row["precision"]): row for row in document["rows"]}
    plans = [(name, plan) for name in ("resnet152", "1") for plan in ("sequential", "sequential-nchw")]
    plans += [("2", plan) for plan in ("sequential", "merged", "streams", "split", "sequential-nchw")]
    assert set(rows) == {(*plan, precision) for plan in plans for precision in ("float32", "bfloat16")}
    for (_, _, precision), row in rows.items():
        assert row["max_abs_error_probabilities"] < {"float32": 1e-5, "bfloat16": 0.05}[precision]
        assert row["gpu_ms"] > 0
    assert all(row["share_of_peak"] > 0 for row in document["rows"] if row["precision"] == "float32")
    built = document["ahead_of_time"]
    if engines.missing("tensorrt_rtx"):
        assert all("pip install" in plan["error"] for plan in built.values())
    else:
        assert set(built) == {"sequential", "streams", "merged"}
        assert all(plan["bytes"] > 1_000_000 for plan in built.values())
    assert result.stdout.splitlines()[0].startswith("| engine | network | plan |")
    assert "18 cases timed, 0 left out" in result.stdout


def test_when_the_budget_is_spent_the_rest_is_named_and_what_there_is_is_written(tmp_path: Path) -> None:
    result = run("--device", "cpu", "--smoke", "--budget-seconds", "0", "--out", str(tmp_path / "gpu.json"))

    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["rows"] == []
    assert len(document["left_out"]) == 18
    first = document["left_out"][0]
    assert (first["network"], first["plan"], first["pixels"], first["batch"]) == ("resnet152", "sequential", 32, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_exits_4_and_says_what_to_do() -> None:
    result = run()

    assert result.returncode == 4
    assert "finds no NVIDIA GPU" in result.stderr
    assert "--device cpu --smoke" in result.stderr
    assert result.stdout == ""


def test_a_cpu_is_not_timed_and_zero_members_are_refused() -> None:
    assert run("--device", "cpu").returncode == 2
    wrong = run("--members", "0")
    assert wrong.returncode == 2
    assert "'0' is not a number of at least 1" in wrong.stderr


@pytest.mark.parametrize("merged", [False, True])
def test_the_graph_that_engines_are_built_of_is_the_same_network(merged: bool) -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8))
    network = Network("3", REDUCED, 3, 5, 8)
    logits, probabilities = Network("3", REDUCED, 3, 5, 1).to(torch.float64, "cpu").run_sequential(images)

    model = onnx_model(network, merged=merged, half=False, pixels=32)
    found = onnxruntime.InferenceSession(model).run(None, {"images": images.numpy()})

    assert found[0].shape == (2, 3, 5)
    assert np.abs(found[0] - logits.numpy()).max() < 1e-4
    assert np.abs(found[1] - probabilities.numpy()).max() < 1e-5
    half = onnx_model(network, merged=merged, half=True, pixels=32)
    assert 0.45 < len(half) / len(model) < 0.55
