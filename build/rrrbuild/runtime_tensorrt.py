"""A TensorRT or TensorRT-RTX plan as a callable.

Copied into Triton model repositories: imports numpy, the runtime and NVIDIA's CUDA bindings only.
"""

import ctypes
import importlib
import logging
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cuda

_TO_DEVICE = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
_TO_HOST = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost


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
    """An engine with buffers for the largest batch, in page-locked host memory and on the GPU.

    A batch size is prepared when it is first met: TensorRT gets an execution context of its own for it, runs once, and
    is then captured as a CUDA graph, copies included. All contexts share one block of scratch memory, since they run
    one after another. TensorRT-RTX captures by itself, after it has compiled kernels for the size.
    """

    def __init__(self, model: Path, manifest: Mapping[str, Any]) -> None:
        self._trt = importlib.import_module(manifest["family"])
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        # Everything a context depends on is kept: TensorRT's objects do not own one another.
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(model.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"{manifest['family']} refuses {model}: its log on standard error tells why")
        largest = manifest["batch"]["max"]
        (images,), (probabilities,) = manifest["inputs"], manifest["outputs"]
        self._input, self._output = images["name"], probabilities["name"]
        self._image_shape = tuple(images["shape"][1:])  # (S, S, 3)
        # Streams that wait for the default stream could not be captured while another thread uses that.
        self._stream = _checked(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
        self._release: list[partial[Any]] = [partial(cuda.cudaStreamDestroy, self._stream)]
        weakref.finalize(self, _release_all, self._release)
        self._images = self._host_array((largest, *self._image_shape), np.uint8)
        self._probabilities = self._host_array((largest, *probabilities["shape"][1:]), np.float32)
        self._device_images = self._device_memory(self._images.nbytes)
        self._device_probabilities = self._device_memory(self._probabilities.nbytes)
        self._prepared: dict[int, tuple[Any, Any]] = {}
        self._context = None
        if manifest["family"] == "tensorrt_rtx":
            settings = self._engine.create_runtime_config()
            settings.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._context = self._engine.create_execution_context(settings)
            self._set_addresses(self._context)
        else:
            self._scratch_bytes = max(self._engine.device_memory_size_v2, 1)
            self._scratch = self._device_memory(self._scratch_bytes)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        count = len(images)
        self._images[:count] = images
        context, graph = self._ready(count)
        if graph is None:
            self._enqueue(context, count)
        else:
            _checked(cuda.cudaGraphLaunch(graph, self._stream))
        _checked(cuda.cudaStreamSynchronize(self._stream))
        return self._probabilities[:count].copy()

    def _ready(self, count: int) -> tuple[Any, Any]:
        """The execution context for `count` images, and its graph if there is one."""
        if self._context is not None:
            self._set_shape(self._context, count)
            return self._context, None
        if count not in self._prepared:
            self._prepared[count] = self._prepare(count)
        return self._prepared[count]

    def _prepare(self, count: int) -> tuple[Any, Any]:
        """A context that keeps profile, shape and addresses for good, as a graph of it requires, and that graph."""
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise RuntimeError(f"no execution context for {count} images: TensorRT's log on standard error tells why")
        context.set_device_memory(int(self._scratch), self._scratch_bytes)
        if not context.set_optimization_profile_async(self._nearest_profile(count), int(self._stream)):
            raise RuntimeError(f"no optimisation profile for {count} images could be chosen")
        self._set_shape(context, count)
        self._set_addresses(context)
        # The first call with a shape sets up resources, which must not happen during capture.
        self._enqueue(context, count)
        _checked(cuda.cudaStreamSynchronize(self._stream))
        graph = _captured(self._stream, partial(self._enqueue, context, count))
        if graph is None:
            logging.getLogger(__name__).warning("batches of %d images run without a CUDA graph", count)
        else:
            self._release.append(partial(cuda.cudaGraphExecDestroy, graph))
        return context, graph

    def _nearest_profile(self, count: int) -> int:
        """Of the profiles, which all take every size, the one tuned for the size nearest to `count`."""
        indices = range(self._engine.num_optimization_profiles)
        tuned_for = [self._engine.get_tensor_profile_shape(self._input, index)[1][0] for index in indices]
        return min(indices, key=lambda index: abs(tuned_for[index] - count))

    def _set_shape(self, context: Any, count: int) -> None:
        if not context.set_input_shape(self._input, (count, *self._image_shape)):
            raise RuntimeError(f"the plan does not take {count} images of shape {self._image_shape}")

    def _set_addresses(self, context: Any) -> None:
        context.set_tensor_address(self._input, int(self._device_images))
        context.set_tensor_address(self._output, int(self._device_probabilities))

    def _enqueue(self, context: Any, count: int) -> None:
        """Copy `count` images in, execute, copy their answers out; none of it has run when this returns."""
        sent, answered = self._images[:count], self._probabilities[:count]
        stream = self._stream
        _checked(cuda.cudaMemcpyAsync(self._device_images, sent.ctypes.data, sent.nbytes, _TO_DEVICE, stream))
        if not context.execute_async_v3(int(stream)):
            raise RuntimeError("the plan could not be executed: its log on standard error tells why")
        _checked(
            cuda.cudaMemcpyAsync(answered.ctypes.data, self._device_probabilities, answered.nbytes, _TO_HOST, stream)
        )

    def _device_memory(self, size_bytes: int) -> Any:
        pointer = _checked(cuda.cudaMalloc(size_bytes))
        self._release.append(partial(cuda.cudaFree, pointer))
        return pointer

    def _host_array(self, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
        """An array in page-locked memory, which the GPU reads and writes without another copy by the driver."""
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pointer = _checked(cuda.cudaMallocHost(size_bytes))
        self._release.append(partial(cuda.cudaFreeHost, pointer))
        content = np.ctypeslib.as_array((ctypes.c_ubyte * size_bytes).from_address(int(pointer)))
        return content.view(dtype).reshape(shape)


def _captured(stream: Any, enqueue: Callable[[], None]) -> Any:
    """What `enqueue` puts on the stream, as an executable CUDA graph; None where it cannot be captured."""
    # Of this thread only: another thread may go on to allocate memory meanwhile.
    mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    _checked(cuda.cudaStreamBeginCapture(stream, mode))
    try:
        enqueue()
        complete = True
    except RuntimeError:  # TensorRT has logged why
        complete = False
    status, graph = cuda.cudaStreamEndCapture(stream)
    if not complete or status != cuda.cudaError_t.cudaSuccess:
        cuda.cudaGetLastError()  # else the next call would report this failure as its own
        return None
    executable = _checked(cuda.cudaGraphInstantiate(graph, 0))
    _checked(cuda.cudaGraphDestroy(graph))
    _checked(cuda.cudaGraphUpload(executable, stream))
    return executable


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, whose first item is its status."""
    status, *values = answer
    if status != cuda.cudaError_t.cudaSuccess:
        raise RuntimeError(f"a CUDA call failed: {status.name}")
    return values[0] if values else None


def _release_all(calls: list[partial[Any]]) -> None:
    """In reverse order: graphs, then the buffers that they use, then the stream."""
    for call in reversed(calls):
        call()
