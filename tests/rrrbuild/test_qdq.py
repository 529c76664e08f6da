"""Where Q/DQ pairs stand, what they hold, and that runtimes compute in INT8 between them."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper

from rrrbuild.activations import encodings, observe, open_session
from rrrbuild.export import export_onnx
from rrrbuild.heldout import generated_images
from rrrbuild.qdq import DIALECTS, Encoding, find_sites, write_qdq
from rrrbuild.sensitivity import noise_to_signal
from rrrnet.checkpoint import Arrays, Checkpoint
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import Architecture

IMAGES = generated_images(Preprocess(32), 8)


def quantised(
    model: onnx.ModelProto, family: str, *, clip: bool = False, in_float: Collection[str] = ()
) -> onnx.ModelProto:
    dialect = DIALECTS[family]
    sites = find_sites(model, dialect, in_float)
    seen = observe(model, sites.tensors, IMAGES)
    chosen = encodings(seen, sites, unsigned=dialect.unsigned, clip=clip)
    return write_qdq(model, sites, chosen, {name: activation.means for name, activation in seen.items()})


def exported(checkpoint: Checkpoint, plan: str = "sequential") -> onnx.ModelProto:
    return onnx.load_from_string(export_onnx(checkpoint, plan=plan, half=False, align=16))


def constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    """One member, with blocks whose shortcut is their input, as in ResNet152."""
    return make_checkpoint(tmp_path_factory.mktemp("qdq") / "single", Architecture(3, (1, 2, 2, 1), 1, (8, 16)))


@pytest.mark.parametrize(
    ("low", "high", "unsigned", "integers"),
    [
        (0.0, 2.55, True, (0, 255)),
        (-1.0, 1.55, True, (0, 255)),
        (0.5, 1.27, False, (0, 127)),
        (-2.54, 1.0, False, (-127, 50)),
    ],
)
def test_an_encoding_holds_its_range_and_zero_exactly(
    low: float, high: float, unsigned: bool, integers: tuple[int, int]
) -> None:
    encoding = Encoding.of_range(low, high, unsigned=unsigned)

    found = encoding.round_trip(np.array([min(low, 0.0), 0.0, high]))
    assert found[1] == 0
    assert found[[0, 2]] == pytest.approx([min(low, 0.0), high], abs=float(encoding.scale) / 2)
    assert encoding.zero_point.dtype == (np.uint8 if unsigned else np.int8)
    zero = int(encoding.zero_point)
    assert tuple(round(value / float(encoding.scale)) + zero for value in (min(low, 0.0), high)) == integers


def test_a_tensor_that_is_always_zero_gets_a_scale_that_divides() -> None:
    assert Encoding.of_range(0.0, 0.0, unsigned=True) == Encoding(np.float32(1), np.uint8(0))


@pytest.mark.parametrize("family", list(DIALECTS))
@pytest.mark.parametrize("plan", ["sequential", "merged"])
def test_every_convolution_but_classifiers_reads_integers_and_tensorrt_only_symmetric_ones(
    family: str, plan: str, checkpoint: Checkpoint
) -> None:
    model = quantised(exported(checkpoint, plan), family)

    makers = {node.output[0]: node for node in model.graph.node}
    values = constants(model)
    features = [node for node in model.graph.node if node.op_type == "Conv" and "fc" not in node.name]
    assert len(features) == (17 if plan == "merged" else 25)
    for node in features:
        assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        weight, scales, zeros = (values[name] for name in makers[node.input[1]].input)
        assert weight.dtype == np.int8
        assert weight.min() >= -127  # -128 has no negative
        assert scales.shape == zeros.shape == (len(weight),)
        assert makers[node.input[1]].attribute[0].i == 0  # a scale for each output channel
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    zero_points = {values[node.input[2]].dtype.name for node in pairs}
    if family.startswith("tensorrt"):
        assert zero_points == {"int8"}
        assert all(values[node.input[2]] == 0 for node in pairs)
    else:
        assert zero_points == {"uint8"}
        after_relu = [node for node in pairs if makers[node.input[0]].op_type == "Relu"]
        assert len(after_relu) > 10
        assert all(values[node.input[2]] == 0 for node in after_relu)


@pytest.mark.parametrize("family", list(DIALECTS))
def test_the_shortcut_of_every_sum_is_quantised(family: str, single: Checkpoint) -> None:
    model = quantised(exported(single), family)

    makers = {node.output[0]: node.op_type for node in model.graph.node}
    sums = [[makers[name] for name in node.input] for node in model.graph.node if node.op_type == "Add"]
    assert len(sums) == 6
    other = "DequantizeLinear" if family == "onnxruntime" else "Conv"
    assert all(sorted(addends) == sorted(["DequantizeLinear", other]) for addends in sums)


@pytest.mark.parametrize("family", list(DIALECTS))
def test_a_float_convolution_adds_a_float_shortcut(family: str, single: Checkpoint) -> None:
    # The first sum's shortcut is a convolution, the second's its own input, which the next convolution reads as INT8.
    in_float = ["layer2.0.downsample.0.output", "layer2.1.conv3.output"]
    model = quantised(exported(single), family, in_float=in_float)

    makers = {node.output[0]: node for node in model.graph.node}
    addends = {
        node.output[0]: [makers[name].op_type for name in node.input]
        for node in model.graph.node
        if node.op_type == "Add"
    }
    assert len(addends) == 6
    assert addends.pop("layer2.0.sum") == ["Conv", "Conv"]
    assert addends.pop("layer2.1.sum") == ["Conv", "Relu"]
    assert all("DequantizeLinear" in operators for operators in addends.values())
    integers = {name for name, node in makers.items() if node.op_type == "QuantizeLinear"}
    assert "layer2.0.sum.relu.quantised" in integers
    assert "layer2.0.conv3.output.quantised" not in integers
    for name in in_float:
        assert [makers[value].op_type for value in makers[name].input[:1]] == ["Relu"]


@pytest.mark.parametrize("plan", ["sequential", "merged"])
def test_openvino_runs_every_convolution_in_int8_and_adds_in_their_kernels(plan: str, checkpoint: Checkpoint) -> None:
    model = quantised(exported(checkpoint, plan), "openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(ov.Core().read_model(model.SerializeToString()), "CPU", options)

    found = []
    for node in compiled.get_runtime_model().get_ops():
        info = {key: str(node.get_rt_info()[key].astype(str)) for key in ("layerType", "runtimePrecision")}
        if "Convolution" in info["layerType"] and "fc" not in node.get_friendly_name():
            found.append(info["runtimePrecision"])
        assert not (info["layerType"] == "Eltwise" and "sum" in node.get_friendly_name())
    assert len(found) == (17 if plan == "merged" else 25)
    assert set(found) <= {"u8", "i8"}


@pytest.mark.parametrize("plan", ["sequential", "merged"])
def test_onnx_runtime_fuses_every_convolution_and_sum(plan: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = quantised(exported(checkpoint, plan), "onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns that the optimised file fits this machine only
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("QLinearConv") == (17 if plan == "merged" else 25)
    assert operators.count("QLinearAdd") == (4 if plan == "merged" else 6)
    assert "Relu" not in operators
    assert sum("Conv" in name for name in operators) == operators.count("QLinearConv") + (plan == "merged")


@pytest.mark.parametrize("family", list(DIALECTS))
def test_the_quantised_network_gives_nearly_what_the_float_one_gives(family: str, single: Checkpoint) -> None:
    model = exported(single)
    expected = open_session(model)(IMAGES)[0]

    for clip in (False, True):
        found = open_session(quantised(model, family, clip=clip))(IMAGES)[0]
        assert 0 < np.abs(found - expected).mean() < 0.03


def test_what_is_observed_is_what_numpy_finds(single: Checkpoint) -> None:
    model = exported(single)
    names = ["images.nchw", "conv1.output.relu"]
    seen = observe(model, names, IMAGES)

    whole = exported(single)
    del whole.graph.output[:]
    whole.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    for name, values in zip(names, open_session(whole)(IMAGES), strict=True):
        assert (seen[name].low, seen[name].high) == (values.min(), values.max())
        np.testing.assert_allclose(seen[name].means, values.mean(axis=(0, 2, 3)), atol=1e-5)
        assert set(seen[name].samples) <= set(values.reshape(-1).astype(np.float64))
        assert 400 < len(seen[name].samples) / len(IMAGES) < 600
    assert seen["images.nchw"].low < 0 == seen["conv1.output.relu"].low


def test_the_bias_makes_up_for_what_rounded_weights_change_on_average(single: Checkpoint) -> None:
    model = exported(single)
    sites = find_sites(model, DIALECTS["openvino"])
    seen = observe(model, sites.tensors, IMAGES)
    chosen = encodings(seen, sites, unsigned=True, clip=False)
    means = {name: activation.means for name, activation in seen.items()}
    name = "layer1.0.conv1.output"  # 1x1: no padding dilutes the mean

    def mean_outputs(network: onnx.ModelProto) -> npt.NDArray[np.float32]:
        del network.graph.output[:]
        network.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        mean: npt.NDArray[np.float32] = open_session(network)(IMAGES)[0].mean(axis=(0, 2, 3))
        return mean

    uncorrected = write_qdq(model, sites, chosen, {key: np.zeros_like(value) for key, value in means.items()})
    corrected = write_qdq(model, sites, chosen, means)
    expected = mean_outputs(model)
    errors = [np.abs(mean_outputs(network) - expected).mean() for network in (corrected, uncorrected)]
    assert errors[0] < 0.5 * errors[1]


def test_operators_that_only_move_values_share_one_encoding_with_what_they_read_and_give() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 16, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Sigmoid", ["x"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["joined"], axis=1),
        helper.make_node("MaxPool", ["joined"], ["pooled"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["pooled", "w", "bias"], ["y"]),
    ]
    shape = ["N", 8, 4, 4]
    graph = helper.make_graph(
        nodes,
        "joined",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(8, np.float32), "bias")],
    )

    sites = find_sites(helper.make_model(graph), DIALECTS["openvino"])
    assert sites.convolutions == ("y",)
    assert sites.tensors == dict.fromkeys(["a", "b", "joined", "pooled"], "pooled")


def test_the_convolution_behind_an_outlier_channel_is_found_to_be_the_noisiest(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], one_member: Architecture, weights: Callable[..., Arrays]
) -> None:
    model = exported(make_checkpoint(tmp_path / "odd", one_member, weights=with_outlier(weights(one_member))))
    sites = find_sites(model, DIALECTS["openvino"])
    seen = observe(model, sites.tensors, IMAGES)
    means = {name: activation.means for name, activation in seen.items()}

    noise = noise_to_signal(model, sites, encodings(seen, sites, unsigned=True, clip=False), means, IMAGES)
    assert list(noise) == list(sites.convolutions)
    worst, second = sorted(noise, key=noise.__getitem__)[:-3:-1]
    assert worst == "layer2.1.conv3.output"
    assert noise[worst] > 0.1 > 5 * noise[second]


def with_outlier(arrays: Arrays) -> Arrays:
    """One channel a thousand times as large, which the next convolution scales back: the same function in float."""
    for name in ("weight", "bias"):
        arrays[f"layer2.1.bn2.{name}"][3] *= 1000
    arrays["layer2.1.conv3.weight"][:, 3] /= 1000
    return arrays
