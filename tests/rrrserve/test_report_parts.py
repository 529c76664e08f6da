"""The parts of a report: calibration by hand-made probabilities, charts, result files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rrrnet.architecture import REDUCED_BLOCKS, Architecture, ensemble
from rrrnet.commands.describe import summarise
from rrrnet.errors import ArtifactError
from rrrnet.metrics import score
from rrrserve.report import figures, latency_figures
from rrrserve.report.calibration import calibration, mutual_information
from rrrserve.report.inputs import read_bench, read_predictions
from rrrserve.report.svg import Scale, linear_ticks, number


def test_reliability_and_coverage_are_those_of_the_scores() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(4) * 0.4, (300, 5))
    labels = np.array([random.choice(4, p=row) for row in probabilities.mean(axis=1)])
    found = calibration(probabilities, labels, ("a", "b", "c", "d"))
    scores = score(probabilities, labels)
    full = [row for row in found["bins"] if row["images"]]
    gap = sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in full) / 300
    assert gap == pytest.approx(scores["ece"], abs=1e-9)
    assert sum(row["images"] for row in found["bins"]) == 300
    assert all(curve[-1] == pytest.approx(scores["accuracy"]) for curve in found["coverage"].values())
    assert found["coverage"]["confidence"][0] > scores["accuracy"]
    worst = found["worst"][0]
    mean = probabilities.mean(axis=1).argmax(axis=1)
    index = "abcd".index(worst["label"])
    assert worst["accuracy"] == pytest.approx((mean[labels == index] == index).mean())


def test_mutual_information_is_zero_where_members_agree_and_log_2_where_two_contradict() -> None:
    alike = np.tile([0.7, 0.2, 0.1], (1, 4, 1))
    contrary = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    assert mutual_information(alike)[0] == pytest.approx(0, abs=1e-12)
    assert mutual_information(contrary)[0] == pytest.approx(np.log(2))


def test_predictions_of_another_shape_or_with_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, probabilities=np.ones((4, 2, 3)), labels=np.array([0, 1, 2, 3]))
    with pytest.raises(ArtifactError, match=r"this network needs \(N, 8, 3\)"):
        read_predictions(path, members=8, classes=3)
    with pytest.raises(ArtifactError, match=r"labels that are no classes: allowed are 0 to 2"):
        read_predictions(path, members=2, classes=3)
    np.savez(path, probabilities=np.array([{}]), labels=np.array([0]))
    with pytest.raises(ArtifactError, match=r"holds no predictions \(Object arrays"):
        read_predictions(path, members=2, classes=3)


def bench_text(**fields: object) -> str:
    """A bench result of one run with other fields."""
    figures_ = {"ok": 9, "throughput": 9.0, "p50_ms": 1.0}
    run = {"model": "m", "level": "http", "mode": "closed", "concurrency": 1, **figures_, **fields}
    top = {"format": 1, "kind": "rrr-bench", "command": "rrr bench", "started": "2026-11-22T10:00:00Z"}
    return json.dumps({**top, "environment": {"machine": {}, "versions": {}}, "runs": [run]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bench_text(p50_ms=float("inf")), "runs.0.p50_ms: Input should be a finite number, found inf"),
        (bench_text(p50_ms=1e308), "runs.0.p50_ms: Input should be less than or equal to"),
        (bench_text(ok=-1), "runs.0.ok: Input should be greater than or equal to 0, found -1"),
        (bench_text(ok=10**400), "runs.0.ok: Input should be less than or equal to"),
        (bench_text(concurrency=0), "runs.0: Value error, a run of mode closed needs concurrency, above 0"),
        (bench_text(mode="open"), "runs.0: Value error, a run of mode open needs rate_per_second, above 0"),
        (bench_text()[:90], "JSON: Invalid JSON: EOF while parsing"),
        ("", "JSON: Invalid JSON: EOF while parsing"),
        ("{}", "format: Field required"),
    ],
)
def test_a_bench_result_that_cannot_be_drawn_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(bench_text())
    assert read_bench(path).runs[0].load == 1
    path.write_text(text)
    with pytest.raises(ArtifactError) as raised:
        read_bench(path)
    assert str(raised.value).startswith(f"{path} is not a bench result: rrr bench --out FILE writes one; {message}")


def test_a_folder_is_no_result_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a file: give one that a command of rrr wrote"):
        read_bench(tmp_path)


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0, 1, 0, 100), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Scale(92.9, 94.9, 0, 100), [93, 93.5, 94, 94.5]),
        (Scale(1, 100, 0, 100, log=True), [1, 2, 5, 10, 20, 50, 100]),
        (Scale(1e-7, 1, 0, 100, log=True), [10.0**power for power in range(-7, 1)]),
        (Scale(5, 5, 0, 100), [5]),
    ],
)
def test_ticks_are_round_and_lie_within(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks() == pytest.approx(ticks)
    assert all(-1 <= scale(value) <= 101 for value in scale.ticks())
    assert len(linear_ticks(0.001, 0.0017)) in range(3, 9)


def test_small_decades_are_written_as_powers() -> None:
    assert [number(value) for value in (1e-6, 0.25, 1234.5, 2e-6)] == ["10⁻⁶", "0.25", "1,234", "2e-06"]


def test_figures_without_data_are_left_out_rather_than_drawn_empty() -> None:
    engine = {"target": "t", "verified": False, "latency_ms": {}, "fastest": []}
    assert figures.errors([engine]) is None
    assert latency_figures.engines([engine]) is None
    assert latency_figures.plans(engine, 0) is None
    row = {"load": 1.0, "ok": 0, **dict.fromkeys(("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms"))}
    group = {"title": "x", "load_name": "y", "series": {"m": [row]}}
    assert latency_figures.load(group, "0") is None
    assert latency_figures.tail(group, "0") is None


@pytest.mark.parametrize("shape", [ensemble(5, 32), Architecture(1000), Architecture(7, REDUCED_BLOCKS)])
def test_every_kind_of_network_can_be_drawn(shape: Architecture) -> None:
    model = {**shape.to_json(), "image_size": 64, "costs": summarise(shape, 64)}
    svg = figures.network(model).svg
    assert svg.count("<rect") == 4 + min(8, shape.members)
    assert ("25 more" in svg) == (shape.members == 32)


def test_one_load_still_gives_its_plots() -> None:
    row = {"load": 50.0, "ok": 150, "p50_ms": 4.0, "p90_ms": 6.0, "p95_ms": 7.0, "p99_ms": 9.0, "p999_ms": 9.5}
    group = {"title": "HTTP, open loop, batch 1", "load_name": "requests sent a second", "series": {"m": [row]}}
    drawn, tail = latency_figures.load(group, "0"), latency_figures.tail(group, "0")
    assert drawn is not None
    assert tail is not None
    assert drawn.svg.count("<circle") == 2
    assert tail.svg.count("<circle") == 4, "150 requests have no 99.9th percentile"
    places = [float(x) for x in re.findall(r'cx="([^"]+)"', tail.svg)]
    assert places == sorted(set(places)), "the tail's percentiles go to the right"
