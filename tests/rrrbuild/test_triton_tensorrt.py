"""The configuration of TensorRT engines, as Triton's own message reads it back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from rrrbuild.manifest import BatchRange, Manifest
from rrrbuild.targets import TARGETS
from rrrbuild.triton_config import model_config, read_config, write_config
from rrrbuild.triton_tensorrt import formed_batch_sizes, preferred_batch_sizes

FORMED = [1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32]


@pytest.fixture
def engine(openvino_engine: Manifest) -> Manifest:
    """A manifest of the default batch sizes; only its batch and tensors matter here."""
    return replace(openvino_engine, batch=BatchRange(1, 8, 32))


def read_back(folder: Path, engine: Manifest, target: str, backend: str) -> Any:
    write_config(model_config("m", engine, TARGETS[target], backend=backend, threads=None), folder / "config.pbtxt")
    return read_config(folder / "config.pbtxt")


def test_every_batch_size_that_the_batcher_can_form_has_a_cuda_graph(tmp_path: Path, engine: Manifest) -> None:
    config = read_back(tmp_path, engine, "tensorrt-fp16", "tensorrt")

    cuda = config.optimization.cuda
    assert cuda.graphs
    assert [spec.batch_size for spec in cuda.graph_spec] == FORMED
    for spec in cuda.graph_spec:
        assert {name: list(shape.dim) for name, shape in spec.input.items()} == {"images": [32, 32, 3]}
        assert not spec.HasField("graph_lower_bound")  # a smaller batch would run as many images as the graph has
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16, 24, 32]
    assert config.max_batch_size == 32


def test_each_graph_is_warmed_up_twice_before_the_model_is_ready(tmp_path: Path, engine: Manifest) -> None:
    config = read_back(tmp_path, engine, "tensorrt-fp16", "tensorrt")

    assert [(sample.batch_size, sample.count) for sample in config.model_warmup] == [(size, 2) for size in FORMED]
    images = config.model_warmup[-1].inputs["images"]
    assert (images.data_type, list(images.dims), images.random_data) == (pb.TYPE_UINT8, [32, 32, 3], True)


def test_two_instances_a_gpu_share_it_with_every_optimisation_profile(tmp_path: Path, engine: Manifest) -> None:
    config = read_back(tmp_path, engine, "tensorrt-fp16", "tensorrt")

    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (pb.ModelInstanceGroup.KIND_GPU, 2, [])
    assert list(group.profile) == ["0", "1", "2"]
    assert config.default_model_filename == "model.plan"
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert not config.dynamic_batching.HasField("default_queue_policy")


def test_only_those_optimisations_are_asked_for_that_pay_without_a_price_in_batch_size(
    tmp_path: Path, engine: Manifest
) -> None:
    optimization = read_back(tmp_path, engine, "tensorrt-fp16", "tensorrt").optimization

    assert optimization.cuda.busy_wait_events
    assert optimization.cuda.output_copy_stream
    assert not optimization.eager_batching
    assert optimization.gather_kernel_buffer_threshold == 0
    assert optimization.priority == pb.ModelOptimizationPolicy.PRIORITY_DEFAULT
    # Unset means page-locked memory on both sides.
    assert not optimization.HasField("input_pinned_memory")
    assert not optimization.HasField("output_pinned_memory")


@pytest.mark.parametrize("target", ["tensorrt-fp16", "tensorrt-rtx-fp16"])
def test_the_python_backend_warms_up_the_same_sizes_and_captures_its_graphs_itself(
    target: str, tmp_path: Path, engine: Manifest
) -> None:
    config = read_back(tmp_path, engine, target, "python")

    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16, 24, 32]
    assert [(sample.batch_size, sample.count) for sample in config.model_warmup] == [(size, 2) for size in FORMED]
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (pb.ModelInstanceGroup.KIND_CPU, 1, [])
    assert not config.HasField("optimization")


@pytest.mark.parametrize(
    ("batch", "preferred", "formed"),
    [
        (BatchRange(1, 1, 1), [1], [1]),
        (BatchRange(1, 1, 4), [1, 2, 3, 4], [1, 2, 3, 4]),
        (BatchRange(1, 4, 4), [4], [1, 2, 3, 4]),
        (BatchRange(1, 4, 10), [4, 8, 10], [1, 2, 3, 4, 8, 10]),
        (BatchRange(1, 64, 256), [64, 128, 192, 256], [*range(1, 65), 128, 192, 256]),
    ],
)
def test_a_queue_is_cut_into_multiples_of_the_tuned_size_and_shorter_ones_stay_whole(
    batch: BatchRange, preferred: list[int], formed: list[int]
) -> None:
    assert preferred_batch_sizes(batch) == preferred
    assert formed_batch_sizes(batch) == formed


def test_targets_of_a_cpu_get_none_of_it(tmp_path: Path, engine: Manifest) -> None:
    config = read_back(tmp_path, engine, "onnxruntime-fp32", "onnxruntime")

    assert not config.HasField("optimization")
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert [sample.batch_size for sample in config.model_warmup] == [1, 2, 4, 8, 16, 32]
