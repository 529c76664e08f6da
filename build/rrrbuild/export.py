"""Checkpoint to ONNX: exact, deterministic, without PyTorch."""

import onnx

from rrrbuild.folding import fold_network
from rrrbuild.graph import Groups, build_graph
from rrrnet.checkpoint import Checkpoint


def export_onnx(
    checkpoint: Checkpoint,
    *,
    plan: str,
    half: bool,
    align: int = 1,
    groups: Groups | None = None,
    embed: bool = False,
) -> bytes:
    """The checkpoint as a checked ONNX model; the same checkpoint gives the same bytes.

    Args:
        checkpoint: what to export.
        plan: how members are expressed, a key of `graph.PLANS`.
        half: FP16 weights and activations instead of FP32.
        align: channel counts inside the members are zero-padded to a multiple of it, which changes no output.
        groups: see `graph.build_graph`.
        embed: see there too.

    Raises:
        ArtifactError: the weights do not fit the architecture.
    """
    model = build_graph(
        fold_network(checkpoint), checkpoint.preprocess, plan=plan, half=half, align=align, groups=groups, embed=embed
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
