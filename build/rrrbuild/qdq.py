"""A float ONNX graph to the same graph in INT8, written with explicit QuantizeLinear and DequantizeLinear nodes.

Such a graph says exactly what is computed: every runtime here fuses a convolution between two pairs into one INT8
kernel. Weights are int8, symmetric, a scale for each output channel; activations have one scale for each tensor. What
the runtimes want to see differs a little and stands in `DIALECTS`. Whatever graph `graph.py` writes is taken: only
operators are looked at, no names.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Float64Array = npt.NDArray[np.float64]

# Their outputs hold nothing but values of their inputs, so both sides share one scale and the operator runs in INT8.
_PASS_THROUGH = ("MaxPool", "Concat", "Slice")
# What comes after the average pool is the classifier: 0.1 % of the work, and left in float.
_POOLING = ("GlobalAveragePool", "ReduceMean")


@dataclass(frozen=True)
class Dialect:
    """How a runtime wants INT8 to be written.

    Attributes:
        unsigned: activations as uint8 with a zero point, which gives those after a ReLU all 8 bits; else int8 with
            zero point 0.
        both_addends: quantise both inputs of a residual sum; else only the shortcut, so that the runtime can add it
            to the other convolution's 32-bit sums.
        weight_limit: the largest integer that a weight becomes; see `SEVEN_BITS`.
    """

    unsigned: bool
    both_addends: bool
    weight_limit: int = 127


# ONNX Runtime has a kernel for an INT8 sum, but none that adds while it convolves. TensorRT takes int8 with zero point
# 0 only.
DIALECTS = {
    "openvino": Dialect(unsigned=True, both_addends=False),
    "onnxruntime": Dialect(unsigned=True, both_addends=True),
    "tensorrt": Dialect(unsigned=False, both_addends=False),
    "tensorrt_rtx": Dialect(unsigned=False, both_addends=False),
}


# Kernels for CPUs without VNNI sum pairs of 8-bit products in 16 bits: 2 * 255 * 64 is the most that fits there.
SEVEN_BITS = 64


@dataclass(frozen=True)
class Encoding:
    """Real value = scale * (integer - zero_point); the zero point's type is the integers' type."""

    scale: np.float32
    zero_point: np.uint8 | np.int8

    @classmethod
    def of_range(cls, low: float, high: float, *, unsigned: bool) -> "Encoding":
        """The finest encoding that holds `low` to `high`, and 0 exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        if not unsigned:
            return cls(_positive(max(-low, high) / 127), np.int8(0))
        scale = _positive((high - low) / 255)
        return cls(scale, np.uint8(round(-low / float(scale))))

    def round_trip(self, values: Float64Array) -> Float64Array:
        """What is left of `values` after quantisation."""
        limits, zero = np.iinfo(self.zero_point.dtype), int(self.zero_point)
        integers = np.clip(np.rint(values / self.scale) + zero, limits.min, limits.max)
        result: Float64Array = (integers - zero) * float(self.scale)
        return result


def _positive(scale: float) -> np.float32:
    """`scale`, or 1 for a tensor that is always 0."""
    return np.float32(scale) if scale > np.finfo(np.float32).tiny else np.float32(1)


@dataclass(frozen=True)
class Sites:
    """Where a graph is quantised.

    Attributes:
        convolutions: outputs of the convolutions that run in INT8, in execution order.
        sums: outputs of the residual sums that are formed in INT8.
        tensors: each activation that is quantised, and the tensor whose encoding it shares (mostly itself).
    """

    convolutions: tuple[str, ...]
    sums: tuple[str, ...]
    tensors: dict[str, str]


def find_sites(model: onnx.ModelProto, dialect: Dialect, in_float: Collection[str] = ()) -> Sites:
    """Every convolution before the average pool, and what it, a residual sum or the average pool reads.

    Args:
        model: the float model.
        dialect: how the runtime wants it.
        in_float: outputs of convolutions that stay in float; where one of them forms a residual sum, the sum and its
            shortcut do too.
    """
    position = {node.output[0]: index for index, node in enumerate(model.graph.node)}
    pooled: set[str] = set()
    convolutions: list[str] = []
    sums: list[str] = []
    wanted: set[str] = set()
    for node in model.graph.node:
        output = node.output[0]
        if pooled.intersection(node.input):
            pooled.add(output)
        elif node.op_type in _POOLING:
            pooled.add(output)
            wanted.add(node.input[0])
        elif node.op_type == "Conv" and output not in in_float:
            convolutions.append(output)
            wanted.add(node.input[0])
        elif node.op_type == "Add" and all(name in position for name in node.input):
            # The sum is formed in the kernel of the convolution that runs last.
            addends = sorted(node.input, key=position.__getitem__)
            if addends[-1] not in in_float:
                sums.append(output)
                wanted.update(addends if dialect.both_addends else addends[:-1])
    leader: dict[str, str] = {}

    def follow(name: str) -> str:
        return follow(leader[name]) if name in leader else name

    for node in reversed(model.graph.node):
        if node.op_type in _PASS_THROUGH and node.output[0] in wanted:
            for name in node.input if node.op_type == "Concat" else node.input[:1]:
                wanted.add(name)
                if follow(name) != follow(node.output[0]):
                    leader[follow(name)] = follow(node.output[0])
    return Sites(tuple(convolutions), tuple(sums), {name: follow(name) for name in sorted(wanted)})


def write_qdq(
    model: onnx.ModelProto,
    sites: Sites,
    encodings: Mapping[str, Encoding],
    means: Mapping[str, Float64Array],
    weight_limit: int = 127,
) -> onnx.ModelProto:
    """A copy of `model` with Q/DQ pairs at `sites`.

    Args:
        model: the float model, with float32 weights.
        sites: where, as `find_sites` says.
        encodings: of each tensor that stands in `sites.tensors` as one whose encoding is shared.
        means: of each channel of each convolution's input, shape (channels,).
        weight_limit: the largest integer that a weight becomes, see `Dialect`.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    del graph.node[:]
    for node in model.graph.node:
        written = onnx.NodeProto()
        written.CopyFrom(node)
        quantised = node.output[0] in sites.convolutions
        # A float sum's shortcut may be quantised for the next convolution; the sum reads it as it was.
        if quantised or node.output[0] in sites.sums or node.op_type in (*_POOLING, *_PASS_THROUGH):
            written.input[:] = [f"{name}.dequantised" if name in sites.tensors else name for name in node.input]
        if quantised:
            encoding = encodings[sites.tensors[node.input[0]]]
            graph.node.append(quantise_weights(graph, written, constants, encoding, means[node.input[0]], weight_limit))
        graph.node.append(written)
        for output in sites.tensors.keys() & set(node.output):
            graph.node.extend(quantise_tensor(graph, output, encodings[sites.tensors[output]]))
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def quantise_tensor(graph: onnx.GraphProto, name: str, encoding: Encoding) -> Iterator[onnx.NodeProto]:
    """The two nodes that make `name.dequantised` of `name`; adds their constants to the graph."""
    parameters = [
        _constant(graph, f"{name}.scale", encoding.scale),
        _constant(graph, f"{name}.zero_point", encoding.zero_point),
    ]
    yield helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.quantised"], name=f"{name}.quantised")
    yield helper.make_node(
        "DequantizeLinear", [f"{name}.quantised", *parameters], [f"{name}.dequantised"], name=f"{name}.dequantised"
    )


def quantise_weights(
    graph: onnx.GraphProto,
    conv: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    encoding: Encoding,
    means: Float64Array,
    weight_limit: int = 127,
) -> onnx.NodeProto:
    """Give `conv` INT8 weights and a bias that makes up for what they change on average; returns their node.

    The bias stays in float: runtimes round it to the 32 bits of their sums.

    Args:
        graph: gets the constants.
        conv: is changed; its output names the constants.
        constants: of the float model by name: the convolution's weight (out, in / groups, kernel, kernel) and bias.
        encoding: of its input.
        means: of its input's channels, shape (in,).
        weight_limit: the largest integer that a weight becomes, see `Dialect`.
    """
    weight, bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in conv.input[1:3])
    # TensorRT and ONNX Runtime hold bias / (input scale * weight scale) in 32 bits.
    largest = np.maximum(
        np.abs(weight).max(axis=(1, 2, 3)) / weight_limit, np.abs(bias) / (float(encoding.scale) * 2**30)
    )
    scales = np.array([_positive(scale) for scale in largest])  # (out,)
    integers = np.clip(np.rint(weight / scales[:, None, None, None]), -weight_limit, weight_limit).astype(np.int8)
    change = (integers * scales.astype(np.float64)[:, None, None, None] - weight).sum(axis=(2, 3))  # (out, in / groups)
    groups = len(means) // change.shape[1]
    grouped = change.reshape(groups, -1, change.shape[1])  # (groups, out / groups, in / groups)
    shift = np.einsum("goi,gi->go", grouped, means.reshape(groups, -1)).reshape(-1)
    name = conv.output[0]
    parameters = [
        _constant(graph, f"{name}.weight", integers),
        _constant(graph, f"{name}.weight_scales", scales),
        _constant(graph, f"{name}.weight_zero_points", np.zeros(len(scales), np.int8)),
    ]
    conv.input[1] = f"{name}.weight_dequantised"
    conv.input[2] = _constant(graph, f"{name}.corrected_bias", (bias - shift).astype(np.float32))
    return helper.make_node("DequantizeLinear", parameters, [conv.input[1]], name=conv.input[1], axis=0)


def _constant(graph: onnx.GraphProto, name: str, values: npt.ArrayLike) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name
