"""ONNX to a plan, by TensorRT or TensorRT-RTX: one code path, since the second keeps the first one's interface.

Networks are strongly typed: the ONNX graph says what runs in FP16, in FP32 and, between a QuantizeLinear and a
DequantizeLinear, in INT8. TensorRT times kernels on the GPU that it builds for. TensorRT-RTX builds ahead of time
without a GPU and finishes on the user's GPU at load. Only what TensorRT 10.12 to 11 and TensorRT-RTX share is used:
precision flags and calibrators, which TensorRT 11 removed, are not.
"""

import json
from typing import Any

from rrrbuild import lazy, machine
from rrrbuild.job import Compiled, CompileJob
from rrrbuild.manifest import BUILD_LOG, ENGINE_INFO, TIMING_CACHE
from rrrnet.errors import CheckFailedError

_MULTI_STREAM = "[MS]"  # marks the builder's remarks on streams
# Turing is not in TensorRT-RTX's own default, and with it an FP32 matrix product, which an INT8 network keeps in its
# classifiers, is refused. The H100 (9.0) is in no release of TensorRT-RTX.
_RTX_COMPUTE_CAPABILITIES = {
    "fp16": ("SM75", "SM80", "SM86", "SM89", "SM120"),
    "int8": ("SM80", "SM86", "SM89", "SM120"),
}
# 3, TensorRT's default, guesses whether a kernel of its library will do or one has to be compiled for the layer;
# 5 compiles one and times it against the library's. Layers of equal shape (all members', most of ResNet152's) are
# timed once.
_OPTIMIZATION_LEVEL = 5


def compile_engine(job: CompileJob) -> Compiled:
    """Write the plan, the log of its build, facts about the engine, and TensorRT's timing cache.

    TensorRT-RTX times nothing ahead of time and has no such cache. Log, facts and cache are those of all parts in the
    folder.

    Raises:
        CheckFailedError: the network is refused; carries the runtime's own words.
    """
    ahead_of_time = job.target.family == "tensorrt_rtx"
    trt = lazy.tensorrt(job.target.family)
    lines: list[str] = []
    logger = _make_logger(trt, lines)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(job.model):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise CheckFailedError(f"{job.target.family} does not take the exported network: {reasons}")

    config = builder.create_builder_config()
    # TensorRT chooses kernels for one size a profile, TensorRT-RTX at load for each size it meets.
    tuned_for = (job.batch.opt,) if ahead_of_time else job.batch.sizes()
    for size in tuned_for:
        config.add_optimization_profile(_profile(builder, network, job, size))
    if job.aux_streams is not None:
        config.max_aux_streams = job.aux_streams
    cache, cache_file = None, job.folder / TIMING_CACHE
    if ahead_of_time:
        built_for = _set_compute_capabilities(trt, config, job.target.precision)
    else:
        gpu = machine.gpu()
        built_for = [gpu.compute_capability] if gpu else []
        config.builder_optimization_level = _OPTIMIZATION_LEVEL
        cache = _timing_cache(config, cache_file.read_bytes() if cache_file.is_file() else job.timing_cache)
    plan = builder.build_serialized_network(network, config)
    with (job.folder / BUILD_LOG).open("a", encoding="utf-8") as log:
        log.write("\n".join(lines) + "\n")
    if plan is None:
        errors = [line for line in lines if line.startswith(("ERROR", "INTERNAL_ERROR"))] or lines[-3:]
        raise CheckFailedError(f"{job.target.family} cannot build {job.target.name}: {'; '.join(errors)}")
    job.path.write_bytes(plan)
    if cache is not None:
        cache_file.write_bytes(cache.serialize())
    info = {
        "builder_optimization_level": config.builder_optimization_level,
        "profiles": [[job.batch.min, size, job.batch.max] for size in tuned_for],
        **_read_back(trt, logger, plan, built_for),
    }
    path = job.folder / ENGINE_INFO
    parts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(parts | {job.part: info}, indent=2) + "\n", encoding="utf-8")
    if not job.aux_streams:
        return Compiled(built_for)
    said = list(dict.fromkeys(line for line in lines if _MULTI_STREAM in line))
    streams = {"asked": job.aux_streams, "got": info.get("auxiliary_streams"), "log": said}
    return Compiled(built_for, streams)


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


def _profile(builder: Any, network: Any, job: CompileJob, tuned_for: int) -> Any:
    """An optimisation profile that takes every batch size and has the fastest kernels for one."""
    tensor = network.get_input(0)
    _, *shape = tensor.shape
    profile = builder.create_optimization_profile()
    sizes = (job.batch.min, tuned_for, job.batch.max)
    profile.set_shape(tensor.name, *((size, *shape) for size in sizes))
    return profile


def _set_compute_capabilities(trt: Any, config: Any, precision: str) -> list[str]:
    """Tell TensorRT-RTX which GPUs to build for."""
    names = _RTX_COMPUTE_CAPABILITIES[precision]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    return [f"{name[2:-1]}.{name[-1]}" for name in names]


def _read_back(trt: Any, logger: Any, plan: Any, built_for: list[str]) -> dict[str, int]:
    """What only the finished engine tells; empty where this machine has no GPU that can open it."""
    gpu = machine.gpu()
    if gpu is None or gpu.compute_capability not in built_for:
        return {}
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return {}
    return {
        "layers": engine.num_layers,
        # As many as the builder found worth it, at most as many as it was allowed; 0: members run one after another.
        "auxiliary_streams": engine.num_aux_streams,
        "device_memory_bytes": engine.device_memory_size_v2,
    }
