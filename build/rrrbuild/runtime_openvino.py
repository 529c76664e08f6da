"""An OpenVINO IR as a callable. Copied into Triton model repositories: imports numpy and OpenVINO only."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

# What the CPU computes in where the IR says FP32. An INT8 IR says where it is INT8; the hint is for the rest.
_PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def load(
    folder: Path, manifest: Mapping[str, Any], threads: int | None
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """Compile an IR for this CPU.

    Two forms are compiled: one of fixed batch 1, one of free batch for all others. A free batch costs an ensemble
    8 to 10 % at batch 1 (dispatch of a hundred small operators), and 0 to 5 % at batch 8, where a fixed form for
    each size would hold the weights once per size.

    Args:
        folder: has `model.xml` and `model.bin`, checked already.
        manifest: gives `precision`.
        threads: CPU threads for one inference; None leaves the choice to OpenVINO.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time.
    """
    core = ov.Core()
    network = core.read_model(folder / "model.xml")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[manifest["precision"]],
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    any_batch = core.compile_model(network, "CPU", options).create_infer_request()
    _, *image_shape = network.input().partial_shape
    network.reshape([1, *image_shape])
    single = core.compile_model(network, "CPU", options).create_infer_request()

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        request = single if len(images) == 1 else any_batch
        result = request.infer({0: images}, share_inputs=True)[0]
        return np.array(result, dtype=np.float32)  # a copy: the request reuses its own memory

    return run
