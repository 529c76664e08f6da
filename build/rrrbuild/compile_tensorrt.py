"""ONNX to a plan, by TensorRT or TensorRT-RTX: one code path, since the second keeps the first one's interface.

Networks are strongly typed: the ONNX graph says what runs in FP16, in FP32, and by Q/DQ nodes in INT8. TensorRT times
kernels on the GPU that it builds for. TensorRT-RTX builds ahead of time without a GPU and finishes on the user's GPU
at load.
"""

import importlib
from typing import Any

from rrrbuild import machine
from rrrbuild.job import CompileJob
from rrrbuild.manifest import INPUT
from rrrnet.errors import CheckFailedError

BUILD_LOG = "build.log"
TIMING_CACHE = "timing.cache"
# Turing is not in TensorRT-RTX's own default, and with it an FP32 matrix product, which an INT8 network keeps in its
# classifiers, is refused. The H100 (9.0) is in no release of TensorRT-RTX.
_RTX_COMPUTE_CAPABILITIES = {
    "fp16": ("SM75", "SM80", "SM86", "SM89", "SM120"),
    "int8": ("SM80", "SM86", "SM89", "SM120"),
}


def compile_engine(job: CompileJob) -> dict[str, Any]:
    """Write the plan, the log of its build and TensorRT's timing cache (TensorRT-RTX times nothing ahead of time).

    Returns:
        What the engine was built for: compute capabilities, like "8.9".

    Raises:
        CheckFailedError: the network is refused; carries the runtime's own words.
    """
    trt = importlib.import_module(job.target.family)
    lines: list[str] = []
    logger = _make_logger(trt, lines)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(job.model):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise CheckFailedError(f"{job.target.family} does not take the exported network: {reasons}")

    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, job))
    built_for = _set_compute_capabilities(trt, config, job.target.precision)
    cache = _timing_cache(config, job.timing_cache) if job.target.family == "tensorrt" else None
    plan = builder.build_serialized_network(network, config)
    (job.folder / BUILD_LOG).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if plan is None:
        errors = [line for line in lines if line.startswith(("ERROR", "INTERNAL_ERROR"))] or lines[-3:]
        raise CheckFailedError(f"{job.target.family} cannot build {job.target.name}: {'; '.join(errors)}")
    (job.folder / job.target.files[0]).write_bytes(plan)
    if cache is not None:
        (job.folder / TIMING_CACHE).write_bytes(cache.serialize())
    return {"built_for": built_for}


def _make_logger(trt: Any, lines: list[str]) -> Any:
    """A logger that keeps every message of at least INFO in `lines`."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.INFO:
                lines.append(f"{severity.name}: {message}")

    return Logger()


def _network_flags(trt: Any) -> int:
    """Strongly typed; TensorRT 11 knows no other network and may drop the flag."""
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def _timing_cache(config: Any, earlier: bytes) -> Any:
    """Attach a timing cache to `config`, filled with what an earlier build measured if it was on this kind of GPU."""
    cache = config.create_timing_cache(earlier)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _profile(builder: Any, network: Any, job: CompileJob) -> Any:
    """The one optimisation profile: from the smallest to the largest batch, tuned for `opt`."""
    _, *image_shape = network.get_input(0).shape
    profile = builder.create_optimization_profile()
    sizes = (job.batch.min, job.batch.opt, job.batch.max)
    profile.set_shape(INPUT, *((size, *image_shape) for size in sizes))
    return profile


def _set_compute_capabilities(trt: Any, config: Any, precision: str) -> list[str]:
    """Tell TensorRT-RTX which GPUs to build for; TensorRT builds for the one that is present."""
    if not hasattr(trt, "ComputeCapability"):
        gpu = machine.gpu()
        return [gpu.compute_capability] if gpu else []
    names = _RTX_COMPUTE_CAPABILITIES[precision]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    return [f"{name[2:-1]}.{name[-1]}" for name in names]
