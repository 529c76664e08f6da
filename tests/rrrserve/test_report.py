"""`rrr report` of a small network whose labels are hostile: what the page says, and what it must not do."""

import itertools
import json
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrrbuild.build import build_engine
from rrrbuild.confidence import thresholds
from rrrbuild.confidence.fit import fit_confidence
from rrrbuild.manifest import BatchRange, read_engine
from rrrbuild.repository import write_repository
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_weights, write_checkpoint
from rrrserve.cli import run
from rrrserve.report.trust import trust_section
from rrrserve.report.write import to_html, to_markdown
from rrrserve.stamps import environment
from rrrserve.stamps.stamp import STAMP, write_stamps

HOSTILE = (
    '"><script>alert(1)</script>',
    "<img src=http://evil.example/x onerror=alert(1)>",
    "{{ 7 * 1910003 }}|`*[x](http://a)",
)
SECTIONS = ["model", "accuracy", "calibration", "engines", "latency", "claims", "environment"]
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text())
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def attributes(self, tag: str, name: str) -> list[str]:
        return [found for element, attrs in self.elements if element == tag and (found := attrs.get(name)) is not None]


def bench_document() -> dict[str, Any]:
    """Two models at two concurrencies over HTTP, and at one rate."""
    figures_: dict[str, Any] = {"wall_seconds": 2.0, "throughput": 90.0, "mean_ms": 5.0, "p50_ms": 4.0, "p90_ms": 6.0}
    figures_ |= {"p95_ms": 7.0}
    figures_ |= {"p99_ms": 9.0, "p999_ms": 12.0, "max_ms": 13.0, "errors": {}, "ok": 180, "batch": 1, "rounds": []}
    base = {"level": "http", "target": "onnxruntime-fp32", "members": 3, "where": "http://127.0.0.1:3000"}
    runs = [
        {**figures_, **base, "model": model, "mode": "closed", "concurrency": load, "p50_ms": 2.0 * load}
        for model in ("hostile", "resnet152")
        for load in (1, 8)
    ]
    open_loop = {"mode": "open", "rate_per_second": 50.0, "arrivals": "poisson", "errors": {"503": 2}}
    runs.append({**figures_, **base, "model": "hostile", **open_loop})
    return {
        "format": 1,
        "kind": "rrr-bench",
        "command": "rrr bench --url http://127.0.0.1:3000",
        "started": "2026-11-22T10:00:00Z",
        "environment": environment.describe(),
        "client": {"limit_requests_per_second": 9100.0, "largest_share_of_limit": 0.9, "bottleneck": True},
        "runs": runs,
        "highest_rate": [
            {
                "model": "hostile",
                "level": "http",
                "p99_ms_limit": 50.0,
                "rate_per_second": 88.0,
                "p99_ms": 41.0,
                "tried": [],
            }
        ],
    }


def verdicts_document() -> dict[str, Any]:
    common = {
        "kind": "latency",
        "unit": "ms",
        "models": ["hostile"],
        "samples": {"hostile": 900},
        "queries": ["rrr <b>"],
    }
    return {
        "format": 1,
        "kind": "rrr-verdicts",
        "claims": {"path": "claims.yaml", "sha256": "0" * 64},
        "confidence": 0.95,
        "started": "2026-11-22T11:00:00Z",
        "source": {"kind": "bench", "path": "bench.json"},
        "environment": environment.describe(),
        "verdicts": [
            {
                **common,
                "name": "fast",
                "sentence": "hostile answers in <b>5 ms</b>",
                "verdict": "fail",
                "estimate": 6.1,
                "interval": [5.9, 6.4],
                "bound": {"at_most": 5.0},
            },
            {**common, "name": "open", "sentence": "hostile keeps 9 ms", "verdict": "undecided", "estimate": None},
        ],
    }


@pytest.fixture(scope="module")
def root(checkpoints: tuple[Checkpoint, Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts where rrr puts them: models/, engines/, repository/; and result files beside them."""
    folder = tmp_path_factory.mktemp("report") / "artifacts"
    (folder / "models").mkdir(parents=True)
    training = {
        "data": {"name": "letters <i>", "path": "/nowhere", "sha256": "ab" * 32, "images": 60},
        "recipe": {"name": "quick", "lr": 0.001},
        "epochs": 3,
        "seed": 11,
        "weights": {"origin": "none"},
        "metrics": {
            "test": {
                "accuracy": 0.5,
                "nll": 1.0,
                "ece": 0.1,
                "images": 30,
                "members": [{"accuracy": 0.4 + index / 100, "nll": 1.1, "ece": 0.2} for index in range(3)],
            }
        },
    }
    checkpoint = replace(checkpoints[0], name="hostile", labels=HOSTILE, training={"data": None} | training)
    with sealed.staged(folder / "models" / "hostile", document=DOCUMENT) as stage:
        write_checkpoint(replace(checkpoint, training={"data": None}), read_weights(checkpoints[0]), stage)
    engine = folder / "engines" / "hostile" / "onnxruntime-fp32"
    engine.parent.mkdir(parents=True)
    build_engine(
        folder / "models" / "hostile",
        "onnxruntime-fp32",
        plan="merged",
        batch=BatchRange(1, 2, 4),
        out=engine,
        images=8,
    )
    with sealed.staged(folder / "models" / "hostile", document=DOCUMENT) as stage:
        write_checkpoint(checkpoint, read_weights(checkpoints[0]), stage)
    write_repository([engine], folder / "repository", backends=frozenset({"python"}), names=["served-name"])
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(3), (40, 3)).astype(np.float32)
    np.savez(
        folder / "predictions.npz",
        files=np.array(["a"] * 40),
        labels=random.integers(0, 3, 40),
        probabilities=probabilities,
    )
    (folder / "bench.json").write_text(json.dumps(bench_document()))
    (folder / "verdicts.json").write_text(json.dumps(verdicts_document()))
    return folder


@pytest.fixture(scope="module")
def everything(root: Path) -> Path:
    """The page with every kind of input; `.md` beside it."""
    stamp = verdicts_document()
    stamp["verdicts"] = [{**stamp["verdicts"][0], "name": "stamped", "models": ["served-name"], "verdict": "pass"}]
    stamp["environment"] = {**stamp["environment"], "machine": {"cpu": "an abacus"}}
    write_stamps(stamp, root / "repository")
    out = root.parent / "page.html"
    names = ("bench.json", "verdicts.json", "predictions.npz")
    files = [str(word) for name in names for word in (f"--{Path(name).stem}", root / name)]
    to = ["--out", str(out), "--markdown", str(out.with_suffix(".md"))]
    assert run(["report", str(root / "models" / "hostile"), *files, *to]) == 0
    return out


def document_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert run(["report", *map(str, arguments), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_page_has_every_section_and_fetches_nothing(everything: Path) -> None:
    page = Page(everything)
    assert [name for name in page.attributes("section", "id") if name] == SECTIONS
    assert {f"#{name}" for name in SECTIONS} == set(page.attributes("a", "href"))
    names = {tag for tag, _ in page.elements}
    assert names & {"script", "img", "link", "iframe", "object", "base", "form", "image"} == set()
    assert all(target.startswith("#") for target in page.attributes("use", "xlink:href"))
    assert not any(key.startswith("on") or key in ("src", "srcset") for _, attrs in page.elements for key in attrs)
    style = re.search(r"<style>(.*?)</style>", everything.read_text(), re.S)
    assert style is not None
    assert re.search(r"url\(|@import|@font-face", style[1]) is None
    assert "default-src 'none'" in page.attributes("meta", "content")[1]


def test_every_plot_is_there_with_its_data_and_its_words(everything: Path) -> None:
    page = Page(everything)
    keys = {name.removeprefix("figure-") for name in page.attributes("figure", "id")}
    loads = {"load-0-0", "tail-0-0", "load-0-1", "tail-0-1"}
    assert keys == {"network", "members", "confusion", "reliability", "coverage", "errors", "plans-0", *loads}
    pictures = [attrs for tag, attrs in page.elements if attrs.get("role") == "img"]
    assert len(pictures) == len(keys) + 2, "and an interval for each claim that has an estimate"
    assert all(re.search(r"\d", attrs["aria-label"] or "") for attrs in pictures), "the numbers are read out"
    drawn = re.findall(r"<svg .*?</svg>", everything.read_text(), re.S)
    for svg in (svg for svg in drawn if 'role="img"' in svg):
        assert len(re.findall(r"<(?:use|path)", svg)) >= 1
        assert "<style" not in svg
        assert re.findall(r"url\((?!#)", svg) == []
        numbers = re.findall(r' (?:x|y|cx|cy|x1|y1|x2|y2|width|height|r)="([^"]*)"', svg)
        assert np.isfinite([float(value) for value in numbers]).all()
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")
    tables = sum(tag == "table" for tag, _ in page.elements)
    assert tables == sum(tag == "caption" for tag, _ in page.elements) + 1, "the recipe's is named by its summary"


def test_hostile_labels_stay_text(everything: Path) -> None:
    text = "".join(Page(everything).words)
    for label in (*HOSTILE, "letters <i>", "hostile answers in <b>5 ms</b>", "rrr <b>"):
        assert label in text
    assert "13370021" not in text, "the template in a label was run"
    markdown = everything.with_suffix(".md").read_text()
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert re.search(r"(?<!\\)\]\(", markdown) is None, "no link"
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    for first, second in itertools.pairwise(rows):
        if re.fullmatch(r"\|(---\|)+", second):
            assert len(re.findall(r"(?<!\\)\|", first)) == second.count("|")


def test_a_cascade_and_what_probabilities_are_worth_are_shown_with_their_figures(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document = document_of(capsys, root / "models" / "hostile")
    manifest = read_engine(root / "engines" / "hostile" / "onnxruntime-fp32")
    assert document["engines"][0]["cascade_reason"] == manifest.cascade_reason != ""
    random = np.random.default_rng(2)
    found, labels = random.dirichlet(np.ones(3), (60, 3)), np.arange(60) // 20
    steps = thresholds.steps(found, labels, (2, 0, 1), 2)
    chosen = steps[len(steps) // 2]
    cascade = {"k": 2, "order": (2, 0, 1), **asdict(chosen), "images": 60, "source": "letters <b>"}
    cascade |= {
        "max_drop_points": 0.1,
        "with": {"accuracy": 0.9, "nll": 0.3},
        "without": {"accuracy": 0.91, "nll": 0.2},
    }
    costs = {"first": {"1": 4.0, "2": 5.0}, "rest": {"1": 2.0, "2": 3.0}, "all": {"1": 7.0, "2": 8.0}}
    expected = thresholds.expected_cost_ms({1: 4.0, 2: 5.0}, {1: 2.0, 2: 3.0}, chosen.share_early)
    cascade["cost_ms"] = {**costs, "expected": {str(size): cost for size, cost in expected.items()}}
    cascade["curve"] = [asdict(step) for step in thresholds.curve(steps)]
    confidence = fit_confidence(found, found, labels, cascade, source="letters <b>")
    engine = trust_section(replace(manifest, cascade=cascade, confidence=confidence))
    at_chosen = [row["expected_ms"] for row in engine["cascade"]["curve"] if row["tau"] == chosen.tau]
    assert at_chosen in ([], [cascade["cost_ms"]["expected"]])
    document["engines"][0] |= engine
    json.dumps(document, allow_nan=False)
    (tmp_path / "page.html").write_text(to_html(document))
    page = Page(tmp_path / "page.html")
    text = " ".join("".join(page.words).split())
    assert "figure-cascade-0" in page.attributes("figure", "id")
    assert "aimed at" in text
    assert "Dotted: 0.05 points, the estimate that is aimed at so that other images lose at most 0.1." in text
    assert f"2 of 3 members first, tau {chosen.tau:.3f}" in text
    assert f"{expected[1]:.2f} ms expected (first 4.00, rest 2.00, all members 7.00)" in text
    gaps = [100 * scores["auto"]["ece"] for scores in (confidence.before, confidence.after)]
    assert "auto" in text
    assert f"{gaps[0]:.1f} → {gaps[1]:.1f}" in text
    assert f"{100 * confidence.coverage['auto']['0.90']['by_class'][0]:.1f} %" in text
    markdown = to_markdown(document)
    assert f"| 1 | 4.00 | 2.00 | 7.00 | {expected[1]:.2f} |" in markdown
    assert f"| {gaps[0]:.1f} to {gaps[1]:.1f} |" in markdown
    assert "letters <b>" in text
    assert "<b>" not in markdown


def test_it_tells_what_the_artifacts_say(everything: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = document_of(capsys, root / "models" / "hostile", "--predictions", root / "predictions.npz")
    engine = json.loads((root / "engines" / "hostile" / "onnxruntime-fp32" / "manifest.json").read_text())
    assert document["engines"][0]["verified"] == engine["verified"]
    assert document["engines"][0]["latency_ms"] == engine["latency_ms"]
    assert document["engines"][0]["of_this_checkpoint"] is False, "the checkpoint was written again after the build"
    assert document["model"]["costs"]["ratio"]["parameters"] > 10
    assert [row["images"] for row in document["accuracy"]] == [30, 40]
    assert document["served"]["name"] == "served-name"
    text = "".join(Page(everything).words)
    for words in ("another training", "an abacus when verified", "the client itself was the limit", "2 × 503", "seed"):
        assert words in text
    claims = {claim["name"]: claim for claim in document["claims"]}
    assert (claims["stamped"]["verdict"], claims["stamped"]["stale"]) == ("pass", True)
    latency_ms = engine["latency_ms"]["merged"]["1"]["median"]
    assert f"{latency_ms:.3f}" in text


def test_what_is_missing_is_said_with_its_command(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    document = document_of(capsys, root / "engines" / "hostile" / "onnxruntime-fp32", "--out", out)
    sections = {row["section"]: row["command"] for row in document["missing"]}
    assert "--predictions FILE.npz" in sections["calibration"]
    assert "rrr bench --out" in sections["latency"]
    text = "".join(Page(out).words)
    assert all(row["text"] in text for row in document["missing"])
    alone = tmp_path / "alone"
    alone.mkdir()
    (root / "engines" / "hostile" / "onnxruntime-fp32").rename(alone / "engine")
    try:
        document = document_of(capsys, alone / "engine", "--out", out)
    finally:
        (alone / "engine").rename(root / "engines" / "hostile" / "onnxruntime-fp32")
    assert {row["section"] for row in document["missing"]} == {"model", "accuracy", "calibration", "latency", "claims"}
    assert (document["training"], document["served"]) == (None, None)
    Page(out)


def test_a_repository_alone_tells_of_its_engine_and_a_broken_stamp(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(root / "repository", tmp_path / "repository"))
    (copy / "served-name" / STAMP).write_text("nothing")
    document = document_of(capsys, copy, "--out", tmp_path / "page.html")
    assert [engine["target"] for engine in document["engines"]] == ["onnxruntime-fp32"]
    assert [claim["verdict"] for claim in document["claims"]] == ["unreadable"]
    assert "claims.json was changed after it was written" in "".join(Page(tmp_path / "page.html").words)


def test_a_name_finds_the_artifacts_in_the_working_directory(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    by_name = document_of(capsys, "hostile")
    assert by_name["training"]["path"] == "artifacts/models/hostile"
    assert by_name["engines"][0]["path"] == "artifacts/engines/hostile/onnxruntime-fp32"
    assert document_of(capsys, "served-name")["name"] == "hostile"


MISTAKES = [  # {root} and {tmp} are folders
    ("{root}/models/hostile", 2, "nowhere to write: give --out FILE.html"),
    ("nobody --json", 3, "nothing is known about 'nobody': there is no artifacts/models/nobody"),
    ("a/b --json", 3, "a/b does not exist: give a checkpoint, an engine, a repository"),
    ("{root} --json", 3, "holds no model.json, manifest.json or repository.json"),
    ("hostile --out {tmp}/no/x.html", 2, "no: make it first"),
    ("hostile --json --bench {tmp}/x", 2, "there is no file"),
    ("hostile --json --bench {root}/verdicts.json", 3, "is not a result of rrr bench --out"),
    ("hostile --json --bench {tmp}/odd.json", 3, "runs.1.p99_ms: Input should be a valid number, found 'x'"),
    ("hostile --json --verdicts {root}/predictions.npz", 3, "is not verdicts: rrr verify"),
    ("{root}/models/hostile --json --predictions {root}/bench.json", 3, "holds no predictions"),
    ("x --json --predictions {root}/a --data {root}", 2, "give --predictions or --data, not both"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES)
def test_a_mistake_gets_one_line(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = bench_document()
    odd["runs"][1]["p99_ms"] = "x"
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    assert run(["report", *arguments.format(root=root, tmp=tmp_path).split()]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_engines_of_another_network_are_refused(
    root: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = repository / "tiny" / "1"
    assert run(["report", str(root / "models" / "hostile"), "--engine", str(other), "--json"]) == 3
    assert "is another network than" in capsys.readouterr().err
