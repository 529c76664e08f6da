"""What `rrr tune` tries and how it chooses, without any service."""

from pathlib import Path

import psutil
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from rrrbuild.triton_config import read_config, write_config
from rrrnet.errors import CheckFailedError
from rrrserve.process.memory import free_bytes, instance_bytes
from rrrserve.tune.choose import Candidate, Figures, candidates, choose, present_settings, with_settings, within_memory

WIDE, NARROW, PAIRS = Candidate(1, 4, 0), Candidate(4, 1, 0), Candidate(2, 2, 0)
CONFIG = """
name: "m"
max_batch_size: 8
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { preferred_batch_size: 4 default_queue_policy { max_queue_size: 128 } }
"""
GPU_CONFIG = """
name: "m"
max_batch_size: 8
instance_group { count: 1 kind: KIND_GPU gpus: 0 profile: "0" }
dynamic_batching { preferred_batch_size: 8 max_queue_delay_microseconds: 100 }
optimization { cuda { graphs: true graph_spec { batch_size: 8 input { key: "images" value { dim: 32 dim: 32 } } } } }
model_warmup { name: "batch-8" batch_size: 8 }
"""


def row(candidate: Candidate, concurrency: int, p50: float, p99: float, rate: float) -> Figures:
    return Figures(candidate, concurrency, (p50,), (p99,), (rate,))


ROWS = [
    row(WIDE, 1, 5.0, 7.0, 200.0),
    row(WIDE, 16, 60.0, 80.0, 250.0),
    row(PAIRS, 1, 5.4, 9.0, 180.0),
    row(PAIRS, 16, 50.0, 70.0, 300.0),
    row(NARROW, 1, 9.0, 11.0, 110.0),
    row(NARROW, 16, 40.0, 90.0, 400.0),
]


def test_shapes_share_the_cores_each_with_and_without_batches() -> None:
    found = candidates(WIDE, cores=4, on_gpu=False, batches=True)
    assert found[0] == WIDE
    assert {(item.instances, item.threads) for item in found} == {(1, 4), (4, 1), (2, 2)}
    assert len(found) == len(set(found)) == 7
    assert [item for item in found if item.queue_delay_us == 500] == [Candidate(1, 4, 500)]
    assert len(candidates(Candidate(1, 1, 0), cores=1, on_gpu=False, batches=True)) == 3


def test_settings_that_are_not_among_them_are_tried_too_and_a_batch_of_one_is_not_waited_for() -> None:
    found = candidates(Candidate(3, 2, 100), cores=2, on_gpu=False, batches=False)
    assert found == (Candidate(3, 2, 100), Candidate(1, 2, 0), Candidate(2, 1, 0))


def test_on_a_gpu_instances_and_the_delay_are_tried_and_threads_are_left() -> None:
    found = candidates(Candidate(2, None, 0), cores=16, on_gpu=True, batches=True)
    assert set(found) == {Candidate(count, None, delay) for count in (1, 2) for delay in (0, 500)}


@pytest.mark.parametrize("backend", ["python", "tensorrt"])
def test_what_is_tried_on_a_gpu_is_written_beside_all_that_the_engine_needs_and_parses_back(
    backend: str, tmp_path: Path
) -> None:
    config = text_format.Parse(GPU_CONFIG, pb.ModelConfig())
    present = present_settings(config, backend, cores=64, on_gpu=True)
    assert present == Candidate(1, None, 100)
    found = candidates(present, cores=64, on_gpu=True, batches=True)
    assert found == (present, *(Candidate(count, None, delay) for count in (1, 2) for delay in (0, 500)))
    assert candidates(present, cores=64, on_gpu=True, batches=False) == (present, found[1], found[3])

    for candidate in found:
        write_config(with_settings(config, backend, candidate), tmp_path / "config.pbtxt")
        read = read_config(tmp_path / "config.pbtxt")
        assert present_settings(read, backend, cores=2, on_gpu=True) == candidate
        read.instance_group[0].count, read.dynamic_batching.max_queue_delay_microseconds = 1, 100
        assert read == config, "only instances and delay differ"


def test_more_instances_than_memory_holds_are_left_out_with_the_reason() -> None:
    found = candidates(Candidate(1, 64, 0), cores=64, on_gpu=False, batches=True)
    kept, left_out = within_memory(found, instance_bytes=10**9, free_bytes=8_000_000_000)

    assert {candidate.instances for candidate in found} == {1, 2, 4, 8, 16, 32, 64}
    assert {candidate.instances for candidate in kept} == {1, 2, 4, 8}
    assert {*kept, *left_out} == set(found)
    assert left_out[Candidate(64, 1, 0)] == "may need 64.0 GB of memory, and 8.0 GB are free"


def test_settings_of_a_larger_machine_are_left_out_too_and_one_instance_always_stays() -> None:
    found = candidates(Candidate(64, 1, 0), cores=2, on_gpu=False, batches=True)
    kept, left_out = within_memory(found, instance_bytes=10**9, free_bytes=0)
    assert kept == (Candidate(1, 2, 0), Candidate(1, 2, None), Candidate(1, 2, 500))
    assert list(left_out) == [Candidate(64, 1, 0), Candidate(2, 1, 0), Candidate(2, 1, None)]


# Resident megabytes of one instance after batches of 32: ResNet152 and 8 members, files of so many megabytes.
@pytest.mark.parametrize(
    ("file_mb", "size", "resident_mb"),
    [(233.5, 224, 1086), (233.5, 128, 908), (33.5, 224, 488), (33.5, 128, 300), (9.3, 128, 185), (59.1, 224, 319)],
)
def test_an_instance_takes_no_more_than_is_reckoned(file_mb: float, size: int, resident_mb: int) -> None:
    reckoned = instance_bytes(int(file_mb * 1e6), image_size=size, max_batch=32)
    assert resident_mb * 1e6 < reckoned < 3 * resident_mb * 1e6


@pytest.mark.parametrize(
    ("names", "cache"),
    [
        (("memory.max", "memory.current", "memory.stat"), "inactive_file"),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
            "total_inactive_file",
        ),
    ],
)
def test_a_containers_limit_bounds_the_free_memory_and_its_file_cache_counts_as_free(
    names: tuple[str, ...], cache: str, tmp_path: Path
) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in zip(names, ("30000000", "20000000", f"anon 13\n{cache} 5000000"), strict=True):
        (tmp_path / name).write_text(text + "\n")
    assert free_bytes(tmp_path) == 15_000_000
    (tmp_path / names[0]).write_text("10000000\n")
    assert free_bytes(tmp_path) == 0


def test_without_a_containers_limit_the_machine_is_what_bounds(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert 0 < free_bytes() < psutil.virtual_memory().total


def test_without_a_limit_the_most_answers_win_among_those_quick_for_a_lone_request() -> None:
    assert choose(ROWS, None) == ROWS[3]  # NARROW answers more, but a lone request takes 80 % longer


@pytest.mark.parametrize(("limit", "index"), [(100.0, 5), (85.0, 3), (60.0, 0), (7.0, 0)])
def test_with_a_limit_the_most_answers_win_among_rows_that_keep_it(limit: float, index: int) -> None:
    assert choose(ROWS, limit) == ROWS[index]


def test_a_limit_that_nothing_keeps_is_an_error_with_the_nearest_figures() -> None:
    with pytest.raises(CheckFailedError, match=r"p99 <= 2 ms: the nearest is 1 instance x 4 threads.* 7\.00 ms .* 1 "):
        choose(ROWS, 2.0)


def test_a_row_is_the_median_of_its_rounds() -> None:
    found = Figures(WIDE, 1, (5.0, 50.0, 6.0), (9.0, 8.0, 99.0), (200.0, 20.0, 190.0))
    assert (found.p50_ms, found.p99_ms, found.throughput) == (6.0, 9.0, 190.0)


def test_settings_are_written_and_read_back_and_the_queue_policy_goes() -> None:
    config = text_format.Parse(CONFIG, pb.ModelConfig())
    assert present_settings(config, "python", cores=4, on_gpu=False) == WIDE
    for candidate in candidates(WIDE, cores=4, on_gpu=False, batches=True):
        changed = with_settings(config, "python", candidate)
        assert present_settings(changed, "python", cores=2, on_gpu=False) == candidate
        assert not changed.dynamic_batching.HasField("default_queue_policy")
        if candidate.queue_delay_us is not None:
            assert list(changed.dynamic_batching.preferred_batch_size) == [4]
    assert with_settings(config, "openvino", NARROW).parameters["INFERENCE_NUM_THREADS"].string_value == "1"
    assert "threads" not in config.parameters, "the message that was given is not changed"
