"""How many threads a runtime is given: what was asked for, or what a CPU quota leaves; else it chooses itself."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from rrrbuild import plan_runner
from rrrbuild.runtime_onnxruntime import session_options
from rrrbuild.runtime_openvino import _options
from rrrnet.processor import Threads

CHOOSES, ONE = Threads(8, exact=False), Threads(1, exact=True)


def test_openvino_gets_the_number_and_pins_nothing_where_it_is_exact() -> None:
    assert _options({"precision": "int8"}, CHOOSES) == {"INFERENCE_PRECISION_HINT": "f32"}
    assert _options({"precision": "bf16"}, ONE) == {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def test_onnx_runtime_gets_the_number_where_it_is_exact_or_less_than_the_machine_has() -> None:
    whole = os.cpu_count() or 1
    assert session_options(Threads(whole, exact=False)).intra_op_num_threads == 0, "its own choice"
    assert session_options(Threads(whole - 1, exact=False)).intra_op_num_threads == whole - 1
    assert session_options(ONE).intra_op_num_threads == 1
    assert session_options(ONE).execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL


_WHERE_THREADS_MAY_RUN = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import onnxruntime
from rrrbuild.runtime_onnxruntime import session_options
from rrrnet.processor import threads
session = onnxruntime.InferenceSession(sys.argv[1], session_options(threads()), providers=["CPUExecutionProvider"])
states = [(task / "status").read_text() for task in Path("/proc/self/task").iterdir()]
print(*{line.split()[1] for state in states for line in state.splitlines() if line.startswith("Cpus_allowed_list")})
"""


def test_onnx_runtime_stays_on_the_cores_that_its_process_may_run_on(tmp_path: Path) -> None:
    kind = onnx.TensorProto.FLOAT
    ends = [[onnx.helper.make_tensor_value_info(name, kind, [1, 64])] for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", *ends)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "relu.onnx",
    )
    command = [sys.executable, "-c", _WHERE_THREADS_MAY_RUN, str(tmp_path / "relu.onnx")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(min(os.sched_getaffinity(0)))]


class Runtime:
    """Remembers what it is given."""

    def load(self, folder: Path, manifest: Any, threads: Threads) -> None:
        self.given: Any = threads

    def load_parts(self, folder: Path, manifest: Any, threads: Threads, member_threads: Threads) -> Any:
        self.given = (threads, member_threads)
        return lambda images: images, [lambda features: features] * 4


@pytest.mark.parametrize(
    ("threads", "lanes", "each"),
    [(CHOOSES, 4, 2), (Threads(6, exact=True), 4, 1), (Threads(3, exact=True), 3, 1), (ONE, 1, 1)],
)
def test_members_side_by_side_are_no_more_than_threads_and_share_them(threads: Threads, lanes: int, each: int) -> None:
    runtime = Runtime()
    manifest = {"plan": "split", "batch": {"max": 4}, "outputs": [{"shape": [-1, 4, 3]}]}
    run: Any = plan_runner.load(runtime, None, Path(), manifest, threads)
    assert runtime.given == (threads, Threads(each, exact=True))
    assert run._lanes == lanes
    plan_runner.load(runtime, None, Path(), {**manifest, "plan": "merged"}, threads)
    assert runtime.given == threads
