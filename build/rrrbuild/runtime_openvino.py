"""OpenVINO IRs as callables. Copied into Triton model repositories: imports numpy and OpenVINO only."""

from collections.abc import Callable, Mapping, Sequence
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

    Args:
        folder: has `model.xml` and `model.bin`, checked already.
        manifest: gives `precision`, the `batch` sizes, and the dtype of `outputs`.
        threads: CPU threads for one inference; None leaves the choice to OpenVINO.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time.
    """
    core = ov.Core()
    forms = _Forms(core, core.read_model(folder / "model.xml"), manifest, threads)
    dtype = np.dtype(manifest["outputs"][0]["dtype"])

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        result = forms.request(len(images)).infer({0: images}, share_inputs=True)[0]
        return np.array(result, dtype=dtype)  # a copy: the request reuses its own memory

    return run


def load_parts(
    folder: Path, manifest: Mapping[str, Any], threads: int | None, member_threads: int
) -> tuple[Callable[[npt.NDArray[np.uint8]], ov.Tensor], Sequence[Callable[[ov.Tensor], npt.NDArray[np.float32]]]]:
    """Compile the parts of plan `split`. The members read the stem's output where it lies.

    Args:
        folder: has `stem.xml`, `member_0.xml` and so on, checked already.
        manifest: gives `precision`, the `batch` sizes and the shape of `outputs`.
        threads: CPU threads for the stem; None leaves the choice to OpenVINO.
        member_threads: CPU threads for each member.

    Returns:
        The stem, images -> features, and the members, features -> probabilities (N, C); each for one caller at a time.
    """
    core = ov.Core()
    stem_forms = _Forms(core, _part(core, folder / "stem.xml", manifest, is_stem=True), manifest, threads)
    members = [
        _Forms(core, _part(core, folder / f"member_{index}.xml", manifest, is_stem=False), manifest, member_threads)
        for index in range(manifest["outputs"][0]["shape"][1])
    ]

    def stem(images: npt.NDArray[np.uint8]) -> ov.Tensor:
        request = stem_forms.request(len(images))
        request.infer({0: images}, share_inputs=True)
        return request.get_output_tensor()

    def caller(forms: _Forms) -> Callable[[ov.Tensor], npt.NDArray[np.float32]]:
        def run(features: ov.Tensor) -> npt.NDArray[np.float32]:
            request = forms.request(features.shape[0])
            request.set_input_tensor(features)
            request.infer(share_outputs=True)
            return np.array(request.get_output_tensor().data, dtype=np.float32)

        return run

    return stem, [caller(forms) for forms in members]


class _Forms:
    """A network compiled in two forms: of fixed batch 1, and of free batch for all other sizes.

    A free batch costs an ensemble 8 to 10 % at batch 1 (dispatch of a hundred small operators), and 0 to 5 % at batch
    8, where a fixed form for each size would hold the weights once per size.
    """

    def __init__(self, core: ov.Core, network: ov.Model, manifest: Mapping[str, Any], threads: int | None) -> None:
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[manifest["precision"]],
        }
        if threads is not None:
            # Without pinning: networks that run side by side would all be pinned to the first cores.
            options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        batch, (_, *shape) = manifest["batch"], network.input().partial_shape
        self._any: Any = None
        self._single: Any = None
        if batch["max"] > 1:
            self._any = core.compile_model(network, "CPU", options).create_infer_request()
        if batch["min"] == 1:
            network.reshape([1, *shape])
            self._single = core.compile_model(network, "CPU", options).create_infer_request()

    def request(self, size: int) -> Any:
        """The infer request for a batch of that size."""
        return self._single if size == 1 else self._any


def _part(core: ov.Core, path: Path, manifest: Mapping[str, Any], *, is_stem: bool) -> ov.Model:
    """Read a part; where BF16 is computed in, features are handed on in BF16.

    That is half the bytes, and what the whole network does: handed on in FP32 they would be rounded later than there.
    """
    part = core.read_model(path)
    if manifest["precision"] != "bf16":
        return part
    steps = ov.preprocess.PrePostProcessor(part)
    (steps.output() if is_stem else steps.input()).tensor().set_element_type(ov.Type.bf16)
    return steps.build()
