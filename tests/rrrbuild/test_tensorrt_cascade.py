"""A cascade on a GPU, with CUDA and TensorRT played by memory of this machine: what is copied where, and when."""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rrrbuild import machine, runtime_tensorrt
from rrrbuild.build import build_engine, describe
from rrrbuild.cascade import compile_cascade
from rrrbuild.cascade_runner import AUTO, FAST, FULL, Cascade
from rrrbuild.engine import incompatibility, load_runner
from rrrbuild.job import BuildOrder
from rrrbuild.manifest import BatchRange, to_document
from rrrbuild.targets import build_obstacle, target_named
from rrrnet.checkpoint import Checkpoint
from rrrnet.inference import predictor
from rrrnet.network.architecture import Architecture

needs_rtx = pytest.mark.skipif(machine.package_version("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
MANIFEST = {"family": "tensorrt", "outputs": [{"dtype": "float32"}], "batch": {"max": 4}}


class HostAsGpu:
    """The CUDA calls of the runtime; device memory is host memory, and a captured graph is what was done meanwhile."""

    cudaStreamNonBlocking = 1  # noqa: N815 - CUDA's names
    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host", cudaMemcpyDeviceToDevice="on the device"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaError_t = SimpleNamespace(cudaSuccess=0)  # noqa: N815

    def __init__(self) -> None:
        self.memory: list[Any] = []
        self.copies: list[tuple[str, int]] = []
        self.launched: list[int] = []
        self.recording: list[Callable[[], object]] | None = None
        self.graphs: list[list[Callable[[], object]]] = []

    def do(self, work: Callable[[], object]) -> tuple[int]:
        work() if self.recording is None else self.recording.append(work)
        return (0,)

    def cudaMalloc(self, size_bytes: int) -> tuple[int, int]:  # noqa: N802
        self.memory.append(ctypes.create_string_buffer(size_bytes))
        return 0, ctypes.addressof(self.memory[-1])

    cudaMallocHost = cudaMalloc  # noqa: N815

    def cudaMemcpyAsync(self, target: Any, source: Any, size_bytes: int, kind: str, _: Any) -> tuple[int]:  # noqa: N802
        self.copies.append((kind, size_bytes))
        return self.do(lambda: ctypes.memmove(int(target), int(source), size_bytes))

    def cudaStreamBeginCapture(self, *_: Any) -> tuple[int]:  # noqa: N802
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, _: Any) -> tuple[int, int]:  # noqa: N802
        assert self.recording is not None
        self.graphs.append(self.recording)
        self.recording = None
        return 0, len(self.graphs) - 1

    def cudaGraphInstantiate(self, graph: int, _: int) -> tuple[int, int]:  # noqa: N802
        return 0, graph

    def cudaGraphLaunch(self, graph: int, _: Any) -> tuple[int]:  # noqa: N802
        self.launched.append(graph)
        for work in self.graphs[graph]:
            work()
        return (0,)

    def __getattr__(self, name: str) -> Callable[..., tuple[int, int]]:  # streams, events, frees
        return lambda *_: (0, 1)


def array_at(address: int, dtype: Any, shape: tuple[int, ...]) -> Any:
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory: Any = (ctypes.c_char * size_bytes).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


class FakePart:
    """One plan: `first` gives 2 members' probabilities and doubled pixels as features, `rest` one member's."""

    captures_itself = False

    def __init__(self, path: Path, family: str) -> None:
        self.first = path.stem == "first"
        self.input_bytes, self.features_bytes = (12, 24) if self.first else (24, 0)
        self.output_shape = (2, 3) if self.first else (1, 3)
        self.output_bytes = 4 * 3 * self.output_shape[0]

    def enqueue(self, _: Any, rows: int, source: int, target: int, features: int = 0) -> None:
        gpu = runtime_tensorrt.cuda  # type: ignore[attr-defined]

        def work() -> None:
            found = array_at(target, np.float32, (rows, *self.output_shape))
            if self.first:
                images = array_at(source, np.uint8, (rows, 12))
                array_at(features, np.uint16, (rows, 12))[:] = 2 * images.astype(np.uint16)
                found[:] = np.array([0.8, 0.1, 0.1])
                found[images[:, 0] % 2 == 0, 1] = [0.1, 0.8, 0.1]  # they disagree about even ones
            else:
                pixels = array_at(source, np.uint16, (rows, 12))[:, 0]
                found[:, 0] = np.stack([pixels / 1000, 0 * pixels, 1 - pixels / 1000], axis=1)

        gpu.do(work)


def test_features_stay_on_the_gpu_and_only_undecided_rows_are_gathered_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = HostAsGpu()
    monkeypatch.setattr(runtime_tensorrt, "cuda", gpu)
    monkeypatch.setattr(runtime_tensorrt, "_Part", FakePart)
    cascade = Cascade(*runtime_tensorrt.load_cascade(Path(), MANIFEST, None), {"k": 2, "tau": 0.5, "order": [0, 1, 2]})
    images = np.array([1, 2, 4, 7], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)

    for _ in range(2):
        gpu.copies.clear()
        gpu.launched.clear()
        found = cascade.ask(images, [AUTO] * 4)
        assert np.isnan(found[[0, 3], 2]).all()
        assert found[[1, 2], 2, 0].tolist() == pytest.approx([0.004, 0.008])  # the right features, doubled pixels
        on_the_device = [size for kind, size in gpu.copies if kind == "on the device"]
        assert on_the_device == [48]  # two neighbours in one copy, and none of the other two
        assert len(gpu.launched) == 2  # a graph for each part and size
    assert [kind for kind, _ in gpu.copies if kind != "on the device"] == []  # the rest is in the graphs

    cascade.ask(images[[1, 0, 1]], [FULL, AUTO, FULL])
    assert [size for kind, size in gpu.copies if kind == "on the device"][-2:] == [24, 24]
    assert cascade(images)[:, 2, 0].tolist() == pytest.approx([0.002, 0.004, 0.008, 0.014])


@pytest.mark.gpu
@pytest.mark.skipif(machine.gpu() is None, reason="no NVIDIA GPU")
@pytest.mark.parametrize("name", ["tensorrt-fp16", "tensorrt-rtx-fp16"])
def test_both_parts_on_a_gpu_give_what_pytorch_gives_whichever_rows_are_gathered(
    name: str, tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], four_members: Architecture
) -> None:
    checkpoint, target = make_checkpoint(tmp_path / "quartet", four_members), target_named(name)
    if obstacle := build_obstacle(target):
        pytest.skip(obstacle)
    order = BuildOrder(checkpoint, target, BatchRange(1, 2, 4), tmp_path / "engine", 0.5, lambda _: None)
    compiled = compile_cascade(order, (3, 1, 0, 2), 2, tmp_path / "cascade", None)
    manifest = replace(describe(order, tmp_path), plan="cascade", features=compiled.features)
    if obstacle := incompatibility(target, manifest.versions[target.family], compiled.built_for):
        pytest.skip(obstacle)
    document = to_document(replace(manifest, cascade={"k": 2, "tau": 1.01, "order": [3, 1, 0, 2]}))
    runner: Any = load_runner(tmp_path / "cascade", target, document, threads=None)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    reference = predictor(checkpoint)(images)

    runner.warm_up(images)
    for efforts in ([FULL] * 4, [FAST, FULL, FAST, FULL], [FAST] * 4, [FULL, FULL, FAST, FULL]):
        found = runner.ask(images, efforts)
        assert np.isnan(found[:, [0, 2], 0]).tolist() == [[effort == FAST] * 2 for effort in efforts]
        assert np.nanmax(np.abs(found - reference)) <= 0.05


@needs_rtx
def test_tensorrt_rtx_builds_both_parts_ahead_of_time(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], four_members: Architecture
) -> None:
    checkpoint = make_checkpoint(tmp_path / "quartet", four_members)
    target = target_named("tensorrt-rtx-fp16")
    order = BuildOrder(checkpoint, target, BatchRange(1, 2, 4), tmp_path / "engine", 0.5, lambda _: None)
    compiled = compile_cascade(order, (3, 1, 0, 2), 2, tmp_path / "cascade", None)

    assert compiled.features == {"name": "features", "dtype": "float16", "shape": [-1, 512, 4, 4]}
    assert {"first.plan", "rest.plan", "engine.json", "build.log"} <= {
        path.name for path in (tmp_path / "cascade").iterdir()
    }
    manifest = build_engine(checkpoint.path, target.name, batch=BatchRange(1, 2, 4), out=tmp_path / "engine")
    if machine.gpu() is None:
        assert (manifest.cascade, manifest.confidence) == (None, None)
        assert "it cannot be run here" in manifest.cascade_reason
