"""TensorRT and TensorRT-RTX engines, ready to be launched on images that lie on the GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rrrgpu.builder import build, imported, logger_of, missing, told
from rrrgpu.cascade import FIRST, REST, Cascade
from rrrgpu.network import Network
from rrrgpu.plans import Launch, captured

Opened = tuple[Any, Any, list[str]]


class Engines:
    """Engines that were built already, by network, plan and size."""

    def __init__(self) -> None:
        self._built: dict[tuple[str, str, str, int], Opened | RuntimeError] = {}

    def launch(
        self, family: str, network: Network, plan: str, images: Any, batches: Sequence[int], row: dict[str, Any]
    ) -> Launch:
        """Launches on `images`, as a CUDA graph.

        Args:
            family: `tensorrt` or `tensorrt_rtx`.
            network: weights in numpy.
            plan: a key of `builder.PLANS`.
            images: (N, S, S, 3) uint8 on the GPU; N is one of `batches`.
            batches: all sizes that will be asked for, since they share an engine.
            row: gets what the engine tells about itself.

        Raises:
            RuntimeError: the family refuses to build, open or run it; carries its words. The launch raises it as well.
        """
        opened = self._opened(family, network, plan, images.shape[1], batches)
        outputs = _answers(network, images, len(images))
        return _launch(family, opened, batches.index(len(images)), ("images", images), outputs, row)

    def cascade(
        self, family: str, first: Network, rest: Network, images: Any, batches: Sequence[int], row: dict[str, Any]
    ) -> Cascade:
        """A cascade on `images`: two engines, the second with a CUDA graph for each number of images.

        Args:
            family: see `launch`, as for what else is not told here.
            first: the members that are asked first, as `Network.some` gives them, in numpy.
            rest: the others.
            images: see `launch`.
            batches: see `launch`.
            row: gets what both engines tell about themselves, by part.

        Raises:
            RuntimeError: see `launch`.
        """
        count, pixels = len(images), images.shape[1]
        row |= {FIRST: {}, REST: {}}
        opened = self._opened(family, first, FIRST, pixels, batches)
        shape = (count, *tuple(opened[1].get_tensor_shape("features"))[1:])
        features, gathered = (torch.zeros(shape, dtype=torch.float16, device=images.device) for _ in range(2))
        outputs = {**_answers(first, images, count), "features": features}
        run_first = _launch(family, opened, batches.index(count), ("images", images), outputs, row[FIRST])
        opened, run_rest = self._opened(family, rest, REST, pixels, batches), []
        for number in range(1, count + 1):
            profile = int(np.abs(np.subtract(batches, number)).argmin())  # tuned for the nearest size
            source, outputs = ("features", gathered[:number]), _answers(rest, images, number)
            run_rest.append(_launch(family, opened, profile, source, outputs, row[REST]))
        return Cascade(run_first, run_rest, gathered)

    def _opened(self, family: str, network: Network, plan: str, pixels: int, batches: Sequence[int]) -> Opened:
        """Runtime, engine and the words so far; what once failed fails again."""
        if problem := missing(family):
            raise RuntimeError(problem)
        key = (family, network.name, plan, pixels)
        if key not in self._built:
            try:
                self._built[key] = _open(imported(family), *build(family, network, plan, pixels, batches))
            except RuntimeError as error:
                self._built[key] = error
        found = self._built[key]
        if isinstance(found, RuntimeError):
            raise found
        return found


def _open(trt: Any, plan: bytes, lines: list[str]) -> Opened:
    with told(trt, lines) as said:
        runtime = trt.Runtime(logger_of(trt)[0])
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeError("the engine could not be opened")
        return runtime, engine, [*lines, *said]


def _answers(network: Network, images: Any, count: int) -> dict[str, Any]:
    """Memory for logits and probabilities of some of the images."""
    shape = (count, network.members, network.classes)
    return {name: torch.empty(shape, dtype=torch.float32, device=images.device) for name in ("logits", "probabilities")}


def _launch(
    family: str, opened: Opened, profile: int, source: tuple[str, Any], outputs: dict[str, Any], row: dict[str, Any]
) -> Launch:
    """Launches that read `source` and give `outputs`, each a tensor by its name; the row gets what is told of them."""
    trt, (_, engine, lines) = imported(family), opened
    with told(trt, lines) as said:
        row |= {"auxiliary_streams": engine.num_aux_streams, "layers": engine.num_layers}
        execute = _execution(trt, family, engine, profile, source, outputs)
        if family == "tensorrt_rtx":  # captures by itself, after it has compiled its kernels
            execute()
            torch.cuda.synchronize()
        else:
            graph, _ = captured(execute)
        row["warnings"] = lines = [*lines, *said]
    found = tuple(outputs.values())
    if family != "tensorrt_rtx":
        return lambda: (graph.replay(), found, execute)[1]  # the graph needs the context that `execute` holds

    def launch() -> tuple[Any, ...]:
        with told(trt, lines):
            execute()
        return found

    return launch


def _execution(
    trt: Any, family: str, engine: Any, profile: int, source: tuple[str, Any], outputs: dict[str, Any]
) -> Callable[[], None]:
    """A call of the engine."""
    settings = engine.create_runtime_config() if family == "tensorrt_rtx" else None
    if settings is not None:
        settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Left to itself, it runs fallback kernels while it compiles those for the shape, and they would be timed.
        settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    context = engine.create_execution_context(settings) if settings is not None else engine.create_execution_context()
    if context is None:
        raise RuntimeError("no execution context")
    stream = torch.cuda.current_stream()
    if not context.set_optimization_profile_async(profile, stream.cuda_stream):
        raise RuntimeError(f"optimisation profile {profile} could not be chosen")
    stream.synchronize()
    name, tensor = source
    if not context.set_input_shape(name, tuple(tensor.shape)):
        raise RuntimeError(f"{name} of shape {tuple(tensor.shape)} are refused")
    for name, tensor in (source, *outputs.items()):
        context.set_tensor_address(name, tensor.data_ptr())

    def execute() -> None:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("the engine could not be executed")

    return execute
