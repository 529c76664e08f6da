"""A checkpoint as one ONNX file for other programs, which tells them all that they need, and its own answers.

images (N, S, S, 3) uint8 RGB -> probabilities (N, C) float32, the mean of the members; or (N, M, C), each member's
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from rrrbuild.export import export_onnx
from rrrbuild.manifest import INPUT, OUTPUT
from rrrbuild.runtime_onnxruntime import session_options
from rrrnet import __version__, sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint
from rrrnet.hub.card import hub_config
from rrrnet.images.preprocess import Uint8Array
from rrrnet.processor import threads

_BATCH = 8
_MEMBERS = "member_probabilities"


def onnx_file(checkpoint: Checkpoint, *, members: bool, license_: str | None) -> bytes:
    """The checked model with its `metadata_props`; the same checkpoint gives the same bytes.

    Args:
        checkpoint: what to export.
        members: whether it answers with each member's probabilities, (N, M, C), and not their mean.
        license_: for the entry `model_license`, which the ONNX standard names; left out where it is None.

    Raises:
        ArtifactError: the weights do not fit the architecture.
    """
    plan = "merged" if checkpoint.architecture.members > 1 else "sequential"
    model = onnx.load_from_string(export_onnx(checkpoint, plan=plan, half=False))
    if not members:
        _answer_by_mean(model)
    helper.set_model_props(model, metadata(checkpoint, members=members, license_=license_))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _answer_by_mean(model: onnx.ModelProto) -> None:
    """Let the members' probabilities end in their mean, by the same name."""
    graph = model.graph
    softmax, answer = graph.node[-1], graph.output[0]
    softmax.name = softmax.output[0] = _MEMBERS
    graph.node.append(helper.make_node("ReduceMean", [_MEMBERS], [OUTPUT], name=OUTPUT, axes=[1], keepdims=0))
    classes = answer.type.tensor_type.shape.dim[2].dim_value
    answer.CopyFrom(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes]))


def metadata(checkpoint: Checkpoint, *, members: bool, license_: str | None) -> dict[str, str]:
    """What `metadata_props` hold: words, and JSON of lists."""
    preprocess, shape = checkpoint.preprocess, checkpoint.architecture
    size = preprocess.size
    images = hub_config(checkpoint)["pretrained_cfg"]
    output = f"(N, {shape.members}, {shape.num_classes}): of each member" if members else f"(N, {shape.num_classes})"
    if shape.members > 1 and not members:
        output += f": the mean of {shape.members} members"
    told = {
        "name": checkpoint.name,
        "task": "image-classification",
        "labels": json.dumps(checkpoint.labels, ensure_ascii=False),
        "input": f"images, uint8 (N, {size}, {size}, 3), RGB from 0 to 255; mean and std are applied inside",
        "output": f"probabilities, float32 {output}",
        "preprocess": preprocess.describe(),
        "size": str(size),
        **{key: str(images[key]) for key in ("interpolation", "crop_pct", "crop_mode")},
        **{key: json.dumps(images[key]) for key in ("mean", "std")},
        "checkpoint_sha256": sealed.sha256_of(checkpoint.path / DOCUMENT),
        "rrr_version": __version__,
    }
    return told if license_ is None else {**told, "model_license": license_}


def answers(model: bytes, images: Uint8Array) -> npt.NDArray[np.float32]:
    """What ONNX Runtime makes of images (N, S, S, 3) by the model's bytes, on this CPU."""
    session: Any = ort.InferenceSession(model, session_options(threads()), providers=["CPUExecutionProvider"])
    parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    return np.concatenate([session.run([OUTPUT], {INPUT: part})[0] for part in parts])
