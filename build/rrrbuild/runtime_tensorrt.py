"""TensorRT or TensorRT-RTX plans as a callable.

Copied into Triton model repositories: imports numpy, the runtime and NVIDIA's CUDA bindings only.
"""

import ctypes
import importlib
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cuda

_ALIGNMENT = 256  # bytes; TensorRT takes no other device addresses


def load(
    folder: Path,
    manifest: Mapping[str, Any],
    threads: object,  # noqa: ARG001 - every runtime_FAMILY.load has this signature; a GPU has no use for it
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]:
    """Deserialise a plan on the first GPU.

    Args:
        folder: has `model.plan`, checked already.
        manifest: gives the `family`, the shape and dtype of `outputs`, and the largest `batch`.
        threads: not used.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time.

    Raises:
        RuntimeError: the runtime refuses the plan, or a CUDA call fails.
    """
    return _Whole(folder / "model.plan", manifest)


def load_split(folder: Path, manifest: Mapping[str, Any]) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """Deserialise the parts of plan `split` on the first GPU.

    Args:
        folder: has `stem.plan`, `member_0.plan` and so on, checked already.
        manifest: gives the `family`, the shape of `outputs`, and the largest `batch`.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time; its attribute
        `member_seconds` holds M durations of the last call, on the GPU's clock.

    Raises:
        RuntimeError: the runtime refuses a plan, or a CUDA call fails.
    """
    return _Split(folder, manifest)


def load_cascade(
    folder: Path,
    manifest: Mapping[str, Any],
    threads: object,  # noqa: ARG001 - as of `load`
) -> tuple[
    Callable[[npt.NDArray[np.uint8]], tuple[npt.NDArray[np.float32], int]],
    Callable[[int, Sequence[int]], npt.NDArray[np.float32]],
]:
    """Deserialise the parts of a cascade on the first GPU, each with contexts and CUDA graphs of its own.

    The features stay on the GPU: they are gathered there, row by row, for the second part.

    Args:
        folder: has `first.plan` and `rest.plan`, checked already.
        manifest: gives the `family`, the dtype of `outputs`, and the largest `batch`.
        threads: not used.

    Returns:
        As `cascade_runner.Cascade` takes them; in place of features stands how many rows of them there are.

    Raises:
        RuntimeError: the runtime refuses a plan, or a CUDA call fails.
    """
    first = _Whole(folder / "first.plan", manifest)
    rest = _Whole(folder / "rest.plan", manifest, stream=first.stream)

    def run_first(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], int]:
        return first(images), len(images)

    def run_rest(count: int, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        rest.gather(first.features, range(count) if len(rows) == count else rows)
        return rest.run(len(rows))

    return run_first, run_rest


class _Part:
    """One plan: one input, one output or two, a free batch; executed on one stream at a time.

    TensorRT gets an execution context of its own for each batch size, whose shape and profile never change again, as a
    CUDA graph of it requires; they share one block of scratch memory. TensorRT-RTX has one context, and captures graphs
    by itself after it has compiled kernels for a size.

    Attributes:
        input_shape: of one row of the input.
        output_shape: of one row of the output.
        input_bytes: of one row of the input.
        output_bytes: of one row of the output.
        features_bytes: of one row of the second output, the features of a cascade's first part; 0 without one.
        captures_itself: it must not be captured from outside.
    """

    def __init__(self, path: Path, family: str) -> None:
        self._trt = importlib.import_module(family)  # `lazy` is not beside this file where it is copied to
        # Everything a context depends on is kept: TensorRT's objects do not own one another.
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"{family} refuses {path}: its log on standard error tells why")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        (self._input,) = (name for name in names if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)
        outputs = [name for name in names if name != self._input]
        # Alone, a stem's features are its output.
        self._output, *self._features = sorted(outputs, key=lambda name: name == "features")
        (self.input_shape, self.input_bytes), (self.output_shape, self.output_bytes) = (
            self._row(name) for name in (self._input, self._output)
        )
        self.features_bytes = sum(self._row(name)[1] for name in self._features)
        self.captures_itself = family == "tensorrt_rtx"
        self._contexts: dict[int, Any] = {}
        if self.captures_itself:
            settings = self._engine.create_runtime_config()
            settings.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            # Left to itself it runs fallback kernels until those for a size are compiled in the background: after any
            # warm-up, and while plans are compared.
            settings.dynamic_shapes_kernel_specialization_strategy = (
                self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            self._context = self._engine.create_execution_context(settings)
        else:
            self._scratch_bytes = max(self._engine.device_memory_size_v2, 1)
            self._scratch = _checked(cuda.cudaMalloc(self._scratch_bytes))
            weakref.finalize(self, cuda.cudaFree, self._scratch)

    def _row(self, name: str) -> tuple[tuple[int, ...], int]:
        shape = tuple(self._engine.get_tensor_shape(name)[1:])
        return shape, prod(shape) * int(self._engine.get_tensor_dtype(name).itemsize)

    def enqueue(self, stream: Any, rows: int, source: int, target: int, features: int = 0) -> None:
        """Put one execution on a stream: `rows` of input at device address `source`, the output to `target`."""
        context = self._context_for(rows, stream)
        context.set_tensor_address(self._input, source)
        context.set_tensor_address(self._output, target)
        for name in self._features:
            context.set_tensor_address(name, features)
        if not context.execute_async_v3(int(stream)):
            raise RuntimeError("the plan could not be executed: its log on standard error tells why")

    def _context_for(self, rows: int, stream: Any) -> Any:
        if self.captures_itself:
            self._set_shape(self._context, rows)
            return self._context
        if rows not in self._contexts:
            context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if context is None:
                raise RuntimeError(
                    f"no execution context for {rows} inputs: TensorRT's log on standard error tells why"
                )
            context.set_device_memory(int(self._scratch), self._scratch_bytes)
            if not context.set_optimization_profile_async(self._nearest_profile(rows), int(stream)):
                raise RuntimeError(f"no optimisation profile for {rows} inputs could be chosen")
            self._set_shape(context, rows)
            self._contexts[rows] = context
        return self._contexts[rows]

    def _set_shape(self, context: Any, rows: int) -> None:
        if not context.set_input_shape(self._input, (rows, *self.input_shape)):
            raise RuntimeError(f"the plan does not take {rows} inputs of shape {self.input_shape}")

    def _nearest_profile(self, rows: int) -> int:
        """Of the profiles, which all take every size, the one tuned for the size nearest to `rows`."""
        indices = range(self._engine.num_optimization_profiles)
        tuned_for = [self._engine.get_tensor_profile_shape(self._input, index)[1][0] for index in indices]
        return min(indices, key=lambda index: abs(tuned_for[index] - rows))


class _Whole:
    """One plan with buffers for the largest batch, in page-locked host memory and on the GPU.

    A batch size that is met for the first time is run once and then captured as a CUDA graph, copies included.

    Attributes:
        stream: that it runs on.
        features: device address of the second output.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], stream: Any = None) -> None:
        """Without a stream it gets its own, and input from the host; with one, input is gathered on the GPU."""
        self._part = _Part(path, manifest["family"])
        self._dtype = np.dtype(manifest["outputs"][0]["dtype"])
        largest = manifest["batch"]["max"]
        self._from_host = stream is None
        # Streams that wait for the default stream could not be captured while another thread uses that.
        self.stream = _checked(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)) if stream is None else stream
        self._source = _checked(cuda.cudaMalloc(largest * self._part.input_bytes))
        self._target = _checked(cuda.cudaMalloc(largest * self._part.output_bytes))
        self.features = _checked(cuda.cudaMalloc(max(1, largest * self._part.features_bytes)))
        self._sent = _page_locked(largest * self._part.input_bytes if self._from_host else 1)
        self._answered = _page_locked(largest * self._part.output_bytes)
        self._graphs: dict[int, Any] = {}
        weakref.finalize(
            self,
            _release,
            [self.stream] if self._from_host else [],
            [],
            [self._source, self._target, self.features],
            [self._sent.ctypes.data, self._answered.ctypes.data],
            self._graphs,
        )

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        self._sent[: images.nbytes] = np.ascontiguousarray(images).reshape(-1).view(np.uint8)
        return self.run(len(images))

    def gather(self, source: Any, rows: Sequence[int]) -> None:
        """Copy rows of another plan's features, at device address `source`, to where this one reads."""
        step, kind = self._part.input_bytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        runs: list[list[int]] = []  # neighbours go in one copy: [first row, number of rows]
        for row in rows:
            if runs and sum(runs[-1]) == row:
                runs[-1][1] += 1
            else:
                runs.append([row, 1])
        target = int(self._source)
        for first, count in runs:
            size_bytes = count * step
            _checked(cuda.cudaMemcpyAsync(target, int(source) + first * step, size_bytes, kind, self.stream))
            target += size_bytes

    def run(self, rows: int) -> npt.NDArray[Any]:
        """The output for the rows of input that are there."""
        if rows not in self._graphs:
            self._graphs[rows] = None if self._part.captures_itself else self._capture(rows)
        if self._graphs[rows] is None:
            self._enqueue(rows)
        else:
            _checked(cuda.cudaGraphLaunch(self._graphs[rows], self.stream))
        _checked(cuda.cudaStreamSynchronize(self.stream))
        answer = self._answered[: rows * self._part.output_bytes].copy()
        return answer.view(self._dtype).reshape(rows, *self._part.output_shape)

    def _enqueue(self, rows: int) -> None:
        """Copy in, execute, copy out; none of it has run when this returns."""
        if self._from_host:
            _to_device(self._source, self._sent[: rows * self._part.input_bytes], self.stream)
        self._part.enqueue(self.stream, rows, int(self._source), int(self._target), int(self.features))
        _to_host(self._answered[: rows * self._part.output_bytes], self._target, self.stream)

    def _capture(self, rows: int) -> Any:
        # The first call with a shape sets up resources, which must not happen during capture.
        self._enqueue(rows)
        _checked(cuda.cudaStreamSynchronize(self.stream))
        graph = _captured(self.stream, partial(self._enqueue, rows))
        if graph is None:
            logging.getLogger(__name__).warning("batches of %d run without a CUDA graph", rows)
        return graph


class _Split:
    """The stem on one stream; each member on a stream of its own, from the stem's end on.

    The members read the stem's output where it lies. One event tells them that it is there; each tells by an event of
    its own that it is done, and the answers leave the GPU in one copy.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        family, largest = manifest["family"], manifest["batch"]["max"]
        members = range(manifest["outputs"][0]["shape"][1])
        self._stem = _Part(folder / "stem.plan", family)
        self._members = [_Part(folder / f"member_{index}.plan", family) for index in members]
        self._stream = _checked(cuda.cudaStreamCreate())
        self._streams = [_checked(cuda.cudaStreamCreate()) for _ in members]
        self._features_there = _checked(cuda.cudaEventCreate())
        self._starts, self._stops = ([_checked(cuda.cudaEventCreate()) for _ in members] for _ in range(2))
        self._images = _checked(cuda.cudaMalloc(largest * self._stem.input_bytes))
        self._features = _checked(cuda.cudaMalloc(largest * self._stem.output_bytes))
        self._answers = _checked(
            cuda.cudaMalloc(sum(largest * member.output_bytes + _ALIGNMENT for member in self._members))
        )
        weakref.finalize(
            self,
            _release,
            [self._stream, *self._streams],
            [self._features_there, *self._starts, *self._stops],
            [self._images, self._features, self._answers],
            [],
            {},
        )
        self.member_seconds: list[float] | None = None

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        rows = len(images)
        used = rows * self._members[0].output_bytes
        step = -(-used // _ALIGNMENT) * _ALIGNMENT
        answers = np.empty((len(self._members), step), np.uint8)
        _to_device(self._images, images, self._stream)
        self._stem.enqueue(self._stream, rows, int(self._images), int(self._features))
        _checked(cuda.cudaEventRecord(self._features_there, self._stream))
        each = zip(self._members, self._streams, self._starts, self._stops, strict=True)
        for index, (member, stream, start, stop) in enumerate(each):
            _checked(cuda.cudaStreamWaitEvent(stream, self._features_there, 0))
            _checked(cuda.cudaEventRecord(start, stream))
            member.enqueue(stream, rows, int(self._features), int(self._answers) + index * step)
            _checked(cuda.cudaEventRecord(stop, stream))
        # Nothing may be copied to pageable memory before every member is enqueued: the host would wait for it.
        for stop in self._stops:
            _checked(cuda.cudaStreamWaitEvent(self._stream, stop, 0))
        _to_host(answers, self._answers, self._stream)
        _checked(cuda.cudaStreamSynchronize(self._stream))
        self.member_seconds = [
            _checked(cuda.cudaEventElapsedTime(start, stop)) / 1000
            for start, stop in zip(self._starts, self._stops, strict=True)
        ]
        probabilities = np.ascontiguousarray(answers[:, :used]).view(np.float32)
        return np.ascontiguousarray(probabilities.reshape(len(self._members), rows, -1).swapaxes(0, 1))


def _to_device(target: Any, array: npt.NDArray[Any], stream: Any) -> None:
    kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    _checked(cuda.cudaMemcpyAsync(target, array.ctypes.data, array.nbytes, kind, stream))


def _to_host(array: npt.NDArray[Any], source: Any, stream: Any) -> None:
    kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
    _checked(cuda.cudaMemcpyAsync(array.ctypes.data, source, array.nbytes, kind, stream))


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


def _page_locked(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Host memory that the GPU reads and writes without another copy by the driver."""
    pointer = _checked(cuda.cudaMallocHost(size_bytes))
    return np.ctypeslib.as_array((ctypes.c_ubyte * size_bytes).from_address(int(pointer)))


def _release(
    streams: list[Any], events: list[Any], buffers: list[Any], host: list[int], graphs: Mapping[int, Any]
) -> None:
    for graph in [graph for graph in graphs.values() if graph is not None]:
        cuda.cudaGraphExecDestroy(graph)
    for buffer in buffers:
        cuda.cudaFree(buffer)
    for pointer in host:
        cuda.cudaFreeHost(pointer)
    for event in events:
        cuda.cudaEventDestroy(event)
    for stream in streams:
        cuda.cudaStreamDestroy(stream)
