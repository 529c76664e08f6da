"""A network, or a part of a cascade, as ONNX: images (N, S, S, 3) uint8 -> logits, probabilities (N, M, C) float32."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rrrgpu.cascade import FIRST, REST
from rrrgpu.network import Layer, Network
from rrrgpu.shapes import FEATURES


class _Writer:
    """Nodes and constants in execution order."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.dtype = dtype

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"{operator.lower()}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [*inputs], [name], name=name, **attributes))
        return name

    def constant(self, values: object) -> str:
        name = f"constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def conv(self, x: str, layer: Layer, *, relu: bool = False, add: str | None = None) -> str:
        weight, bias, stride, groups = layer
        kernel, constants = weight.shape[2], (self.constant(array.astype(self.dtype)) for array in (weight, bias))
        padding = [kernel // 2] * 4
        y = self.node(
            "Conv", x, *constants, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=padding, group=groups
        )
        y = y if add is None else self.node("Add", y, add)
        return self.node("Relu", y) if relu or add is not None else y

    def stages(self, x: str, network: Network, layers: dict[str, Layer], first: int) -> str:
        for stage in (first, first + 1):
            for block in (f"layer{stage}.{index}" for index in range(network.blocks[stage - 1])):
                y = self.conv(x, layers[f"{block}.conv1"], relu=True)
                y = self.conv(y, layers[f"{block}.conv2"], relu=True)
                down = layers.get(f"{block}.downsample")
                x = self.conv(y, layers[f"{block}.conv3"], add=self.conv(x, down) if down else x)
        return x

    def stem(self, network: Network) -> str:
        x = self.node("Cast", "images", to=TensorProto.FLOAT)
        x = self.node("Mul", x, self.constant(network.scale))
        x = self.node("Add", x, self.constant(network.shift))
        x = self.node("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))
        x = self.conv(self.node("Transpose", x, perm=[0, 3, 1, 2]), network.stem["conv1"], relu=True)
        x = self.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        return self.stages(x, network, network.stem, 1)

    def tail(self, x: str, network: Network, layers: dict[str, Layer]) -> str:
        x = self.node("GlobalAveragePool", self.stages(x, network, layers, 3))
        return self.node("Flatten", self.conv(x, layers["fc"]), axis=1)


def onnx_model(network: Network, *, merged: bool, half: bool, pixels: int, part: str = "") -> bytes:
    """The network, members merged or one by one; normalisation and softmax are float32, the rest FP16 if `half`.

    Part `first` gives the stem's `features` too, (N, 512, S/8, S/8); part `rest` takes them in place of images.
    """
    graph = _Writer(np.float16 if half else np.float32)
    precision = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    features = helper.make_tensor_value_info("features", precision, ["N", FEATURES, *[-(-pixels // 8)] * 2])
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", pixels, pixels, 3])
    x = "features" if part == REST else graph.stem(network)
    if part == FIRST:
        graph.nodes[-1].output[0] = x = "features"
    chains = [network.merged] if merged else network.tails
    logits = [graph.tail(x, network, layers) for layers in chains]
    together = logits[0] if len(logits) == 1 else graph.node("Concat", *logits, axis=1)
    together = graph.node("Cast", together, to=TensorProto.FLOAT)
    shape = [network.members, network.classes]
    graph.nodes.append(helper.make_node("Reshape", [together, graph.constant(np.array([-1, *shape]))], ["logits"]))
    graph.nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=2))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name in ("logits", "probabilities")
    ]
    outputs += [features] if part == FIRST else []
    body = helper.make_graph(graph.nodes, "network", [features if part == REST else images], outputs, graph.constants)
    model = helper.make_model(body, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())
