"""What `rrr tune` tries and how it chooses, without any service."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from rrrnet.errors import CheckFailedError
from rrrserve.tuning import Candidate, Figures, candidates, choose, present_settings, with_settings

WIDE, NARROW, PAIRS = Candidate(1, 4, 0), Candidate(4, 1, 0), Candidate(2, 2, 0)
CONFIG = """
name: "m"
max_batch_size: 8
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { preferred_batch_size: 4 default_queue_policy { max_queue_size: 128 } }
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
