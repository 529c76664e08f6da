"""Every import that takes seconds or a package that may be missing: ONNX, the compilers, the runtimes, PyTorch.

What the command line and the service import of this package must do without them. So imports stand in functions here,
and only here.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rrrbuild.calibration import Calibration
from rrrbuild.heldout import HeldOut
from rrrbuild.job import BuildOrder, Compiled, CompileJob
from rrrbuild.manifest import FIRST, STEM
from rrrbuild.plan_runner import Probabilities, Run
from rrrbuild.targets import Plan, Target
from rrrnet.checkpoint import Checkpoint
from rrrnet.images.preprocess import Uint8Array
from rrrnet.training.threads import configure_threads

if TYPE_CHECKING:
    from rrrbuild.quantize import Quantiser


def export_onnx(
    checkpoint: Checkpoint,
    target: Target,
    plan: Plan,
    groups: tuple[Sequence[int], Sequence[int]] | None = None,
    *,
    embed: bool = False,
) -> bytes:
    """See `export.export_onnx`."""
    from rrrbuild import export

    half = target.precision == "fp16"
    return export.export_onnx(checkpoint, plan=plan.graph, half=half, align=plan.align, groups=groups, embed=embed)


def onnx_file(checkpoint: Checkpoint, *, members: bool, license_: str | None) -> tuple[bytes, dict[str, str], int]:
    """The model of `exchange.onnx_file`, its metadata, and its opset."""
    from rrrbuild import exchange, graph

    model = exchange.onnx_file(checkpoint, members=members, license_=license_)
    return model, exchange.metadata(checkpoint, members=members, license_=license_), graph.OPSET


def onnx_answers(model: bytes, images: Uint8Array) -> Probabilities:
    """See `exchange.answers`."""
    from rrrbuild import exchange

    return exchange.answers(model, images)


def cut(model: bytes) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The parts of a model for plan `split`, and what its stem hands on (see `cutting`)."""
    from rrrbuild import cutting

    parts = cutting.cut(model)
    return parts, cutting.features_of(parts[STEM])


def cut_cascade(model: bytes, k: int) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The two parts of a cascade, and what the first hands on (see `cutting`)."""
    from rrrbuild import cutting

    parts = cutting.cut_cascade(model, k)
    return parts, cutting.features_of(parts[FIRST])


def quantiser(order: BuildOrder, calibration: Calibration, held_out: HeldOut) -> "Quantiser":
    """What makes exported models INT8."""
    from rrrbuild.quantize import Quantiser

    return Quantiser(order.target, calibration, held_out, max_drop=order.max_drop, report=order.report)


def compiler(target: Target) -> Callable[[CompileJob], Compiled]:
    """The `compile_engine` that makes engines of a target."""
    if target.on_gpu:
        from rrrbuild import compile_tensorrt

        return compile_tensorrt.compile_engine
    if target.family == "openvino":
        from rrrbuild import compile_openvino

        return compile_openvino.compile_engine
    from rrrbuild import compile_onnxruntime

    return compile_onnxruntime.compile_engine


def runtime(target: Target) -> ModuleType:
    """The module whose `load` runs engines of a target."""
    if target.on_gpu:
        from rrrbuild import runtime_tensorrt

        return runtime_tensorrt
    if target.family == "openvino":
        from rrrbuild import runtime_openvino

        return runtime_openvino
    from rrrbuild import runtime_onnxruntime

    return runtime_onnxruntime


def tensorrt(family: str) -> Any:
    """TensorRT or TensorRT-RTX: the second keeps the first one's interface."""
    if family == "tensorrt_rtx":
        import tensorrt_rtx

        return tensorrt_rtx
    import tensorrt

    return tensorrt


def predictor(checkpoint: Checkpoint) -> Run:
    """The trained network in PyTorch: images (N, S, S, 3) -> probabilities (N, M, C)."""
    configure_threads()
    from rrrnet import inference

    return inference.predictor(checkpoint)


def embedder(checkpoint: Checkpoint) -> Run:
    """The same for embeddings: images (N, S, S, 3) -> (N, D)."""
    configure_threads()
    from rrrnet import inference

    return inference.embedder(checkpoint)
