"""benchmarks/gpu.py without a GPU: its copied rules, its numbers, its refusal, its budget, its order."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from rrrgpu import engines, timing
from rrrgpu.network import Network
from rrrgpu.onnx_graph import onnx_model
from rrrgpu.order import cases
from rrrgpu.plans import PLANS
from rrrgpu.shapes import REDUCED, RESNET152, branch_widths, count_macs
from rrrnet.network import architecture

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


@pytest.mark.nightly
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
    assert "18 cases timed, 0 ended in an error, 0 left out; written to" in result.stdout.splitlines()[-1]


@pytest.mark.nightly
def test_when_the_budget_is_spent_the_rest_is_named_and_what_there_is_is_written(tmp_path: Path) -> None:
    result = run("--device", "cpu", "--smoke", "--budget-seconds", "0", "--out", str(tmp_path / "gpu.json"))

    assert result.returncode == 1
    assert "gpu.py: nothing was timed" in result.stderr
    assert "0 cases timed, 0 ended in an error, 18 left out; written to" in result.stdout
    assert "left out of pytorch, bfloat16, 32 px, batch 2: resnet152 sequential, resnet152 seq" in result.stdout
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["rows"] == []
    assert len(document["left_out"]) == 18
    first = document["left_out"][0]
    assert (first["network"], first["plan"], first["pixels"], first["batch"]) == ("resnet152", "sequential", 32, 2)


def test_pytorch_plans_of_all_members_come_before_engines_and_nchw_last() -> None:
    members = ["1", "2", "4", "8", "16", "32"]
    options = Namespace(members=members, engines=["tensorrt"], batch=[1, 8, 32], pixels=[224, 128])
    found = [(engine, *variant) for engine, variants, _, _ in cases(options) for variant in variants]

    start, end = (index(("tensorrt", "resnet152", "sequential")) for index in (found.index, _last(found)))
    before = {("pytorch", name, plan) for name in members for plan in PLANS if name != "1" or plan == "sequential"}
    assert set(found[:start]) == {*before, ("pytorch", "resnet152", "sequential")}
    assert {variant[0] for variant in found[start:end]} == {"tensorrt"}
    assert {variant[1] for variant in found[start:] if variant[2] == "sequential-nchw"} == {"resnet152", *members}


def _last(items: list[Any]) -> Any:
    return lambda item: len(items) - 1 - items[::-1].index(item)


def test_as_many_calls_are_timed_together_as_take_some_10_ms() -> None:
    assert [timing.calls_for(call_ms) for call_ms in (0, 0.2, 1, 15)] == [100, 50, 10, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_exits_4_and_says_what_to_do() -> None:
    result = run()

    assert result.returncode == 4
    assert "finds no NVIDIA GPU" in result.stderr
    assert "--device cpu --smoke" in result.stderr
    assert result.stdout == ""


@pytest.mark.nightly
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
