"""The table of targets: engine family + precision, what each needs, and how exact it must be.

To add a target: add a row to `TARGETS`; a new family also needs a compiler and a runtime, which `lazy`
imports (docs/engines.md).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from rrrbuild import machine
from rrrnet.errors import UsageError


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from PyTorch FP32; a limit, whatever was measured.

    Attributes:
        max_abs_error: largest difference of any probability, over all images, members and classes.
        mean_abs_error: largest difference over the classes, averaged over images and members.
        min_label_agreement: smallest share of images on which the ensembles' labels are equal.
    """

    max_abs_error: float
    mean_abs_error: float
    min_label_agreement: float


@dataclass(frozen=True)
class Plan:
    """One way to execute the members, as one target wants it.

    Attributes:
        name: what `--plan` takes.
        align: channel counts inside the members are zero-padded to a multiple of it.
        graph: how they are expressed, a key of `graph.PLANS`.
    """

    name: str
    align: int = 1
    graph: str = "sequential"


@dataclass(frozen=True)
class Target:
    """One row of the table.

    Attributes:
        name: what `--target` takes.
        family: the runtime's Python package.
        precision: of weights and activations; softmax always runs in FP32.
        files: what the engine consists of; the first is the one that the runtime opens.
        tolerance: see `Tolerance`.
        extra: the pip extra of this project that installs the runtime.
        backend: Triton's native backend that runs these files in this precision; None where there is none.
        needs_cpu: CPU features of which one must be present to run.
        plans: how members can be executed; the first suits every network.
    """

    name: str
    family: str
    precision: str
    files: tuple[str, ...]
    tolerance: Tolerance
    extra: str
    backend: str | None
    needs_cpu: tuple[str, ...]
    plans: tuple[Plan, ...]

    @property
    def lacks(self) -> dict[str, str]:
        """Plans that it cannot express, each with the reason."""
        return _LACKS.get(self.family, {})

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.family in _GPU_FAMILIES

    @property
    def runtime_module(self) -> str:
        """The module of this package whose `load` runs it; imports nothing else of it."""
        return "runtime_tensorrt" if self.on_gpu else f"runtime_{self.family}"


_CPU_PLANS = (
    # A vector register holds 16 FP32 numbers; measured in docs/internals/engines.md.
    Plan("sequential", align=16),
    Plan("merged", align=16, graph="merged"),
    Plan("split", align=16),
)
# Tensor cores take FP16 channels in multiples of 8, INT8 in multiples of 32.
_GPU_PLANS = (
    Plan("sequential", align=8),
    Plan("merged", align=8, graph="merged"),
    Plan("streams", align=8),
    Plan("split", align=8),
)
_GPU_INT8_PLANS = tuple(replace(plan, align=32) for plan in _GPU_PLANS)
_LACKS = {
    "openvino": {
        "streams": "OpenVINO's streams run several requests side by side, not the branches of one request; "
        "plan split runs the members side by side"
    },
    "onnxruntime": {
        "streams": "ONNX Runtime gives a graph on the CPU one stream, and its ORT_PARALLEL mode was twice as slow; "
        "plan split runs the members side by side"
    },
}

_TOLERANCES = {
    "fp32": Tolerance(max_abs_error=1e-3, mean_abs_error=1e-4, min_label_agreement=0.995),
    # 11 and 8 significant bits: one rounding is 0.05 % and 0.4 %, and 150 layers add theirs up. An image on the border
    # of two classes may then move far, so the worst case is allowed more than the average. BF16 was widened once, after
    # a ResNet152 with random weights had differed by up to 0.18 at full label agreement.
    "fp16": Tolerance(max_abs_error=0.1, mean_abs_error=0.01, min_label_agreement=0.99),
    "bf16": Tolerance(max_abs_error=0.5, mean_abs_error=0.05, min_label_agreement=0.98),
    # Fixed after measuring 0.13, 0.007 and 0.975 at worst, over three networks, dialects and ways to calibrate; what
    # INT8 costs in accuracy is for --max-drop to judge.
    "int8": Tolerance(max_abs_error=0.3, mean_abs_error=0.03, min_label_agreement=0.95),
}
_NEEDS_CPU = {"bf16": ("avx512_bf16", "amx_bf16", "bf16")}
# With one of these 8-bit products are summed in 32 bits. Without, INT8 runs too, but pairs are summed in 16 bits, where
# products of 8-bit weights overflow.
EXACT_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
_FILES = {
    "openvino": ("model.xml", "model.bin"),
    "onnxruntime": ("model.onnx",),
    "tensorrt": ("model.plan",),
    "tensorrt_rtx": ("model.plan",),
}
_GPU_FAMILIES = ("tensorrt", "tensorrt_rtx")


def _row(family: str, precision: str, backend: str | None = None) -> Target:
    extra, on_gpu = family.replace("_", "-"), family in _GPU_FAMILIES
    gpu_plans = _GPU_INT8_PLANS if precision == "int8" else _GPU_PLANS
    return Target(
        name=f"{extra}-{precision}",
        family=family,
        precision=precision,
        files=_FILES[family],
        tolerance=_TOLERANCES[precision],
        extra=extra,
        backend=backend,
        needs_cpu=() if on_gpu else _NEEDS_CPU.get(precision, ()),
        plans=gpu_plans if on_gpu else _CPU_PLANS,
    )


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        # Triton's OpenVINO backend has a switch for BF16 but none for FP32, and OpenVINO prefers BF16 where it can: so
        # it would run FP32, and what INT8 leaves in float, in BF16.
        _row("openvino", "fp32"),
        _row("openvino", "bf16", backend="openvino"),
        _row("openvino", "int8"),
        _row("onnxruntime", "fp32", backend="onnxruntime"),
        _row("onnxruntime", "int8", backend="onnxruntime"),
        _row("tensorrt", "fp16", backend="tensorrt"),
        _row("tensorrt", "int8", backend="tensorrt"),
        _row("tensorrt_rtx", "fp16"),
        _row("tensorrt_rtx", "int8"),
    )
}


def target_named(name: str) -> Target:
    """The row for `name`.

    Raises:
        UsageError: there is none; lists all.
    """
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}: allowed are {', '.join(TARGETS)} (rrr targets tells more)")
    return TARGETS[name]


def int8_kernels(features: Collection[str]) -> str:
    """Which INT8 kernels run on a CPU of these features: `exact`, or the vectors in which products may overflow.

    What was verified with some of the second kind says nothing about others.
    """
    if not set(EXACT_INT8).isdisjoint(features):
        return "exact"
    return next((name for name in ("avx512f", "avx2", "asimd") if name in features), "unknown")


def build_obstacle(target: Target) -> str | None:
    """Why `target` cannot be built here and what to do about it; None if it can."""
    if missing := machine.missing_package(target.family, target.extra):
        return missing
    if target.precision == "int8" and (missing := machine.missing_package("onnxruntime", "onnxruntime")):
        return f"INT8 is calibrated with ONNX Runtime: {missing}"
    if target.family == "tensorrt" and machine.gpu() is None:
        return "TensorRT times kernels on the GPU it builds for, and this machine has no NVIDIA GPU (or no driver)"
    return None


def run_obstacle(target: Target) -> str | None:
    """Why an engine of `target` cannot run here and what to do about it; None if it can."""
    if missing := machine.missing_package(target.family, target.extra):
        return missing
    if target.needs_cpu and not machine.cpu_features().intersection(target.needs_cpu):
        return (
            f"this CPU ({machine.cpu_model()}) has none of {', '.join(target.needs_cpu)}: "
            f"use {target.family}-fp32 (or leave --target out: the best that runs here is built), "
            f"or run it on a CPU that computes in {target.precision}"
        )
    if target.on_gpu:
        if machine.gpu() is None:
            return "this machine has no NVIDIA GPU (or no driver): run it on one that has"
        return machine.missing_package("cuda.bindings", target.extra)
    return None
