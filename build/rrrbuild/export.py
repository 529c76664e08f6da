"""Checkpoint to ONNX: exact, deterministic, without PyTorch."""

import onnx

from rrrbuild.folding import fold_network
from rrrbuild.graph import build_graph
from rrrnet.checkpoint import Checkpoint


def export_onnx(checkpoint: Checkpoint, *, plan: str, half: bool) -> bytes:
    """The checkpoint as a checked ONNX model; the same checkpoint gives the same bytes.

    Args:
        checkpoint: what to export.
        plan: how members are expressed, a key of `graph.PLANS`.
        half: FP16 weights and activations instead of FP32.

    Raises:
        ArtifactError: the weights do not fit the architecture.
    """
    model = build_graph(fold_network(checkpoint), checkpoint.preprocess, plan=plan, half=half)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
