"""The parts of a report: calibration by hand-made probabilities, charts, result files."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from rrrbuild.cascade_runner import answered_by
from rrrbuild.confidence.fit import fit_confidence
from rrrbuild.evaluation import Predictions, write_predictions
from rrrnet.commands.describe import summarise
from rrrnet.errors import ArtifactError
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture, ensemble
from rrrnet.training.metrics import mutual_information, score
from rrrserve.report import figures
from rrrserve.report.calibration import calibration
from rrrserve.report.drawing import INK, Figure, picture
from rrrserve.report.inputs import read_bench, read_predictions, words_of_predictions
from rrrserve.report.trust import Answers
from rrrserve.report.write import environment


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


def test_answers_of_a_cascade_are_scored_and_drawn_before_and_after_their_temperature(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    probabilities = random.dirichlet(np.ones(3) * 2, (120, 4)).astype(np.float32)
    labels = np.array([random.choice(3, p=row**3 / (row**3).sum()) for row in probabilities.mean(axis=1)])
    cascade = {"k": 2, "tau": 0.6, "order": [3, 1, 0, 2]}
    confidence = fit_confidence(probabilities, probabilities, labels, cascade, source="x")
    paths = tuple(tmp_path / str(index) for index in range(120))
    answered = answered_by(probabilities, cascade, "auto")
    written = Predictions(("x",) * 120, paths, labels, answered, tmp_path, True, effort="auto", target="t")
    write_predictions(written, tmp_path / "p.npz")
    assert words_of_predictions(tmp_path / "p.npz") == ("auto", "t")
    read, truth = read_predictions(tmp_path / "p.npz", members=4, classes=3)
    answers = Answers(read, truth, None, "x", "auto", confidence)
    scores = answers.scores()
    assert scores["accuracy"] == scores["uncalibrated"]["accuracy"], "labels stay"
    assert scores["nll"] < scores["uncalibrated"]["nll"]
    early = np.isnan(answered[:, 0, 0])
    assert 0 < scores["share_early"] == early.mean() < 1
    assert scores["members_used"] == pytest.approx(4 - 2 * early.mean())
    assert scores["members"][0]["images"] == (~early).sum()
    assert scores["coverage"]["0.95"]["coverage"] >= 0.95, "on the very images that it was fitted on"
    assert 1 < scores["coverage"]["0.90"]["mean_size"] < scores["coverage"]["0.95"]["mean_size"] < 3
    found = calibration(read, truth, "abc", answers.calibrated)
    gap = sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in found["bins"] if row["images"]) / 120
    assert gap == pytest.approx(scores["ece"])
    sections = dict.fromkeys(("engines", "bench"), ()) | {"calibration": found, "accuracy": [scores], "mistakes": None}
    drawn = figures.figures_of(sections)["calibration"]
    assert [figure.key for figure in drawn] == ["reliability-before", "reliability", "coverage"]
    assert f"{100 * scores['uncalibrated']['ece']:.1f} points" in drawn[0].caption


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
    figures_ = {"ok": 9, "throughput": 9.0, "p50_ms": 1.0, "errors": {}, "rounds": []}
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
    ],
)
def test_a_bench_result_that_cannot_be_drawn_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(bench_text())
    assert read_bench(path).runs[0].load == 1
    path.write_text(text)
    with pytest.raises(ArtifactError) as raised:
        read_bench(path)
    assert str(raised.value).startswith(f"{path} is not as rrr bench --out writes it: {message}")


def test_a_folder_is_no_result_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a file: give one that a command of rrr wrote"):
        read_bench(tmp_path)


def test_figures_without_data_are_left_out_rather_than_drawn_empty() -> None:
    engine = {"target": "t", "verified": False, "latency_ms": {}, "fastest": []}
    assert figures.errors([engine]) is None
    assert figures.engine_latency([engine]) is None
    assert figures.plans(engine, 0) is None
    row = {"load": 1.0, "ok": 0, **dict.fromkeys(("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms"))}
    group = {"title": "x", "mode": "closed", "series": {"m": [row]}}
    assert figures.load(group, "0") is None
    assert figures.tail(group, "0") is None


@pytest.mark.parametrize("shape", [ensemble(5, 32), Architecture(1000), Architecture(7, REDUCED_BLOCKS)])
def test_every_kind_of_network_can_be_drawn(shape: Architecture) -> None:
    model = {**shape.to_json(), "image_size": 64, "costs": summarise(shape, 64)}
    source = '{% from "parts.html" import network %}{{ network(model) }}'
    text = environment(autoescape=True).from_string(source).render(model=model)
    boxes = len(re.findall('<div class="box', text))
    assert boxes == 4 + (shape.members if shape.members <= 8 else 7)
    assert ("25 more" in text) == (shape.members == 32)


def test_one_load_still_gives_its_plots() -> None:
    row = {"load": 50.0, "rate_per_second": 50.0, "ok": 150, "p50_ms": 4.0, "p90_ms": 6.0, "p95_ms": 7.0}
    row |= {"p99_ms": 9.0, "p999_ms": 9.5}
    group = {"title": "HTTP, open loop, batch 1", "mode": "open", "series": {"m": [row]}}
    drawn, tail = figures.load(group, "0"), figures.tail(group, "0")
    assert drawn is not None
    assert tail is not None
    assert len(marks(drawn)) == 3
    assert len(marks(tail)) == 4, "150 requests have no 99.9th percentile"
    assert marks(tail) == sorted(set(marks(tail))), "the tail's percentiles go to the right"


def marks(figure: Figure) -> list[float]:
    """Where the points of the first colour lie, from the left."""
    return [float(x) for x in re.findall(r'<use [^>]*x="([^"]+)"[^>]*fill: var\(--c0\)', figure.svg)]


def test_a_drawing_acts_on_nothing_else_of_the_page_and_hostile_words_stay_words() -> None:
    with picture(100, 60, 'told "<b>') as drawn:
        axis = drawn.canvas.subplots()
        axis.plot([0, 1], [0, 1], color=INK)
        axis.set_title("$\\frac{ <script> 漢")
    svg = ElementTree.fromstring(f"<page xmlns:xlink='x'>{drawn.svg}</page>")[0]  # noqa: S314  our own
    assert (svg.tag, svg.get("aria-label"), svg.get("role")) == ("svg", 'told "<b>', "img")
    assert [element.text for element in svg.iter("text")][-1] == "$\\frac{ <script> 漢"
    assert not list(svg.iter("style"))
    assert "stroke: var(--ink)" in drawn.svg, "dark has another ink"
    assert "font-family" not in drawn.svg
    names = re.findall(r' id="([^"]+)"', drawn.svg)
    assert all(drawn.svg.count(f"#{name}") for name in names)
