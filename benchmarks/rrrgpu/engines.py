"""TensorRT and TensorRT-RTX engines of the same networks; what they refuse is reported in their own words."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from rrrgpu.network import Network
from rrrgpu.plans import Launch, captured

FAMILIES = ("tensorrt", "tensorrt_rtx")
# By plan: whether the members are merged, and how many auxiliary streams the builder may use.
PLANS = {"sequential": (False, 0), "streams": (False, 8), "merged": (True, 0)}


def missing(family: str) -> str | None:
    """What to install for a family, or None."""
    packages = {family: family.replace("_", "-"), "onnx": "onnx"}
    names = [package for module, package in packages.items() if find_spec(module) is None]
    return f"not installed: pip install {' '.join(names)}" if names else None


def build(
    family: str, network: Network, plan: str, pixels: int, batches: Sequence[int], capability: str = "CURRENT"
) -> tuple[bytes, list[str]]:
    """An FP16 engine with an optimisation profile for each batch size alone, and the builder's warnings.

    Args:
        family: `tensorrt` or `tensorrt_rtx`.
        network: weights in numpy.
        plan: a key of `PLANS`.
        pixels: the images' side.
        batches: sizes to build for.
        capability: for TensorRT-RTX, a name of its `ComputeCapability`; a GPU must be there for `CURRENT`.

    Raises:
        RuntimeError: carries what the builder logged.
    """
    trt = _imported(family)
    with _told(trt) as said:
        return _build(trt, family, network, plan, pixels, batches, capability), [*said]


def _build(
    trt: Any, family: str, network: Network, plan: str, pixels: int, batches: Sequence[int], capability: str
) -> bytes:
    onnx_graph = importlib.import_module("rrrgpu.onnx_graph")  # imports onnx
    merged, streams = PLANS[plan]
    logger, _ = _logger(trt)
    builder = trt.Builder(logger)
    # TensorRT 11 knows no other than strongly typed networks, and may drop the flag.
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    definition = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse(onnx_graph.onnx_model(network, merged=merged, half=True, pixels=pixels)):
        raise RuntimeError("; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.max_aux_streams = streams
    for batch in batches:
        profile = builder.create_optimization_profile()
        profile.set_shape("images", *[(batch, pixels, pixels, 3)] * 3)
        config.add_optimization_profile(profile)
    if family == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    plan_bytes = builder.build_serialized_network(definition, config)
    if plan_bytes is None:
        raise RuntimeError(f"{family} built nothing")
    return bytes(plan_bytes)


def _imported(family: str) -> Any:
    """The runtime's package; its wheels load their libraries when they are imported."""
    try:
        return importlib.import_module(family)
    except (ImportError, OSError) as error:
        raise RuntimeError(f"{family} is installed but cannot be imported: {error}") from error


class Engines:
    """Engines that were built already, by network, plan and size."""

    def __init__(self) -> None:
        self._built: dict[Any, Any] = {}

    def launch(
        self, family: str, network: Network, plan: str, images: Any, batches: Sequence[int], row: dict[str, Any]
    ) -> Launch:
        """Launches on `images`, as a CUDA graph.

        Args:
            family: `tensorrt` or `tensorrt_rtx`.
            network: weights in numpy.
            plan: a key of `PLANS`.
            images: (N, S, S, 3) uint8 on the GPU; N is one of `batches`.
            batches: all sizes that will be asked for, since they share an engine.
            row: gets what the engine tells about itself.

        Raises:
            RuntimeError: the family refuses to build, open or run it; carries its words. The launch raises it as well.
        """
        if problem := missing(family):
            raise RuntimeError(problem)
        trt, pixels = _imported(family), images.shape[1]
        key = (family, network.name, plan, pixels)
        if key not in self._built:
            try:
                self._built[key] = self._open(trt, *build(family, network, plan, pixels, batches))
            except RuntimeError as error:
                self._built[key] = error
        if isinstance(self._built[key], RuntimeError):
            raise self._built[key]
        _, engine, lines = self._built[key]
        with _told(trt, lines) as said:
            row |= {"auxiliary_streams": engine.num_aux_streams, "layers": engine.num_layers}
            execute, outputs = _execution(trt, family, engine, batches.index(len(images)), network, images)
            if family == "tensorrt_rtx":  # captures by itself, after it has compiled its kernels
                execute()
                torch.cuda.synchronize()
            else:
                graph, _ = captured(execute)
            row["warnings"] = lines = [*lines, *said]
        if family != "tensorrt_rtx":
            return lambda: (graph.replay(), outputs, execute)[1]  # the graph needs the context that `execute` holds

        def launch() -> tuple[Any, Any]:
            with _told(trt, lines):
                execute()
            return outputs

        return launch

    @staticmethod
    def _open(trt: Any, plan: bytes, lines: list[str]) -> tuple[Any, Any, list[str]]:
        with _told(trt, lines) as said:
            runtime = trt.Runtime(_logger(trt)[0])
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise RuntimeError("the engine could not be opened")
            return runtime, engine, [*lines, *said]


def _execution(
    trt: Any, family: str, engine: Any, profile: int, network: Network, images: Any
) -> tuple[Callable[[], None], tuple[Any, Any]]:
    """A call of the engine, and the tensors that it writes."""
    settings = engine.create_runtime_config() if family == "tensorrt_rtx" else None
    if settings is not None:
        settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Left to itself, it runs fallback kernels while it compiles those for the shape, and they would be timed.
        settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    context = engine.create_execution_context(settings) if settings is not None else engine.create_execution_context()
    if context is None:
        raise RuntimeError("no execution context")
    shape = (len(images), network.members, network.classes)
    logits, probabilities = (torch.empty(shape, dtype=torch.float32, device=images.device) for _ in range(2))
    stream = torch.cuda.current_stream()
    if not context.set_optimization_profile_async(profile, stream.cuda_stream):
        raise RuntimeError(f"optimisation profile {profile} could not be chosen")
    stream.synchronize()
    if not context.set_input_shape("images", tuple(images.shape)):
        raise RuntimeError(f"images of shape {tuple(images.shape)} are refused")
    for name, tensor in (("images", images), ("logits", logits), ("probabilities", probabilities)):
        context.set_tensor_address(name, tensor.data_ptr())

    def execute() -> None:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("the engine could not be executed")

    return execute, (logits, probabilities)


@contextmanager
def _told(trt: Any, before: Sequence[str] = ()) -> Iterator[list[str]]:
    """Gives what the logger says meanwhile; of any exception it makes a RuntimeError that adds `before` and that.

    Scopes follow one another: one within another would take its words.
    """
    _, lines = _logger(trt)
    lines.clear()
    try:
        yield lines
    except Exception as error:  # pybind raises TypeError where a constructor gives null
        name = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
        raise RuntimeError("; ".join([f"{name}{error}", *before, *lines])) from error


@cache
def _logger(trt: Any) -> tuple[Any, list[str]]:
    """A logger, and the list that it puts warnings and errors into.

    One a family for good: TensorRT holds to the first that it is given, and does not own it.
    """
    lines: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                lines.append(f"{severity.name}: {message}")

    return Logger(), lines
