"""The ONNX graph of a network, written node by node: what stands here is what an engine runs.

    images (N, S, S, 3) uint8 -> normalise -> stem -> M members -> logits (N, M*C) -> softmax
        -> probabilities (N, M, C) float32

and, where it is asked for, the members' pooled features side by side -> embedding (N, D) float32, of length 1.

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
from rrrbuild.manifest import EMBEDDING, FIRST, INPUT, OUTPUT, REST
from rrrbuild.merging import align_members, merge_members
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import embedding_dim

# Old enough for every runtime in the table of targets, new enough for all operators used here.
OPSET = 17
IR_VERSION = 8
Groups = tuple[Sequence[int], Sequence[int]]
_SHORTEST = 1e-12  # an image whose features are all 0 has the embedding 0, as PyTorch's `normalize` has it


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

    def pooled(self, x: str, scope: str) -> str:
        x = self.node("GlobalAveragePool", [x], f"{scope}avgpool")  # (N, F, 1, 1)
        return self.node("Flatten", [x], f"{scope}flatten", axis=1)  # (N, F)

    def classifier(self, x: str, layer: Layer, scope: str) -> str:
        return self.node("Gemm", [x, *self._weights(layer, scope)], f"{scope}fc.output", transB=1)  # (N, C)


def _sequential(graph: _Graph, x: str, network: FoldedNetwork) -> tuple[str, list[str]]:
    """Every member as a branch of its own, one after the other; returns logits (N, M*C), pooled features M (N, F)."""
    architecture = network.architecture
    logits, pooled = [], []
    for index, layers in enumerate(network.members):
        scope = f"members.{index}." if architecture.members > 1 else ""
        y = graph.stage(x, layers, "layer3", architecture.blocks[2], scope)
        y = graph.stage(y, layers, "layer4", architecture.blocks[3], scope)
        pooled.append(graph.pooled(y, scope))
        logits.append(graph.classifier(pooled[-1], layers["fc"], scope))
    return graph.node("Concat", logits, "member_logits", axis=1), pooled


def _merged(graph: _Graph, x: str, network: FoldedNetwork, scope: str = "") -> tuple[str, list[str]]:
    """All members as one branch, their channels side by side; returns logits (N, M*C), pooled features (N, M*F, 1, 1).

    The number of operators does not depend on the number of members.
    """
    architecture, layers = network.architecture, merge_members(network)
    x = graph.stage(x, layers, "layer3", architecture.blocks[2], scope)
    x = graph.stage(x, layers, "layer4", architecture.blocks[3], scope)
    pooled = graph.node("GlobalAveragePool", [x], f"{scope}avgpool")  # (N, M*F, 1, 1)
    x = graph.conv(pooled, layers["fc"], scope)  # (N, M*C, 1, 1)
    return graph.node("Flatten", [x], f"{scope}member_logits", axis=1), [pooled]


def _cascade(graph: _Graph, x: str, network: FoldedNetwork, groups: Groups) -> str:
    """Each group of members as one branch, in the groups' order; returns logits (N, M*C)."""
    logits = [
        _merged(graph, x, replace(network, members=tuple(network.members[member] for member in group)), f"{name}.")[0]
        for name, group in zip((FIRST, REST), groups, strict=True)
    ]
    return graph.node("Concat", logits, "member_logits", axis=1)


def _embedding(graph: _Graph, pooled: list[str], network: FoldedNetwork, *, half: bool) -> None:
    """The pooled features without the channels that alignment added, side by side, divided by their length."""
    architecture = network.architecture
    members, wide = architecture.members, network.members[0]["fc"].conv.in_channels
    x = graph.node("Concat", pooled, "embedding.pooled", axis=1) if len(pooled) > 1 else pooled[0]
    if half:
        x = graph.node("Cast", [x], "embedding.float32", to=TensorProto.FLOAT)
    by_member = graph.constant("embedding.by_member.shape", np.array([-1, members, wide], np.int64))
    x = graph.node("Reshape", [x, by_member], "embedding.by_member")  # (N, M, F)
    dim = embedding_dim(architecture)
    bounds = {"starts": 0, "ends": dim // members, "axes": 2}
    slices = [graph.constant(f"embedding.{name}", np.array([value], np.int64)) for name, value in bounds.items()]
    x = graph.node("Slice", [x, *slices], "embedding.trained")  # (N, M, 4 * width)
    flat = graph.constant("embedding.flat.shape", np.array([-1, dim], np.int64))
    x = graph.node("Reshape", [x, flat], "embedding.flat")  # (N, D)
    length = graph.node("ReduceL2", [x], "embedding.length", axes=[1], keepdims=1)
    length = graph.node(
        "Max", [length, graph.constant("embedding.shortest", np.array(_SHORTEST, np.float32))], "embedding.above_0"
    )
    graph.node("Div", [x, length], EMBEDDING)


PLANS: dict[str, Callable[[_Graph, str, FoldedNetwork], tuple[str, list[str]]]] = {
    "sequential": _sequential,
    "merged": _merged,
}


def build_graph(
    network: FoldedNetwork,
    preprocess: Preprocess,
    *,
    plan: str,
    half: bool,
    align: int = 1,
    groups: Groups | None = None,
    embed: bool = False,
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
        embed: whether it has the output `embedding` too; not with `groups`.
    """
    network = align_members(network, align)
    graph, architecture = _Graph(half=half), network.architecture
    x = _normalise(graph, preprocess, half=half)
    x = graph.relu(graph.conv(x, network.stem["conv1"], ""))
    x = graph.node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = graph.stage(x, network.stem, "layer1", architecture.blocks[0])
    x = graph.stage(x, network.stem, "layer2", architecture.blocks[1])
    # (N, M*C)
    logits, pooled = PLANS[plan](graph, x, network) if groups is None else (_cascade(graph, x, network, groups), [])
    if half:
        logits = graph.node("Cast", [logits], "member_logits.float32", to=TensorProto.FLOAT)
    members, classes = architecture.members, architecture.num_classes
    shape = graph.constant("probabilities.shape", np.array([-1, members, classes], np.int64))
    logits = graph.node("Reshape", [logits, shape], "logits")  # (N, M, C)
    graph.node("Softmax", [logits], OUTPUT, axis=2)
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", members, classes])]
    if embed:
        _embedding(graph, pooled, network, half=half)
        outputs.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", embedding_dim(architecture)]))

    size = preprocess.size
    body = helper.make_graph(
        graph.nodes,
        "rrrnet",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, 3])],
        outputs,
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
