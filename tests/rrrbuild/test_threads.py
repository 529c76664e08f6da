"""How many threads a runtime is given: what was asked for, or what a CPU quota leaves; else it chooses itself."""

from pathlib import Path
from typing import Any

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


def test_onnx_runtime_gets_the_number_where_it_is_exact() -> None:
    assert session_options(CHOOSES).intra_op_num_threads == 0, "its own choice"
    assert session_options(ONE).intra_op_num_threads == 1
    assert session_options(ONE).execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL


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
