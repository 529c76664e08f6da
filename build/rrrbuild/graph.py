"""The ONNX graph of a network, written node by node: what stands here is what an engine runs.

    images (N, S, S, 3) uint8 -> normalise -> stem -> M members -> logits (N, M*C) -> softmax
        -> probabilities (N, M, C) float32

`N` is free. A plan (`PLANS`) is one way to express the members: `sequential` writes them as separate branches,
`merged` as one branch of grouped convolutions. A cascade has two such branches, to be cut apart (`cutting`).
In a half-precision graph, weights and activations are FP16; normalisation and softmax stay in FP32.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from rrrbuild.folding import FoldedNetwork, Layer, Layers
from rrrbuild.manifest import FIRST, INPUT, OUTPUT, REST
from rrrbuild.merging import align_members, merge_members
from rrrnet.images.preprocess import Preprocess

# Old enough for every runtime in the table of targets, new enough for all operators used here.
OPSET = 17
IR_VERSION = 8
Groups = tuple[Sequence[int], Sequence[int]]


class _Graph:
    """Nodes and constants in execution order. Each method adds one operator and returns its output's name."""

    def __init__(self, *, half: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._weight_type = np.float16 if half else np.float32

    def node(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _weights(self, layer: Layer, scope: str) -> list[str]:
        name = scope + layer.conv.name
        return [
            self.constant(f"{name}.weight", layer.weight.astype(self._weight_type)),
            self.constant(f"{name}.bias", layer.bias.astype(self._weight_type)),
        ]

    def conv(self, x: str, layer: Layer, scope: str) -> str:
        conv = layer.conv
        padding, name = conv.kernel // 2, scope + conv.name
        return self.node(
            "Conv",
            [x, *self._weights(layer, scope)],
            f"{name}.output",
            kernel_shape=[conv.kernel] * 2,
            strides=[conv.stride] * 2,
            pads=[padding] * 4,
            group=layer.groups,
        )

    def relu(self, x: str) -> str:
        return self.node("Relu", [x], f"{x}.relu")

    def bottleneck(self, x: str, layers: Layers, block: str, scope: str) -> str:
        """ReLU(x's shortcut + conv3(ReLU(conv2(ReLU(conv1(x)))))); the first block of a stage has a downsample."""
        y = self.relu(self.conv(x, layers[f"{block}.conv1"], scope))
        y = self.relu(self.conv(y, layers[f"{block}.conv2"], scope))
        y = self.conv(y, layers[f"{block}.conv3"], scope)
        downsample = layers.get(f"{block}.downsample.0")
        shortcut = self.conv(x, downsample, scope) if downsample else x
        return self.relu(self.node("Add", [y, shortcut], f"{scope}{block}.sum"))

    def stage(self, x: str, layers: Layers, stage: str, blocks: int, scope: str = "") -> str:
        for index in range(blocks):
            x = self.bottleneck(x, layers, f"{stage}.{index}", scope)
        return x

    def classifier(self, x: str, layer: Layer, scope: str) -> str:
        x = self.node("GlobalAveragePool", [x], f"{scope}avgpool")  # (N, F, 1, 1)
        x = self.node("Flatten", [x], f"{scope}flatten", axis=1)  # (N, F)
        return self.node("Gemm", [x, *self._weights(layer, scope)], f"{scope}fc.output", transB=1)  # (N, C)


def _sequential(graph: _Graph, x: str, network: FoldedNetwork) -> str:
    """Every member as a branch of its own, one after the other; returns logits (N, M*C)."""
    architecture = network.architecture
    logits = []
    for index, layers in enumerate(network.members):
        scope = f"members.{index}." if architecture.members > 1 else ""
        y = graph.stage(x, layers, "layer3", architecture.blocks[2], scope)
        y = graph.stage(y, layers, "layer4", architecture.blocks[3], scope)
        logits.append(graph.classifier(y, layers["fc"], scope))
    return graph.node("Concat", logits, "member_logits", axis=1)


def _merged(graph: _Graph, x: str, network: FoldedNetwork, scope: str = "") -> str:
    """All members as one branch, their channels side by side; returns logits (N, M*C).

    The number of operators does not depend on the number of members.
    """
    architecture, layers = network.architecture, merge_members(network)
    x = graph.stage(x, layers, "layer3", architecture.blocks[2], scope)
    x = graph.stage(x, layers, "layer4", architecture.blocks[3], scope)
    x = graph.node("GlobalAveragePool", [x], f"{scope}avgpool")  # (N, M*F, 1, 1)
    x = graph.conv(x, layers["fc"], scope)  # (N, M*C, 1, 1)
    return graph.node("Flatten", [x], f"{scope}member_logits", axis=1)


def _cascade(graph: _Graph, x: str, network: FoldedNetwork, groups: Groups) -> str:
    """Each group of members as one branch, in the groups' order; returns logits (N, M*C)."""
    logits = [
        _merged(graph, x, replace(network, members=tuple(network.members[member] for member in group)), f"{name}.")
        for name, group in zip((FIRST, REST), groups, strict=True)
    ]
    return graph.node("Concat", logits, "member_logits", axis=1)


PLANS: dict[str, Callable[[_Graph, str, FoldedNetwork], str]] = {"sequential": _sequential, "merged": _merged}


def build_graph(
    network: FoldedNetwork,
    preprocess: Preprocess,
    *,
    plan: str,
    half: bool,
    align: int = 1,
    groups: Groups | None = None,
) -> onnx.ModelProto:
    """The complete model.

    Args:
        network: folded weights.
        preprocess: gives the image size S, and the mean and std that the graph applies.
        plan: a key of `PLANS`.
        half: FP16 weights and activations (TensorRT's strongly typed networks run what is written).
        align: channel counts inside the members are zero-padded to a multiple of it; 1 leaves them as they are.
        groups: members to be written as two branches, those asked first and the rest, in place of a plan's way; the
            output has the members in this order.
    """
    network = align_members(network, align)
    graph, architecture = _Graph(half=half), network.architecture
    x = _normalise(graph, preprocess, half=half)
    x = graph.relu(graph.conv(x, network.stem["conv1"], ""))
    x = graph.node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = graph.stage(x, network.stem, "layer1", architecture.blocks[0])
    x = graph.stage(x, network.stem, "layer2", architecture.blocks[1])
    # (N, M*C)
    logits = PLANS[plan](graph, x, network) if groups is None else _cascade(graph, x, network, groups)
    if half:
        logits = graph.node("Cast", [logits], "member_logits.float32", to=TensorProto.FLOAT)
    members, classes = architecture.members, architecture.num_classes
    shape = graph.constant("probabilities.shape", np.array([-1, members, classes], np.int64))
    logits = graph.node("Reshape", [logits, shape], "logits")  # (N, M, C)
    graph.node("Softmax", [logits], OUTPUT, axis=2)

    size = preprocess.size
    body = helper.make_graph(
        graph.nodes,
        "rrrnet",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", members, classes])],
        graph.constants,
    )
    return helper.make_model(
        body, producer_name="rrrbuild", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )


def _normalise(graph: _Graph, preprocess: Preprocess, *, half: bool) -> str:
    """(x / 255 - mean) / std as NCHW. Not folded into conv1's bias: its zero padding must be zero AFTER the mean.

    It is computed on whole rows of 3 S values: a last axis of 3 colours fills a fifth of a vector register.
    """
    size = preprocess.size
    mean = np.tile((255 * np.array(preprocess.mean, np.float64)).astype(np.float32), size)
    scale = np.tile((1 / (255 * np.array(preprocess.std, np.float64))).astype(np.float32), size)
    rows = graph.constant("images.rows.shape", np.array([-1, size, 3 * size], np.int64))
    x = graph.node("Cast", [INPUT], "images.float32", to=TensorProto.FLOAT)  # first: TensorRT reshapes no uint8
    x = graph.node("Reshape", [x, rows], "images.rows")  # (N, S, 3 S)
    x = graph.node("Sub", [x, graph.constant("mean_255", mean)], "images.centred")
    x = graph.node("Mul", [x, graph.constant("inverse_std_255", scale)], "images.normalised")
    if half:
        x = graph.node("Cast", [x], "images.float16", to=TensorProto.FLOAT16)
    pixels = graph.constant("images.nhwc.shape", np.array([-1, size, size, 3], np.int64))
    x = graph.node("Reshape", [x, pixels], "images.nhwc")  # (N, S, S, 3)
    return graph.node("Transpose", [x], "images.nchw", perm=[0, 3, 1, 2])
