"""How much noise INT8 brings into each convolution by itself, so that the worst can stay in float."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from rrrbuild.activations import open_session
from rrrbuild.qdq import Encoding, Float64Array, Sites, quantise_tensor, quantise_weights
from rrrnet.images.preprocess import Uint8Array


def noise_to_signal(
    model: onnx.ModelProto,
    sites: Sites,
    encodings: Mapping[str, Encoding],
    means: Mapping[str, Float64Array],
    images: Uint8Array,
    weight_limit: int = 127,
) -> dict[str, float]:
    """Energy of the error over energy of the output, of each convolution of `sites` on exact inputs.

    A second, quantised copy of each convolution runs beside the float one in one graph, so one pass over the images
    measures all. Arguments as in `qdq.write_qdq`.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    del graph.output[:]
    copied: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "Conv" or node.output[0] not in sites.convolutions:
            continue
        source, output = node.input[0], node.output[0]
        encoding = encodings[sites.tensors[source]]
        if source not in copied:
            copied.add(source)
            graph.node.extend(quantise_tensor(graph, source, encoding))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        graph.node.append(quantise_weights(graph, copy, constants, encoding, means[source], weight_limit))
        copy.input[0], copy.output[0], copy.name = f"{source}.dequantised", f"{output}.copy", f"{output}.copy"
        graph.node.append(copy)
        graph.node.append(helper.make_node("Sub", [f"{output}.copy", output], [f"{output}.error"]))
        for name in (f"{output}.error", output):
            energy = f"{name}.energy"
            graph.node.append(helper.make_node("ReduceSumSquare", [name], [energy], axes=[1, 2, 3], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(energy, TensorProto.FLOAT, ["N"]))
    energies = open_session(watched)(images)
    pairs = zip(energies[::2], energies[1::2], strict=True)
    ratios = [
        float(noise.sum(dtype=np.float64)) / max(float(signal.sum(dtype=np.float64)), 1e-30) for noise, signal in pairs
    ]
    return dict(zip(sites.convolutions, ratios, strict=True))
