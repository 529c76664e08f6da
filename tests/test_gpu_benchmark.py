"""benchmarks/gpu.py without a GPU: its copied rules, its numbers, its cascade, its refusal, its budget, its order."""

import ctypes
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from rrrbuild import cascade_runner
from rrrgpu import builder, engines, timing
from rrrgpu.cascade import FIRST, REST, imposed, largest_error, prepare_cascade, settled
from rrrgpu.network import Network
from rrrgpu.onnx_graph import onnx_model
from rrrgpu.order import cascade_variants, cases
from rrrgpu.plans import PLANS
from rrrgpu.shapes import REDUCED, RESNET152, branch_widths, count_macs
from rrrgpu.table import cascade_table, problems, summary
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


def test_the_first_members_settle_what_they_settle_in_the_project() -> None:
    probabilities = np.random.default_rng(0).dirichlet([0.5] * 3, (200, 2)).astype(np.float32)
    decided = settled(probabilities, 0.7)
    assert 20 < decided.sum() < 180
    assert np.array_equal(decided, cascade_runner.settled(probabilities, 0.7))


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
    compared = [(name, plan) for name, plan, precision in map(_what, document["cascades"]) if precision == "float32"]
    assert compared == [("resnet152", "sequential"), ("2", "merged"), ("2", "cascade"), ("1", "sequential")]
    for row in document["cascades"]:
        assert row["max_abs_error_probabilities"] < {"float32": 1e-5, "bfloat16": 0.05}[row["precision"]]
        assert (len(row["times_ms"]), row["p99_ms"] > 0) == (2, True)
    built = document["ahead_of_time"]
    if builder.missing("tensorrt_rtx"):
        assert all("pip install" in plan["error"] for plan in built.values())
    else:
        assert set(built) == {"sequential", "streams", "merged", "first", "rest"}
        assert all(plan["bytes"] > 1_000_000 for plan in built.values())
    assert result.stdout.splitlines()[0].startswith("| engine | network | plan |")
    assert "| engine | precision | px | batch | ResNet152 (ms) | all members (ms) |" in result.stdout
    assert "26 cases timed, 0 ended in an error, 0 left out; written to" in result.stdout.splitlines()[-1]


def _what(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["network"], row["plan"], row["precision"]


@pytest.mark.nightly
def test_when_the_budget_is_spent_the_rest_is_named_and_what_there_is_is_written(tmp_path: Path) -> None:
    result = run("--device", "cpu", "--smoke", "--budget-seconds", "0", "--out", str(tmp_path / "gpu.json"))

    assert result.returncode == 1
    assert "gpu.py: nothing was timed" in result.stderr
    assert "0 cases timed, 0 ended in an error, 26 left out; written to" in result.stdout
    assert "left out of pytorch, bfloat16, 32 px, batch 2: resnet152 sequential, resnet152 seq" in result.stdout
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["rows"] == document["cascades"] == []
    assert len(document["left_out"]) == 26
    first = document["left_out"][0]
    assert (first["network"], first["plan"], first["pixels"], first["batch"]) == ("resnet152", "sequential", 32, 2)


def test_pytorch_plans_of_all_members_come_before_engines_and_nchw_last() -> None:
    members = ["1", "2", "4", "8", "16", "32"]
    options = Namespace(
        members=members, engines=["tensorrt"], batch=[1, 8, 32], pixels=[224, 128], cascade_pixels=[224, 64]
    )
    found = [(engine, *variant) for engine, variants, _, _ in cases(options) for variant in variants]

    start, end = (index(("tensorrt", "resnet152", "sequential")) for index in (found.index, _last(found)))
    before = {("pytorch", name, plan) for name in members for plan in PLANS if name != "1" or plan == "sequential"}
    assert set(found[:start]) == {*before, ("pytorch", "resnet152", "sequential"), ("pytorch", "8", "cascade")}
    assert {variant[0] for variant in found[start:end]} == {"tensorrt"}
    assert {variant[1] for variant in found[start:] if variant[2] == "sequential-nchw"} == {"resnet152", *members}


def test_the_cascade_follows_the_plans_of_8_members_at_two_sizes_and_up_to_8_images() -> None:
    options = Namespace(members=["1", "2", "8"], engines=["tensorrt"], batch=[1, 8, 32], pixels=[32])
    options.cascade_pixels = [224, 64]
    found = list(cases(options))
    beside = [("resnet152", "sequential"), ("8", "merged"), ("8", "cascade"), ("1", "sequential")]

    sizes = [(engine, pixels, batch) for engine, variants, pixels, batch in found if variants == beside]
    assert sizes == [
        (engine, pixels, batch) for engine in ("pytorch", "tensorrt") for batch in (1, 8) for pixels in (224, 64)
    ]
    assert [variants == beside for engine, variants, *_ in found if engine == "pytorch"][:5] == [False] * 3 + [True] * 2
    assert cascade_variants(["1"]) == []
    assert cascade_variants(["1", "4", "16"])[2] == ("16", "cascade")


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


def test_calls_that_differ_are_timed_in_blocks_whose_order_rotates() -> None:
    called: list[tuple[str, int]] = []

    def failing(number: int) -> None:
        called.append(("b", number))
        raise RuntimeError("refused")

    calls = {name: lambda number, name=name: called.append((name, number)) for name in "ac"}
    times, failed = timing.in_blocks({"a": calls["a"], "b": failing, "c": calls["c"]}, 2, 2)
    in_order = " ".join(f"{name}{number}" for name, number in called)
    assert in_order == "a0 a0 a1 b0 c0 c0 c1 c2 c2 c3 a2 a2 a3"  # the first call of a block does not count
    assert (set(times), len(times["a"]["times_ms"])) == ({"a", "c"}, 2)
    assert str(failed["b"]) == "refused"


def test_exactly_the_share_that_is_imposed_is_left_open_in_random_places() -> None:
    rows = imposed(0.93, calls=100, batch=8)
    assert sum(map(len, rows)) == 56
    assert len(rows) == 100
    assert {row for open_rows in rows for row in open_rows} == set(range(8))
    assert imposed(1.0, 3, 1) == [[], [], []]


def test_a_cascade_answers_what_all_members_do_and_the_rest_only_for_the_rows_that_are_left_open() -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8))
    network = Network("3", REDUCED, 3, 5, 8)
    _, expected = Network("3", REDUCED, 3, 5, 1).to(torch.float64, "cpu").run_sequential(images)
    parts = [network.some(members).to(torch.float32, "cpu") for members in (slice(2), slice(2, None))]
    cascade = prepare_cascade(parts[0], parts[1], images)

    assert np.abs(cascade()[1].numpy() - expected.numpy()).max() < 1e-5
    early, late = cascade.ask([2, 0])
    assert late is not None
    assert np.abs(early - expected[:, :2].numpy()).max() < 1e-5
    assert np.abs(late - expected[[2, 0], 2:].numpy()).max() < 1e-5
    assert cascade.ask([])[1] is None
    assert largest_error(cascade, expected) < 1e-5
    assert largest_error(cascade, expected.flip(1)) > 1e-3
    assert np.isnan(largest_error(cascade, expected * float("nan")))


def test_cascades_have_a_table_and_what_is_wrong_with_them_counts() -> None:
    size = {"engine": "tensorrt", "precision": "float16", "pixels": 224, "batch": 1}
    fine = {**size, "max_abs_error_probabilities": 1e-3, "p99_ms": 2.0}
    rows = [
        {**fine, "network": "resnet152", "plan": "sequential", "times_ms": [8.0, 8.0]},
        {**fine, "network": "8", "plan": "merged", "times_ms": [2.0, 2.0]},
        {**fine, "network": "8", "plan": "cascade", "times_ms": [1.0, 1.0], "p99_ms": 3.0},
        {**size, "network": "1", "plan": "sequential", "error": "RuntimeError: no\nmemory"},
    ]
    header, _, line = cascade_table(rows)
    assert header.count("|") == line.count("|")
    assert line == (
        "| tensorrt | float16 | 224 | 1 | 8.000 | 2.000 | RuntimeError: no memory | 1.000 "
        "| 8.00x (8.00 to 8.00) | 2.00x (2.00 to 2.00) |  | 1.50 | 1.0e-03 |"
    )
    document = {"rows": [], "cascades": rows, "left_out": [], "unusable": None}
    assert summary(document, Path("x"))[0] == "3 cases timed, 1 ended in an error, 0 left out; written to x"
    assert problems(document) == []
    rows[2]["max_abs_error_probabilities"] = float("nan")
    assert "a probability differs from float64's" in problems(document)[0]


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


def test_the_graphs_of_a_cascade_are_its_two_parts() -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    network = Network("3", REDUCED, 3, 5, 8)
    whole = Network("3", REDUCED, 3, 5, 1).to(torch.float64, "cpu")
    _, expected = whole.run_sequential(torch.from_numpy(images))
    parts = {FIRST: network.some(slice(2)), REST: network.some(slice(2, None))}
    models = {name: onnx_model(part, merged=True, half=False, pixels=32, part=name) for name, part in parts.items()}

    _, early, features = onnxruntime.InferenceSession(models[FIRST]).run(None, {"images": images})
    _, late = onnxruntime.InferenceSession(models[REST]).run(None, {"features": features[1:]})

    assert (early.shape, features.shape, late.shape) == ((2, 2, 5), (2, 512, 4, 4), (1, 1, 5))
    assert np.abs(np.concatenate([early[1:], late], axis=1) - expected[1:].numpy()).max() < 1e-5


class HostTrt:
    """TensorRT played by ONNX Runtime in this machine's memory."""

    profiles: list[int] = []  # noqa: RUF012 - as they were chosen

    class ILogger:
        Severity = type("Severity", (), {"WARNING": 1})

    class Runtime:
        def __init__(self, _: object) -> None: ...

        def deserialize_cuda_engine(self, model: bytes) -> "HostEngine":
            return HostEngine(model)


class HostEngine:
    num_aux_streams, num_layers = 0, 1

    def __init__(self, model: bytes) -> None:
        self.model, self.session = model, onnxruntime.InferenceSession(model)
        self.addresses: dict[str, int] = {}

    def get_tensor_shape(self, name: str) -> list[Any]:
        return next(output.shape for output in self.session.get_outputs() if output.name == name)

    def create_execution_context(self) -> "HostEngine":
        return HostEngine(self.model)

    def set_optimization_profile_async(self, profile: int, _: int) -> bool:
        HostTrt.profiles.append(profile)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.source, self.shape = name, shape
        return True

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, _: int) -> bool:
        kind = np.uint8 if self.source == "images" else np.float16
        inputs = {self.source: array_at(self.addresses[self.source], kind, self.shape)}
        names = [output.name for output in self.session.get_outputs()]
        for name, values in zip(names, self.session.run(names, inputs), strict=True):
            array_at(self.addresses[name], values.dtype, values.shape)[:] = values
        return True


def array_at(address: int, dtype: Any, shape: tuple[int, ...]) -> Any:
    memory: Any = (ctypes.c_char * (int(np.prod(shape)) * np.dtype(dtype).itemsize)).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


def test_engines_of_a_cascade_read_the_gathered_rows_by_the_profile_of_the_nearest_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "missing", lambda _: None)
    monkeypatch.setattr(engines, "imported", lambda _: HostTrt)
    monkeypatch.setattr(
        engines,
        "build",
        lambda _, network, plan, pixels, __: (
            onnx_model(network, merged=True, half=True, pixels=pixels, part=plan),
            ["told"],
        ),
    )
    monkeypatch.setattr(engines, "captured", lambda execute: (SimpleNamespace(replay=execute), None))
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8))
    network = Network("3", REDUCED, 3, 5, 8)
    _, expected = Network("3", REDUCED, 3, 5, 1).to(torch.float64, "cpu").run_sequential(images)
    row: dict[str, Any] = {}

    halves = network.some(slice(2)), network.some(slice(2, None))
    cascade = engines.Engines().cascade("tensorrt", *halves, images, [1, 4], row)

    assert HostTrt.profiles == [1, 0, 0, 1, 1]  # the first part's, then the other's for 1 to 4 rows
    assert row[FIRST]["warnings"] == row[REST]["warnings"] == ["told"]
    assert np.abs(cascade()[1].numpy() - expected.numpy()).max() < 0.02
    early, late = cascade.ask([3, 1])
    assert late is not None
    assert np.abs(early - expected[:, :2].numpy()).max() < 0.02
    assert np.abs(late - expected[[3, 1], 2:].numpy()).max() < 0.02
