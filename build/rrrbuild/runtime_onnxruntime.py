"""ONNX files as callables. Copied into Triton model repositories: imports numpy and ONNX Runtime only."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

if TYPE_CHECKING:
    from rrrnet.processor import Threads


def load(folder: Path, manifest: Mapping[str, Any], threads: "Threads") -> Callable[[npt.NDArray[np.uint8]], Any]:
    """Open an ONNX file for this CPU.

    Args:
        folder: has `model.onnx`, checked already.
        manifest: gives the names of `inputs` and `outputs`.
        threads: of the CPU, for one inference.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time; with the output
        `embedding` -> a pair of these and embeddings (N, D) float32.
    """
    session = _session(folder / "model.onnx", threads)
    name, outputs = manifest["inputs"][0]["name"], [output["name"] for output in manifest["outputs"]]

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(outputs, {name: images})[0])

    def run_both(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        probabilities, embedding = session.run(outputs, {name: images})
        return np.asarray(probabilities), np.asarray(embedding)

    return run_both if len(outputs) > 1 else run


def load_cascade(
    folder: Path, manifest: Mapping[str, Any], threads: "Threads"
) -> tuple[
    Callable[[npt.NDArray[np.uint8]], tuple[npt.NDArray[np.float32], npt.NDArray[Any]]],
    Callable[[npt.NDArray[Any], Sequence[int]], npt.NDArray[np.float32]],
]:
    """Open the parts of a cascade.

    Args:
        folder: has `first.onnx` and `rest.onnx`, checked already.
        manifest: gives the names of `inputs`, `outputs` and `features`.
        threads: of the CPU, for one inference.

    Returns:
        As `cascade_runner.Cascade` takes them: the first members, images -> probabilities (N, k, C) and features, and
        the rest, features and rows -> probabilities (R, M - k, C).
    """
    first, rest = (_session(folder / f"{name}.onnx", threads) for name in ("first", "rest"))
    images, probabilities, features = (
        tensor["name"] for tensor in (manifest["inputs"][0], manifest["outputs"][0], manifest["features"])
    )

    def run_first(batch: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        found, handed_on = first.run([probabilities, features], {images: batch})
        return np.asarray(found), np.asarray(handed_on)

    def run_rest(handed_on: npt.NDArray[Any], rows: Sequence[int]) -> npt.NDArray[np.float32]:
        chosen = handed_on if len(rows) == len(handed_on) else handed_on[rows]
        return np.asarray(rest.run([probabilities], {features: chosen})[0])

    return run_first, run_rest


def load_parts(
    folder: Path, manifest: Mapping[str, Any], threads: "Threads", member_threads: "Threads"
) -> tuple[Callable[[npt.NDArray[np.uint8]], Any], Sequence[Callable[[Any], npt.NDArray[np.float32]]]]:
    """Open the parts of plan `split`. The members read the stem's output where it lies.

    Args:
        folder: has `stem.onnx`, `member_0.onnx` and so on, checked already.
        manifest: gives the shape of `outputs`.
        threads: for the stem.
        member_threads: for each member.

    Returns:
        The stem, images -> features, and the members, features -> probabilities (N, C); each for one caller at a time.
    """
    stem = _session(folder / "stem.onnx", threads)
    (source,), (result,) = stem.get_inputs(), stem.get_outputs()

    def run_stem(images: npt.NDArray[np.uint8]) -> Any:
        images_value = ort.OrtValue.ortvalue_from_numpy(images)
        return stem.run_with_ort_values([result.name], {source.name: images_value})[0]

    def member(session: ort.InferenceSession) -> Callable[[Any], npt.NDArray[np.float32]]:
        (features,), (probabilities,) = session.get_inputs(), session.get_outputs()

        def run(value: Any) -> npt.NDArray[np.float32]:
            return np.asarray(session.run_with_ort_values([probabilities.name], {features.name: value})[0].numpy())

        return run

    count = manifest["outputs"][0]["shape"][1]
    return run_stem, [member(_session(folder / f"member_{index}.onnx", member_threads)) for index in range(count)]


def session_options(threads: "Threads") -> ort.SessionOptions:
    """Of a session on the CPU."""
    options = ort.SessionOptions()
    # Members are independent, but ORT_PARALLEL doubles the latency: its threads fight with those of each operator.
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin after a call take a core from whatever runs next: another session, the front of the service.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Left to itself it takes a thread for each core of the machine and pins it there, whatever the process may run on.
    if threads.exact or threads.count < (os.cpu_count() or 1):
        options.intra_op_num_threads = threads.count
    return options


def _session(path: Path, threads: "Threads") -> ort.InferenceSession:
    return ort.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])
