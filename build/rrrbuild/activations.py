"""What the activations of a float network look like on calibration images, and the ranges that INT8 should span."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from rrrbuild.manifest import INPUT
from rrrbuild.qdq import Encoding, Float64Array, Sites
from rrrbuild.runtime_onnxruntime import session_options
from rrrnet.images.preprocess import Uint8Array
from rrrnet.processor import threads

Session = Callable[[Uint8Array], list[npt.NDArray[np.float32]]]

# Values of each tensor and image that are kept to search the best range.
_SAMPLES_PER_IMAGE = 512
_BATCH = 8
# Shares of the full range among which the one of the smallest mean square error is sought.
_SHARES = np.linspace(0.2, 1.0, 33)


@dataclass(frozen=True)
class Activation:
    """One tensor over all images.

    Attributes:
        low: smallest value.
        high: largest value.
        means: of each channel, shape (C,).
        samples: values from evenly spaced places, shape (K,).
    """

    low: float
    high: float
    means: Float64Array
    samples: Float64Array


def open_session(model: onnx.ModelProto) -> Session:
    """A model as a function of uint8 images (any number, in batches) that gives its outputs, images along axis 0.

    Q/DQ pairs are executed in float, as they are written: ONNX Runtime's INT8 kernels saturate on CPUs that sum 8-bit
    products in 16 bits, and what is measured here must not depend on the CPU.
    """
    options = session_options(threads())
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(images: Uint8Array) -> list[npt.NDArray[np.float32]]:
        starts = range(0, len(images), _BATCH)
        batches = [session.run(None, {INPUT: images[start : start + _BATCH]}) for start in starts]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    return run


def observe(model: onnx.ModelProto, tensors: Iterable[str], images: Uint8Array) -> dict[str, Activation]:
    """Run the float `model` on `images` and look at `tensors`, each of shape (N, C, H, W)."""
    names = sorted(tensors)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    del graph.output[:]
    shapes = {
        value.name: value.type.tensor_type.shape for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for name in names:
        _, *shape = (dimension.dim_value for dimension in shapes[name].dim)
        # An odd step walks through all rows and columns; the channels come by themselves.
        step = max(1, int(np.prod(shape)) // _SAMPLES_PER_IMAGE) | 1
        bounds = zip(("start", "stop", "axis", "step"), (0, np.iinfo(np.int64).max, 1, step), strict=True)
        slices = [_integer(graph, f"{name}.{key}", value) for key, value in bounds]
        _watch(graph, "GlobalMaxPool", [name], f"{name}.largest")
        graph.node.append(helper.make_node("Neg", [name], [f"{name}.negative"]))
        _watch(graph, "GlobalMaxPool", [f"{name}.negative"], f"{name}.largest_negative")
        _watch(graph, "GlobalAveragePool", [name], f"{name}.mean")
        graph.node.append(helper.make_node("Flatten", [name], [f"{name}.flat"]))
        _watch(graph, "Slice", [f"{name}.flat", *slices], f"{name}.samples")
    values = iter(open_session(watched)(images))
    result = {}
    for name in names:
        largest, negative, mean, samples = (next(values) for _ in range(4))
        result[name] = Activation(
            low=-float(negative.max()),
            high=float(largest.max()),
            means=mean.mean(axis=(0, 2, 3), dtype=np.float64),
            samples=samples.reshape(-1).astype(np.float64),
        )
    return result


def _watch(graph: onnx.GraphProto, operator: str, inputs: list[str], output: str) -> None:
    graph.node.append(helper.make_node(operator, inputs, [output]))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))


def _integer(graph: onnx.GraphProto, name: str, value: int) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    return name


def encodings(seen: Mapping[str, Activation], sites: Sites, *, unsigned: bool, clip: bool) -> dict[str, Encoding]:
    """The encoding of each group of tensors that share one.

    Args:
        seen: activations by name, of all tensors of `sites`.
        sites: says which share one.
        unsigned: see `qdq.Dialect`.
        clip: span the range with the smallest mean square error instead of the full one. Outliers are then cut off,
            which leaves finer steps for all others.
    """
    groups: dict[str, list[Activation]] = {}
    for name, leader in sites.tensors.items():
        groups.setdefault(leader, []).append(seen[name])
    result = {}
    for leader, group in groups.items():
        low, high = min(each.low for each in group), max(each.high for each in group)
        share = 1.0
        if clip:
            samples = np.concatenate([each.samples for each in group])
            share = min(_SHARES, key=lambda share: _error(low * share, high * share, samples, unsigned=unsigned))
        result[leader] = Encoding.of_range(low * share, high * share, unsigned=unsigned)
    return result


def _error(low: float, high: float, samples: Float64Array, *, unsigned: bool) -> float:
    """Mean square error of quantising `samples` to a range."""
    encoding = Encoding.of_range(low, high, unsigned=unsigned)
    return float(np.mean((encoding.round_trip(samples) - samples) ** 2))
