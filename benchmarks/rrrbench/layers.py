"""Where an OpenVINO engine's time goes: the runtime's own counters, summed over groups of layers."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov

from rrrbench.turns import MIN_ROUNDS
from rrrbuild.heldout import generated_images
from rrrbuild.manifest import read_engine, to_document
from rrrbuild.plan_runner import plans_by_size
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import Architecture, convolutions, output_side

# A division of a network: patterns in this order; the first that is found in a layer's name takes it.
Groups = Mapping[str, str]
KINDS: Groups = {
    "stem": r"^conv1\.|maxpool|layer[12]\.",
    "members: 1x1 on the stem's output": r"layer3\.0\.(conv1|downsample)",
    "members: 3x3": r"layer[34]\.\d+\.conv2",
    "members: other 1x1": r"layer[34]\.",
}
STAGES: Groups = {
    "conv1, max pooling": r"^conv1\.|maxpool",
    **{stage: rf"{stage}\." for stage in ("layer1", "layer2", "layer3", "layer4")},
}
REST = "input, pooling, classifiers, softmax"
_HINTS = {"bf16": "bf16"}


def group_of(name: str, groups: Groups) -> str:
    """The group of a layer or operator by its name in the graph."""
    return next((group for group, pattern in groups.items() if re.search(pattern, name)), REST)


def macs_by_group(architecture: Architecture, groups: Groups, pixels: int) -> dict[str, int]:
    """Multiply-accumulates of one image."""
    totals: dict[str, int] = defaultdict(int)
    for part, conv in convolutions(architecture):
        side = 1 if conv.name == "fc" else output_side(conv, pixels)
        times = 1 if part == "stem" else architecture.members
        name = f"{conv.name}." if part == "stem" else conv.name
        totals[group_of(name, groups)] += times * conv.in_channels * conv.out_channels * conv.kernel**2 * side**2
    return dict(totals)


def model_file(engine: Path, batch: int) -> Path | None:
    """The IR that an engine runs a batch with; None where the plan for it keeps the parts in files of their own."""
    plans = plans_by_size(to_document(read_engine(engine)))
    plan = next((plan for size, plan in plans.items() if batch <= size), list(plans.values())[-1])
    file = (engine / plan if len(set(plans.values())) > 1 else engine) / "model.xml"
    return file if file.is_file() else None


def milliseconds_by_group(model: Path, groups: Groups, precision: str, pixels: int, batch: int) -> dict[str, float]:
    """Median over some inferences of the time that OpenVINO counts for each group.

    Args:
        model: an OpenVINO IR.
        groups: how to divide it.
        precision: what the CPU is to compute in; 8-bit models say so themselves.
        pixels: image size.
        batch: images in a call.
    """
    core = ov.Core()
    network = core.read_model(model)
    network.reshape([batch, pixels, pixels, 3])
    hint = _HINTS.get(precision, "f32")
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint, "PERF_COUNT": "YES"}
    request = core.compile_model(network, "CPU", options).create_infer_request()
    images = generated_images(Preprocess(pixels), batch)
    runs: list[dict[str, float]] = []
    for _ in range(2 * MIN_ROUNDS):
        request.infer({0: images}, share_inputs=True)
        sums: dict[str, float] = dict.fromkeys([*groups, REST], 0.0)
        for item in request.profiling_info:
            sums[group_of(item.node_name, groups)] += item.real_time.total_seconds() * 1000
        runs.append(sums)
    return {group: float(np.median([run[group] for run in runs[MIN_ROUNDS:]])) for group in runs[0]}
