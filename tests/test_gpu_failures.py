"""benchmarks/gpu.py without a GPU: what happens where a case, the GPU or TensorRT fails."""

import importlib.util
import json
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from rrrgpu import engines, timing
from rrrgpu.network import Network
from rrrgpu.shapes import REDUCED

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"
SMOKE = ("--device", "cpu", "--smoke", "--out")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """gpu.py as a module, whose plan `merged` fails when it is timed: after it was checked, at its second call."""
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(engines, "PLANS", {})  # builds no engine
    prepare = module.prepare

    def failing(network: Network, plan: str, images: Any) -> Any:
        launch, calls = prepare(network, plan, images), []

        def second_fails() -> Any:
            calls.append(plan)
            if plan == "merged" and len(calls) > 1:
                raise RuntimeError("CUDA error: an illegal\nmemory access")
            return launch()

        return second_fails

    monkeypatch.setattr(module, "prepare", failing)
    return module


@pytest.mark.nightly
def test_what_fails_while_it_is_timed_is_an_error_in_its_row(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*SMOKE, str(tmp_path / "gpu.json")]) == 0

    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["plan"] for row in rows if "error" in row} == {"merged"}
    assert all(("error" in row) != ("gpu_ms" in row) for row in rows)
    printed = capsys.readouterr().out
    assert "| merged | float32 | 32 | 2 | RuntimeError: CUDA error: an illegal memory access |" in printed
    assert "16 cases timed, 2 ended in an error, 0 left out" in printed


@pytest.mark.nightly
def test_an_unusable_gpu_ends_the_run_and_what_was_measured_is_written(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (script, timing):
        monkeypatch.setattr(module, "usable", lambda: False)
    # Without rounds of warming up, those before the failing plan are measured once.
    monkeypatch.setattr(timing, "_WARM_UP_ROUNDS", 0)

    assert script.main([*SMOKE, str(tmp_path / "gpu.json")]) == 1

    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["unusable"] == "RuntimeError: CUDA error: an illegal\nmemory access"
    assert [row.get("rounds") for row in document["rows"]] == [1, 1, 1, 1, 1, None, None, None, None]
    assert document["rows"][-1]["error"] == "not timed: the GPU was unusable before its turn"
    assert {row["precision"] for row in document["left_out"]} == {"bfloat16"}
    captured = capsys.readouterr()
    assert "5 cases timed, 4 ended in an error, 9 left out" in captured.out
    assert "gpu.py: the GPU became unusable, and the run ended there: RuntimeError: CUDA error" in captured.err


def test_where_nothing_can_be_prepared_it_exits_1_and_says_so(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(script, "prepare")

    assert script.main([*SMOKE, str(tmp_path / "gpu.json")]) == 1

    captured = capsys.readouterr()
    assert "0 cases timed, 18 ended in an error, 0 left out" in captured.out
    assert "gpu.py: nothing was timed" in captured.err


class RefusingTensorRT(ModuleType):
    """Says something at each step, and gives null at one."""

    class ILogger:
        Severity = IntEnum("Severity", ["ERROR", "WARNING", "INFO"])

    class Strategy:
        WHOLE_GRAPH_CAPTURE, EAGER = "whole", "eager"

    CudaGraphStrategy = DynamicShapesKernelSpecializationStrategy = Strategy

    def __init__(self, refused: str) -> None:
        super().__init__("tensorrt_rtx")
        self.refused, self.opened, self.settings = refused, 0, SimpleNamespace()

    def step(self, name: str, result: Any) -> Any:
        severity, message = self.ILogger.Severity, f"at {name}"
        for level in (severity.ERROR if name == self.refused else severity.WARNING, severity.INFO):
            self.logger.log(level, message)
        return None if name == self.refused else result

    def Runtime(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        self.logger = logger
        self.opened += 1
        if self.step("runtime", True) is None:
            raise TypeError("factory function returned nullptr")
        return SimpleNamespace(deserialize_cuda_engine=lambda _: self.step("engine", self.engine()))

    def engine(self) -> Any:
        context = SimpleNamespace(
            set_optimization_profile_async=lambda *_: True,
            set_input_shape=lambda *_: True,
            set_tensor_address=lambda *_: None,
            execute_async_v3=lambda _: self.step("execution", True) is not None,
        )
        return SimpleNamespace(
            num_aux_streams=0,
            num_layers=1,
            create_runtime_config=lambda: self.settings,
            create_execution_context=lambda _: self.step("context", context),
        )


def test_what_tensorrt_says_is_in_the_error_wherever_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(engines, "missing", lambda _: None)
    monkeypatch.setattr(engines, "build", lambda *_: (b"", ["WARNING: at build"]))
    network, images = Network("1", REDUCED, 1, 3, 8), torch.zeros((2, 32, 32, 3), dtype=torch.uint8)
    steps = ["runtime", "engine", "context", "execution"]
    said = ["WARNING: at build", *(f"WARNING: at {step}" for step in steps)]

    def launched(trt: RefusingTensorRT, batch: int, row: dict[str, Any]) -> Any:
        monkeypatch.setattr(engines, "_imported", lambda _: trt)
        return opened.launch("tensorrt_rtx", network, "sequential", images[:batch], [1, 2], row)

    texts = ["TypeError: factory function returned nullptr", "the engine could not be opened"]
    texts += ["no execution context", "the engine could not be executed"]
    for index, (step, text) in enumerate(zip(steps, texts, strict=True)):
        opened, trt = engines.Engines(), RefusingTensorRT(step)
        for batch in (1, 2):
            with pytest.raises(RuntimeError) as caught:
                launched(trt, batch, {})
            assert str(caught.value) == "; ".join([text, *said[: index + 1], f"ERROR: at {step}"])
        assert trt.opened == 1

    row: dict[str, Any] = {}
    opened, trt = engines.Engines(), RefusingTensorRT("nothing")
    launch = launched(trt, 1, row)
    assert row["warnings"] == said
    assert vars(trt.settings) == {
        "cuda_graph_strategy": "whole",
        "dynamic_shapes_kernel_specialization_strategy": "eager",
    }
    trt.refused = "execution"
    with pytest.raises(RuntimeError, match=r"could not be executed; .*WARNING: at execution; ERROR: at execution$"):
        launch()
