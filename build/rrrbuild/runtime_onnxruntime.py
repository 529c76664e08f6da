"""An ONNX file as a callable. Copied into Triton model repositories: imports numpy and ONNX Runtime only."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort


def load(
    folder: Path, manifest: Mapping[str, Any], threads: int | None
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """Open an ONNX file for this CPU.

    Args:
        folder: has `model.onnx`, checked already.
        manifest: gives the names of `inputs` and `outputs`.
        threads: CPU threads for one inference; None leaves the choice to ONNX Runtime.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time.
    """
    options = ort.SessionOptions()
    # Members are independent, but ORT_PARALLEL doubles the latency: its threads fight with those of each operator.
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    if threads is not None:
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    name, outputs = manifest["inputs"][0]["name"], [manifest["outputs"][0]["name"]]

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(outputs, {name: images})[0], dtype=np.float32)

    return run
