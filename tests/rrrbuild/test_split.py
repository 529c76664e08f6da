"""Plan split: the graph is cut and nothing else, members run side by side and are timed, engines of several plans."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from rrrbuild import machine
from rrrbuild.build import build_engine
from rrrbuild.cutting import cut, features_of
from rrrbuild.engine import load_engine
from rrrbuild.export import export_onnx
from rrrbuild.manifest import BatchRange, read_engine
from rrrbuild.plan_runner import ByBatch, InLanes, plans_by_size
from rrrbuild.targets import TARGETS, build_obstacle, run_obstacle
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import CheckFailedError
from rrrserve.cli import run

BATCH = BatchRange(1, 2, 4)
CPU_TARGETS = [name for name, row in TARGETS.items() if not row.on_gpu]
needs_rtx = pytest.mark.skipif(machine.package_version("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
Images = npt.NDArray[np.uint8]


def call(model: bytes, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    (result,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)
    return np.asarray(result)


def run_parts(parts: dict[str, bytes], images: Images) -> npt.NDArray[Any]:
    features = call(parts["stem"], images=images)
    members = [call(model, features=features) for name, model in parts.items() if name != "stem"]
    return np.stack(members, axis=1)


def weights(model: bytes) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in onnx.load_from_string(model).graph.initializer}


@pytest.mark.parametrize("half", [False, True])
def test_the_parts_compute_what_the_whole_computes_with_the_same_weights(
    half: bool, checkpoint: Checkpoint, images: Images
) -> None:
    whole = export_onnx(checkpoint, plan="sequential", half=half)
    parts = cut(whole)

    assert list(parts) == ["stem", "member_0", "member_1"]
    assert np.abs(run_parts(parts, images) - call(whole, images=images)).max() < (2e-3 if half else 1e-6)
    assert features_of(parts["stem"]) == {
        "name": "features",
        "dtype": "float16" if half else "float32",
        "shape": [-1, 512, 4, 4],
    }
    everything = weights(whole)
    del everything["probabilities.shape"]
    held = [weights(part) for part in parts.values()]
    assert {name for part in held for name in part} == set(everything)
    assert sum(len(part) for part in held) == len(everything)
    assert all(part[name] == everything[name] for part in held for name in part)


def quantised(model: bytes, tensors: list[str]) -> bytes:
    """With QuantizeLinear and DequantizeLinear on some tensors, as a quantiser puts them: one pair for all readers."""
    network = onnx.load_from_string(model)
    graph = network.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0.05, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.uint8), "zero"),
        ]
    )
    nodes = []
    for node in graph.node:
        node.input[:] = [f"{name}.restored" if name in tensors else name for name in node.input]
        nodes.append(node)
        for name in set(tensors).intersection(node.output):
            nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}.quantised"]))
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}.quantised", "scale", "zero"], [f"{name}.restored"])
            )
    rebuilt = helper.make_graph(nodes, "quantised", graph.input, graph.output, graph.initializer)
    return bytes(helper.make_model(rebuilt, ir_version=8, opset_imports=network.opset_import).SerializeToString())


def test_a_quantised_graph_is_cut_where_the_stem_hands_on_8_bits(checkpoint: Checkpoint, images: Images) -> None:
    whole = export_onnx(checkpoint, plan="sequential", half=False)
    operators = onnx.load_from_string(whole).graph.node
    join = next(node for node in operators if node.op_type == "Concat")
    (border,) = {
        name
        for node in operators
        for name in node.input
        if name.startswith("layer2") and node.name.startswith("members.")
    }
    whole = quantised(whole, [border, *join.output])
    parts = cut(whole)

    assert features_of(parts["stem"])["dtype"] == "uint8"
    assert np.abs(run_parts(parts, images) - call(whole, images=images)).max() < 1e-6
    for name, model in parts.items():
        found = [node.op_type for node in onnx.load_from_string(model).graph.node]
        assert found.count("DequantizeLinear") == (0 if name == "stem" else 2)
        assert found.count("QuantizeLinear") == 1


def test_a_graph_whose_members_read_two_tensors_of_the_stem_is_not_cut(checkpoint: Checkpoint) -> None:
    network = onnx.load_from_string(export_onnx(checkpoint, plan="sequential", half=False))
    first = next(node for node in network.graph.node if node.name == "members.0.layer3.0.conv1.output")
    twin = onnx.NodeProto()
    twin.CopyFrom(next(node for node in network.graph.node if first.input[0] in node.output))
    twin.name, twin.output[0] = "twin", "twin"
    at = list(network.graph.node).index(first)
    network.graph.node.insert(at, twin)
    for node in network.graph.node:
        if node.name in ("members.0.layer3.0.conv1.output", "members.1.layer3.0.conv1.output"):
            node.input[0] = "twin"

    with pytest.raises(CheckFailedError, match=r"members read 2 tensors of the stem .*--plan sequential"):
        cut(network.SerializeToString())


@pytest.fixture(scope="module", params=CPU_TARGETS)
def split_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoint: Any) -> Path:
    if reason := build_obstacle(TARGETS[request.param]) or run_obstacle(TARGETS[request.param]):
        pytest.skip(reason)
    out = tmp_path_factory.mktemp("split") / str(request.param)
    build_engine(checkpoint.path, request.param, plan="split", batch=BATCH, out=out, images=4)
    return out


def test_a_split_engine_holds_a_file_for_the_stem_and_for_each_member(split_engine: Path) -> None:
    manifest = read_engine(split_engine)
    endings = [Path(name).suffix for name in TARGETS[manifest.target].files]

    parts = {f"{part}{ending}" for part in ("stem", "member_0", "member_1") for ending in endings}
    assert set(manifest.files) == {*parts, "split.csv"}
    assert (manifest.plan, manifest.kept_plans, manifest.plan_by_batch) == ("split", ("split",), {})
    assert manifest.features is not None
    assert manifest.features["shape"] == [-1, 512, 4, 4]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_split_engine_tells_what_each_member_took(split_engine: Path, images: Images, threads: int) -> None:
    engine = load_engine(split_engine, threads=threads)
    first = engine(images[:1])
    took = engine.runner.member_seconds  # type: ignore[attr-defined]
    again = engine(images)

    assert len(took) == 2
    assert all(0 < seconds < 10 for seconds in took)
    assert took is not engine.runner.member_seconds  # type: ignore[attr-defined]
    assert np.abs(first[0] - again[0]).max() < 0.05
    assert again.shape == (3, 2, 3)


def test_members_share_a_few_threads_and_keep_their_order(images: Images) -> None:
    threads, both = set(), threading.Barrier(2, timeout=10)

    def member(index: int) -> Callable[[Any], npt.NDArray[np.float32]]:
        def answer(features: int) -> npt.NDArray[np.float32]:
            threads.add(threading.get_ident())
            if index < 2:
                both.wait()  # passes only if two members run at the same time
            return np.full((features, 4), index, np.float32)

        return answer

    runner = InLanes(len, [member(index) for index in range(7)], lanes=2)
    found = runner(images)

    assert found.shape == (3, 7, 4)
    assert np.array_equal(found[2, :, 3], np.arange(7))
    assert len(threads) == 2
    assert threading.get_ident() in threads


def test_a_member_that_fails_fails_the_call_after_the_others_are_done(images: Images) -> None:
    done = []

    def broken(features: Any) -> npt.NDArray[np.float32]:
        raise RuntimeError("member 1 is broken")

    def good(features: Any) -> npt.NDArray[np.float32]:
        done.append(1)
        return np.zeros((3, 4), np.float32)

    with pytest.raises(RuntimeError, match="member 1 is broken"):
        InLanes(len, [good, broken, good, good], lanes=2)(images)
    assert len(done) == 3


def test_a_batch_goes_to_the_plan_of_the_smallest_measured_size_that_holds_it() -> None:
    def named(name: str) -> Callable[[Images], Any]:
        return lambda images: f"{name}{len(images)}"

    run_batch = ByBatch({1: named("a"), 4: named("b"), 16: named("a")})

    answers = [run_batch(np.zeros((size, 1, 1, 3), np.uint8)) for size in (1, 2, 4, 5, 16)]
    assert answers == ["a1", "b2", "b4", "a5", "a16"]
    assert run_batch.member_seconds is None


@pytest.fixture(scope="module")
def two_plans(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, pretending: Callable[..., Any]) -> Path:
    """An engine that auto gave plan split for single images and plan merged for all others."""
    out = tmp_path_factory.mktemp("engines") / "two"
    with pretending({"sequential": (3.0, 3.0, 3.0), "merged": (2.0, 1.0, 1.0), "split": (1.0, 2.0, 2.0)}):
        build_engine(checkpoint.path, "openvino-fp32", batch=BATCH, out=out, images=6)
    return out


def test_auto_keeps_the_files_of_every_plan_that_wins_somewhere(two_plans: Path, images: Images) -> None:
    manifest = read_engine(two_plans)

    assert manifest.plan == "merged"
    assert manifest.plan_by_batch == {"1": "split", "2": "merged", "4": "merged"}
    assert plans_by_size({"plan_by_batch": manifest.plan_by_batch}) == {1: "split", 2: "merged", 4: "merged"}
    assert set(manifest.latency_ms) == {"sequential", "merged", "split"}
    assert {name.partition("/")[0] for name in manifest.files} == {"merged", "split", "split.csv"}
    assert {"merged/model.xml", "split/member_1.bin"} < set(manifest.files)
    assert "--plan auto " in manifest.command
    assert manifest.verified
    assert set(manifest.verified["max_abs_error_by_plan"]) == {"merged", "split"}

    engine = load_engine(two_plans)
    single, several = engine(images[:1]), None
    assert len(engine.runner.member_seconds) == 2  # type: ignore[attr-defined]
    several = engine(images)
    assert engine.runner.member_seconds is None  # type: ignore[attr-defined]
    assert np.abs(single[0] - several[0]).max() < 1e-5


def test_the_command_builds_a_split_engine_and_says_what_is_not_expressible(
    tmp_path: Path, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "engine"
    options = ["--target", "onnxruntime-fp32", "--batch", "1,1,2", "--out", str(out), "--images", "4"]

    assert run(["build", str(checkpoint.path), *options, "--plan", "split"]) == 0
    assert "batch 2, split" in capsys.readouterr().out
    assert (out / "member_1.onnx").is_file()

    assert run(["build", str(checkpoint.path), *options, "--plan", "streams"]) == 2
    assert "cannot be expressed for onnxruntime-fp32" in " ".join(capsys.readouterr().err.split())

    assert run(["targets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["targets"]}
    assert rows["onnxruntime-fp32"]["plans"] == ["sequential", "merged", "split"]
    assert "one stream" in rows["onnxruntime-fp32"]["plans_not_expressible"]["streams"]
    assert rows["tensorrt-rtx-fp16"]["plans"] == ["sequential", "merged", "streams", "split"]
    assert rows["tensorrt-rtx-fp16"]["plans_not_expressible"] == {}

    assert run(["targets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("plans of openvino-fp32, openvino-bf16")]
    assert ": sequential, merged, split; not streams: OpenVINO's streams run several requests" in line


@needs_rtx
def test_tensorrt_rtx_builds_every_part_and_the_manifest_tells_what_became_of_streams(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    steps: list[str] = []
    built = {
        plan: build_engine(
            checkpoint.path,
            "tensorrt-rtx-fp16",
            plan=plan,
            batch=BATCH,
            out=tmp_path / plan,
            images=4,
            report=steps.append,
        )
        for plan in ("merged", "split", "streams")
    }

    assert {plan: manifest.plan for plan, manifest in built.items()} == {plan: plan for plan in built}
    assert built["merged"].files["model.plan"]["size_bytes"] > 500_000
    assert {"stem.plan", "member_0.plan", "member_1.plan", "build.log"} < set(built["split"].files)
    assert built["split"].features == {"name": "features", "dtype": "float16", "shape": [-1, 512, 4, 4]}
    assert (built["split"].path / "build.log").read_text().count("Opset version:    17") == 3
    streams = built["streams"].device["aux_streams"]
    assert streams["asked"] == 1
    if machine.gpu() is None:
        assert streams["got"] is None  # only a GPU's driver opens an engine
    assert any(step.startswith("1 auxiliary streams were asked for: ") for step in steps)
    assert "aux_streams" not in built["split"].device


@pytest.mark.gpu
@pytest.mark.skipif(machine.gpu() is None, reason="no NVIDIA GPU")
@pytest.mark.parametrize("target", ["tensorrt-fp16", "tensorrt-rtx-fp16"])
def test_members_on_streams_of_a_gpu_give_what_one_plan_gives(
    target: str, tmp_path: Path, checkpoint: Checkpoint, images: Images
) -> None:
    if reason := build_obstacle(TARGETS[target]) or run_obstacle(TARGETS[target]):
        pytest.skip(reason)
    engines = {}
    for plan in ("sequential", "split", "streams"):
        manifest = build_engine(checkpoint.path, target, plan=plan, batch=BATCH, out=tmp_path / plan, images=4)
        if manifest.verified is False:
            pytest.skip(manifest.unverified_reason)
        engines[plan] = load_engine(tmp_path / plan)

    for plan in ("split", "streams"):
        assert np.abs(engines[plan](images) - engines["sequential"](images)).max() < 0.01
    assert all(seconds > 0 for seconds in engines["split"].runner.member_seconds)  # type: ignore[attr-defined]


def test_an_engine_of_an_earlier_manifest_keeps_its_one_plan(two_plans: Path) -> None:
    assert plans_by_size({"plan": "merged", "batch": {"max": 32}}) == {32: "merged"}
    assert replace(read_engine(two_plans), plan_by_batch={}).kept_plans == ("merged",)
