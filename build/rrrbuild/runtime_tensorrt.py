"""A TensorRT or TensorRT-RTX plan as a callable.

Copied into Triton model repositories: imports numpy, the runtime and NVIDIA's CUDA bindings only.
"""

import importlib
import weakref
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cuda


def load(
    folder: Path,
    manifest: Mapping[str, Any],
    threads: int | None,  # noqa: ARG001 - every runtime_FAMILY.load has this signature; a GPU has no use for it
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """Deserialise a plan on the first GPU.

    Args:
        folder: has `model.plan`, checked already.
        manifest: gives the `family`, the names and shapes of `inputs` and `outputs`, and the largest `batch`.
        threads: not used.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time.

    Raises:
        RuntimeError: the runtime refuses the plan, or a CUDA call fails.
    """
    return _Plan(folder / "model.plan", manifest)


class _Plan:
    """An execution context with device buffers for the largest batch."""

    def __init__(self, model: Path, manifest: Mapping[str, Any]) -> None:
        trt = importlib.import_module(manifest["family"])
        self._logger = trt.Logger(trt.Logger.WARNING)
        # Everything the context depends on is kept: TensorRT's objects do not own one another.
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(model.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"{manifest['family']} refuses {model}: its log on standard error tells why")
        self._context = self._engine.create_execution_context()
        self._stream = _checked(cuda.cudaStreamCreate())
        largest = manifest["batch"]["max"]
        (images,), (probabilities,) = manifest["inputs"], manifest["outputs"]
        self._input, self._output = images["name"], probabilities["name"]
        self._output_shape = tuple(probabilities["shape"][1:])  # (M, C)
        self._images = _checked(cuda.cudaMalloc(largest * prod(images["shape"][1:])))
        self._probabilities = _checked(cuda.cudaMalloc(largest * prod(self._output_shape) * 4))
        self._context.set_tensor_address(self._input, int(self._images))
        self._context.set_tensor_address(self._output, int(self._probabilities))
        weakref.finalize(self, _release, self._stream, self._images, self._probabilities)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        result = np.empty((len(images), *self._output_shape), np.float32)
        to_device, to_host = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        if not self._context.set_input_shape(self._input, images.shape):
            raise RuntimeError(f"the plan does not take images of shape {images.shape}")
        _checked(cuda.cudaMemcpyAsync(self._images, images.ctypes.data, images.nbytes, to_device, self._stream))
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeError("the plan could not be executed: its log on standard error tells why")
        _checked(cuda.cudaMemcpyAsync(result.ctypes.data, self._probabilities, result.nbytes, to_host, self._stream))
        _checked(cuda.cudaStreamSynchronize(self._stream))
        return result


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, whose first item is its status."""
    status, *values = answer
    if status != cuda.cudaError_t.cudaSuccess:
        raise RuntimeError(f"a CUDA call failed: {status.name}")
    return values[0] if values else None


def _release(stream: Any, *buffers: Any) -> None:
    for buffer in buffers:
        cuda.cudaFree(buffer)
    cuda.cudaStreamDestroy(stream)
