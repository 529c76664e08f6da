"""The benchmarks' arithmetic: intervals, ratios, shares, turns, result files, groups of layers."""

import json
from pathlib import Path

import numpy as np
import pytest

from rrrbench import layers
from rrrbench.environment import ResultFile, rounded
from rrrbench.names import BASELINE, ENSEMBLE, SINGLE
from rrrbench.service_tables import overhead_ms, throughput_share
from rrrbench.tables import bar_row, bars, peak_rates, shares
from rrrbench.turns import MIN_ROUNDS, Interval, median_interval, ratio, share_of_peak, take_turns
from rrrnet.network.architecture import Architecture, cost, ensemble, full


@pytest.mark.parametrize("rounds", [5, 11, 25])
def test_the_interval_covers_the_true_median_about_19_times_in_20(rounds: int) -> None:
    random = np.random.default_rng(1)
    found = [median_interval(random.lognormal(np.log(6), 0.1, rounds).tolist()) for _ in range(400)]
    covered = np.mean([interval.low <= 6 <= interval.high for interval in found])
    assert 0.90 <= covered <= 0.99


def test_more_rounds_give_a_narrower_interval_and_the_same_data_the_same_one() -> None:
    values = np.random.default_rng(0).normal(10, 1, 100).tolist()
    few, many = median_interval(values[:7]), median_interval(values)
    assert many.high - many.low < few.high - few.low
    assert median_interval(values) == many
    assert many.low <= many.value <= many.high


def test_a_ratio_is_paired_by_round_so_that_drift_does_not_widen_it() -> None:
    slow_and_slower = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert ratio([6 * time for time in slow_and_slower], slow_and_slower) == Interval(6.0, 6.0, 6.0)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_the_share_of_the_peak_is_work_over_time_over_peak() -> None:
    # 10^9 x 10 operations in 100 ms are 100 x 10^9 a second.
    assert share_of_peak(10, [100.0] * 5, [400.0] * 5).value == pytest.approx(0.25)
    case = {
        "gflop": {"matmul-openvino": 20.0, "matmul-torch": 20.0, ENSEMBLE: 10.0},
        "times_ms": {"matmul-openvino": [100.0] * 5, "matmul-torch": [50.0] * 5, ENSEMBLE: [50.0] * 5},
    }
    assert peak_rates(case) == pytest.approx([400.0] * 5), "the faster library is the peak"
    assert shares(case) == {ENSEMBLE: pytest.approx(Interval(0.5, 0.5, 0.5))}


def test_everything_is_called_once_a_round_and_each_goes_first_in_turn() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = take_turns(calls, seconds=0, turn_seconds=0)
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("abc", MIN_ROUNDS)
    timed = order[9:][::2]  # 3 warm-up calls each; then each timed call follows an untimed one
    assert timed == [*"abc", *"bca", *"cab", *"abc", *"bca"]


def test_a_result_file_keeps_other_cases_and_leaves_out_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "results" / "engine.json"
    result = ResultFile(path)
    result.measure("ratios", {"target": "a", "batch": 1}, lambda: {"times_ms": {"x": [1 / 3]}})
    result.measure("ratios", {"target": "a", "batch": 8}, lambda: {"times_ms": {"x": [2.0]}})
    ResultFile(path).measure("ratios", {"target": "a", "batch": 8}, lambda: {"times_ms": {"x": [3.0]}})
    document = json.loads(path.read_text())
    assert [case["times_ms"]["x"] for case in document["ratios"]] == [[0.33333], [3.0]]
    assert {"command", "machine", "versions", "load_average_before"} <= set(document["environment"]["ratios"])
    again = ResultFile(path, missing_only=True)
    assert again.measure("ratios", {"target": "a", "batch": 1}, lambda: pytest.fail("measured again")) is None
    assert rounded({1: (0.123456789, [2])}) == {"1": [0.12346, [2]]}


def test_the_bars_are_printed_whether_they_are_met_or_not() -> None:
    assert bar_row("x", Interval(6.1, 5.9, 6.2), 6, at_least=True)[1:] == ["at least 6", "6.10 (5.90 to 6.20)", "met"]
    assert bar_row("x", Interval(1.3, 1.2, 1.4), 1.2, at_least=False)[-1] == "falls short"
    times = {BASELINE: [60.0] * 5, ENSEMBLE: [10.0] * 5, SINGLE: [5.0] * 5}
    lines = bars({"ratios": [{"target": "t", "pixels": 224, "batch": 1, "times_ms": times}]}).splitlines()
    assert [line.split(" | ")[-1] for line in lines[2:]] == ["met |", "falls short |"]


def test_what_http_adds_and_its_share_of_the_throughput_are_taken_round_by_round() -> None:
    row = {"http": {"p50_ms_by_round": [13.0, 23.0, 33.0]}, "engine": {"p50_ms_by_round": [10.0, 20.0, 30.0]}}
    assert overhead_ms(row) == Interval(3.0, 3.0, 3.0)
    case = {
        "http": {"1": {"throughput_by_round": [50.0] * 3}, "8": {"throughput_by_round": [80.0] * 3}},
        "engine_images_per_second": {"1": [90.0] * 3, "8": [100.0] * 3},
    }
    assert throughput_share(case) == ("8", "8", Interval(0.8, 0.8, 0.8))


@pytest.mark.parametrize("architecture", [full(20), ensemble(20, 8)])
def test_the_groups_of_layers_hold_every_multiplication_once(architecture: Architecture) -> None:
    for groups in (layers.KINDS, layers.STAGES):
        macs = layers.macs_by_group(architecture, groups, 224)
        assert sum(macs.values()) == cost(architecture, 224)["total"]["macs"]
        assert set(macs) == {*groups, layers.REST}


@pytest.mark.parametrize(
    ("name", "kind", "stage"),
    [
        ("conv1.output", "stem", "conv1, max pooling"),
        ("layer2.0.conv1.output", "stem", "layer2"),
        ("members.3.layer3.0.conv1.output", "members: 1x1 on the stem's output", "layer3"),
        ("layer3.0.downsample.0.output", "members: 1x1 on the stem's output", "layer3"),
        ("members.0.layer4.0.conv2.output.relu", "members: 3x3", "layer4"),
        ("layer4.0.conv1.output", "members: other 1x1", "layer4"),
        ("probabilities", layers.REST, layers.REST),
    ],
)
def test_a_layer_is_grouped_by_its_name_in_the_graph(name: str, kind: str, stage: str) -> None:
    assert (layers.group_of(name, layers.KINDS), layers.group_of(name, layers.STAGES)) == (kind, stage)
