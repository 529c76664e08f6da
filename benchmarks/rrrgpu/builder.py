"""Engines of the same networks, built by TensorRT and TensorRT-RTX; what these refuse is told in their own words."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from rrrgpu.cascade import FIRST, REST
from rrrgpu.network import Network

FAMILIES = ("tensorrt", "tensorrt_rtx")
# By plan: whether the members are merged, and how many auxiliary streams the builder may use.
PLANS = {"sequential": (False, 0), "streams": (False, 8), "merged": (True, 0)}
PARTS = {FIRST: (True, 0), REST: (True, 0)}


def missing(family: str) -> str | None:
    """What to install for a family, or None."""
    packages = {family: family.replace("_", "-"), "onnx": "onnx"}
    names = [package for module, package in packages.items() if find_spec(module) is None]
    return f"not installed: pip install {' '.join(names)}" if names else None


def build(
    family: str, network: Network, plan: str, pixels: int, batches: Sequence[int], capability: str = "CURRENT"
) -> tuple[bytes, list[str]]:
    """An FP16 engine with an optimisation profile for each batch size, and the builder's warnings.

    The profiles of `rest` take every number of images up to the largest batch, those of others the one size.

    Args:
        family: `tensorrt` or `tensorrt_rtx`.
        network: weights in numpy; for a part of a cascade its members alone, as `Network.some` gives them.
        plan: a key of `PLANS` or `PARTS`.
        pixels: the images' side.
        batches: sizes to build for.
        capability: for TensorRT-RTX, a name of its `ComputeCapability`; a GPU must be there for `CURRENT`.

    Raises:
        RuntimeError: carries what the builder logged.
    """
    trt = imported(family)
    with told(trt) as said:
        return _build(trt, family, network, plan, pixels, batches, capability), [*said]


def _build(
    trt: Any, family: str, network: Network, plan: str, pixels: int, batches: Sequence[int], capability: str
) -> bytes:
    onnx_graph = importlib.import_module("rrrgpu.onnx_graph")  # imports onnx
    merged, streams = (PLANS | PARTS)[plan]
    logger, _ = logger_of(trt)
    builder = trt.Builder(logger)
    # TensorRT 11 knows no other than strongly typed networks, and may drop the flag.
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    definition = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(definition, logger)
    model = onnx_graph.onnx_model(network, merged=merged, half=True, pixels=pixels, part=plan if plan in PARTS else "")
    if not parser.parse(model):
        raise RuntimeError("; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.max_aux_streams = streams
    source = definition.get_input(0)
    for batch in batches:
        profile = builder.create_optimization_profile()
        sizes = (1, batch, max(batches)) if plan == REST else (batch,) * 3
        profile.set_shape(source.name, *((size, *tuple(source.shape)[1:]) for size in sizes))
        config.add_optimization_profile(profile)
    if family == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    plan_bytes = builder.build_serialized_network(definition, config)
    if plan_bytes is None:
        raise RuntimeError(f"{family} built nothing")
    return bytes(plan_bytes)


def imported(family: str) -> Any:
    """The runtime's package; its wheels load their libraries when they are imported."""
    try:
        return importlib.import_module(family)
    except (ImportError, OSError) as error:
        raise RuntimeError(f"{family} is installed but cannot be imported: {error}") from error


@contextmanager
def told(trt: Any, before: Sequence[str] = ()) -> Iterator[list[str]]:
    """Gives what the logger says meanwhile; of any exception it makes a RuntimeError that adds `before` and that.

    Scopes follow one another: one within another would take its words.
    """
    _, lines = logger_of(trt)
    lines.clear()
    try:
        yield lines
    except Exception as error:  # pybind raises TypeError where a constructor gives null
        name = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
        raise RuntimeError("; ".join([f"{name}{error}", *before, *lines])) from error


@cache
def logger_of(trt: Any) -> tuple[Any, list[str]]:
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
