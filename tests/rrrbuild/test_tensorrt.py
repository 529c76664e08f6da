"""TensorRT-RTX builds real engines here, without a GPU; what runs on one is marked `gpu`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from rrrbuild import machine, runtime_tensorrt
from rrrbuild.build import build_engine
from rrrbuild.compile_tensorrt import compile_engine
from rrrbuild.engine import incompatibility, load_engine
from rrrbuild.job import CompileJob
from rrrbuild.manifest import BatchRange, Manifest
from rrrbuild.targets import TARGETS
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import CheckFailedError, IncompatibleError
from rrrnet.inference import predictor

BATCH = BatchRange(1, 2, 4)
RTX = TARGETS["tensorrt-rtx-fp16"]
NO_GPU = machine.gpu() is None
needs_rtx = pytest.mark.skipif(machine.package_version("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Manifest:
    out = tmp_path_factory.mktemp("engines") / RTX.name
    return build_engine(checkpoint.path, RTX.name, batch=BATCH, out=out)


@needs_rtx
def test_a_plan_is_built_ahead_of_time_for_five_generations(plan: Manifest) -> None:
    assert plan.engine_bytes == plan.files["model.plan"]["size_bytes"] > 500_000
    assert plan.device["built_for"] == ["7.5", "8.0", "8.6", "8.9", "12.0"]
    assert plan.versions["tensorrt_rtx"] == machine.package_version("tensorrt_rtx")
    log = (plan.path / "build.log").read_text()
    assert "Opset version:    17" in log
    assert "ERROR" not in log


@needs_rtx
def test_what_is_known_of_an_engine_lies_beside_it_under_the_seal(plan: Manifest) -> None:
    info = json.loads((plan.path / "engine.json").read_text())["model"]

    assert plan.files.keys() > {"engine.json", "build.log", "split.csv"}
    assert info["profiles"] == [[1, 2, 4]]  # TensorRT-RTX compiles for other sizes when it meets them
    assert info["builder_optimization_level"] == 3
    assert ("layers" in info) is (plan.verified is not False)  # read back where a GPU opens the engine


@needs_rtx
def test_an_int8_network_with_explicit_quantisation_is_built_as_it_stands(tmp_path: Path) -> None:
    target = replace(RTX, name="tensorrt-rtx-int8", precision="int8")
    sizes = {}
    for quantised in (False, True):
        folder = tmp_path / str(quantised)
        folder.mkdir()
        built = compile_engine(CompileJob(convolution(quantised=quantised), folder, target, BATCH))
        assert built.built_for == ["8.0", "8.6", "8.9", "12.0"]
        sizes[quantised] = (folder / "model.plan").stat().st_size
    # 256 x 256 x 3 x 3 weights, for all four generations once: one byte each instead of four.
    assert sizes[False] - sizes[True] == pytest.approx(3 * 256 * 256 * 9, rel=0.2)


def convolution(*, quantised: bool) -> bytes:
    """uint8 images -> float32 -> one convolution, whose input and weights go through Q/DQ pairs if `quantised`."""
    weight = np.random.default_rng(0).normal(size=(256, 256, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]),
    ]
    constants = [numpy_helper.from_array(weight, "weight")]
    inputs = ["x", "weight"]
    if quantised:
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        constants = [
            numpy_helper.from_array(np.float32(2.0), "x.scale"),
            numpy_helper.from_array(np.int8(0), "x.zero"),
            numpy_helper.from_array(scale, "weight.scale"),
            numpy_helper.from_array(np.zeros(256, np.int8), "weight.zero"),
            numpy_helper.from_array(np.rint(weight / scale[:, None, None, None]).astype(np.int8), "weight"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "x.scale", "x.zero"], ["x.int8"]),
            helper.make_node("DequantizeLinear", ["x.int8", "x.scale", "x.zero"], ["x.dq"]),
            helper.make_node("DequantizeLinear", ["weight", "weight.scale", "weight.zero"], ["weight.dq"], axis=0),
        ]
        inputs = ["x.dq", "weight.dq"]
    nodes.append(helper.make_node("Conv", inputs, ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 8, 8, 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 256, 8, 8])],
        constants,
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_the_runtime_says_which_cuda_call_fails_or_that_the_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"not a plan")
    manifest = {"family": "tensorrt_rtx", "batch": {"max": 4}, "outputs": []}

    with pytest.raises(RuntimeError, match=r"tensorrt_rtx refuses .*model\.plan: its log on standard error tells why"):
        runtime_tensorrt.load(tmp_path, manifest, None)


@needs_rtx
@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_a_plan_that_cannot_run_here_says_that_it_is_not_verified_and_why(plan: Manifest) -> None:
    assert plan.verified is False
    assert "no NVIDIA GPU" in plan.unverified_reason
    with pytest.raises(IncompatibleError, match="cannot run here: this machine has no NVIDIA GPU"):
        load_engine(plan.path)


@needs_rtx
def test_a_network_that_the_parser_refuses_is_reported_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"tensorrt_rtx does not take the exported network: .+"):
        compile_engine(CompileJob(b"not a model", tmp_path, RTX, BATCH))


def test_a_gpu_that_the_plan_was_not_built_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "missing_package", lambda module, extra: None)
    monkeypatch.setattr(machine, "package_version", lambda package: "1.7.1.116")
    monkeypatch.setattr(machine, "gpu", lambda: machine.Gpu("NVIDIA H100", "9.0", "580.1"))

    assert incompatibility(RTX, "1.7.0.3", ["8.0", "9.0"]) is None
    assert incompatibility(RTX, "1.7.0.3", ["8.0", "8.6"]) == (
        "built for GPUs of compute capability 8.0, 8.6, have NVIDIA H100 (9.0)"
    )
    assert "built for tensorrt_rtx 1.6.0.3, have 1.7.1.116" in str(incompatibility(RTX, "1.6.0.3", ["9.0"]))
    exact = TARGETS["tensorrt-fp16"]
    assert "built for tensorrt 1.7.1.115" in str(incompatibility(exact, "1.7.1.115", ["9.0"]))


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="no NVIDIA GPU")
@pytest.mark.parametrize("name", ["tensorrt-fp16", "tensorrt-rtx-fp16"])
def test_a_plan_gives_what_pytorch_gives(name: str, tmp_path: Path, checkpoint: Checkpoint) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    try:
        manifest = build_engine(checkpoint.path, name, batch=BATCH, out=tmp_path / "engine")
    except IncompatibleError as error:
        pytest.skip(str(error))
    if manifest.verified is False:
        pytest.skip(manifest.unverified_reason)

    engine, reference = load_engine(tmp_path / "engine"), predictor(checkpoint)(images)

    # Batches of 4 and 3. The first call of a size is captured, the next ones launch its graph on other images.
    for _ in range(2):
        assert np.abs(engine(images) - reference).max() <= 0.05
        assert np.abs(engine(images[::-1]) - reference[::-1]).max() <= 0.05
