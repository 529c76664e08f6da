"""OpenVINO IRs as callables. Copied into Triton model repositories: imports numpy and OpenVINO only."""

import os
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
    forms = _Forms(core, core.read_model(folder / "model.xml"), manifest, threads, side_by_side=True)
    dtype = np.dtype(manifest["outputs"][0]["dtype"])

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        requests = forms.requests(len(images))
        for request, share in zip(requests, np.array_split(images, len(requests)), strict=True):
            # Given to infer() instead, tensors cost 0.2 ms more: 5 % of an ensemble's time at 128 pixels.
            request.set_input_tensor(ov.Tensor(share, shared_memory=True))
        if len(requests) == 1:
            requests[0].infer(share_outputs=True)  # in this thread, which spares waking another
        else:
            for request in requests:
                request.start_async()
            for request in requests:
                request.wait()
        # Copies: a request reuses its own memory.
        return np.concatenate([request.get_output_tensor().data for request in requests], dtype=dtype)

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
    network = _part(core, folder / "stem.xml", manifest, is_stem=True)
    output = network.output()
    stem_forms = _Forms(core, network, manifest, threads)
    members = [
        _Forms(core, _part(core, folder / f"member_{index}.xml", manifest, is_stem=False), manifest, member_threads)
        for index in range(manifest["outputs"][0]["shape"][1])
    ]

    features_type, (_, *features_shape) = output.element_type, output.partial_shape
    features = ov.Tensor(features_type, ov.Shape([1, *(dim.get_length() for dim in features_shape)]))

    def stem(images: npt.NDArray[np.uint8]) -> ov.Tensor:
        nonlocal features
        # Of ours, with a shape of its own: a request's own output tensor works its shape out at each look, which goes
        # wrong when several members look at the same time.
        if features.shape[0] != len(images):
            features = ov.Tensor(features_type, ov.Shape([len(images), *features.shape[1:]]))
        (request,) = stem_forms.requests(len(images))
        request.set_input_tensor(ov.Tensor(images, shared_memory=True))
        request.set_output_tensor(features)
        request.infer(share_outputs=True)
        return features

    def caller(forms: _Forms) -> Callable[[ov.Tensor], npt.NDArray[np.float32]]:
        def run(features: ov.Tensor) -> npt.NDArray[np.float32]:
            (request,) = forms.requests(features.shape[0])
            request.set_input_tensor(features)
            request.infer(share_outputs=True)
            return np.array(request.get_output_tensor().data, dtype=np.float32)

        return run

    return stem, [caller(forms) for forms in members]


class _Forms:
    """A network compiled in two forms: of fixed batch 1 on all cores, and of free batch for all other sizes.

    A free batch costs an ensemble 8 to 10 % at batch 1 (dispatch of a hundred small operators), and 0 to 5 % at batch
    8, where a fixed form for each size would hold the weights once per size.
    """

    def __init__(
        self,
        core: ov.Core,
        network: ov.Model,
        manifest: Mapping[str, Any],
        threads: int | None,
        *,
        side_by_side: bool = False,
    ) -> None:
        """Compile.

        Args:
            core: OpenVINO's.
            network: its batch free.
            manifest: gives `precision` and the `batch` sizes.
            threads: CPU threads; None: one for each core.
            side_by_side: cut a batch into shares of their own cores, up to one share a core. Cores then meet at the
                end of the batch, not of each layer, and a share's activations fit their caches better.
        """
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _PRECISION_HINTS[manifest["precision"]]}
        cores = len(os.sched_getaffinity(0)) if threads is None else threads
        batch, (_, *shape) = manifest["batch"], network.input().partial_shape
        self._any: list[Any] = []
        self._single: list[Any] = []
        if threads is not None:
            # Without pinning: networks that run side by side would all be pinned to the first cores.
            options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        if batch["max"] > 1:
            streams = min(cores, batch["opt"]) if side_by_side else 1
            free = core.compile_model(network, "CPU", {**options, "NUM_STREAMS": streams})
            self._any = [free.create_infer_request() for _ in range(streams)]
        if batch["min"] == 1:
            network.reshape([1, *shape])
            fixed = core.compile_model(network, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
            self._single = [fixed.create_infer_request()]

    def requests(self, size: int) -> list[Any]:
        """The infer requests that share a batch of that size."""
        return self._single if size == 1 else self._any[:size]


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
