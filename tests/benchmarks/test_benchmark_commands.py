"""Every benchmark command runs through, on tiny networks, and its page and plots come out of its file."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import performance
from rrrbench import peak
from rrrbench.names import BASELINE, ENSEMBLE, SINGLE
from rrrbench.servers import running
from rrrnet.errors import CheckFailedError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and engines that the commands share."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def peers(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[str]"]:
    """The peers benchmark, which mostly waits for servers to start: it begins first and runs beside the others."""
    out = cache / "results" / "peers.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "peers" / "run.py"), "--quick", "--out", str(out)]
    command += ["--cache", str(tmp_path_factory.mktemp("peers"))]
    process = subprocess.Popen(command, cwd=cache, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield process
    process.terminate()
    process.communicate()


def run(script: str, cache: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """What a command printed and wrote."""
    out = cache / "results" / f"{Path(script).stem}.json"
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--quick", "--cache", str(cache), "--out", str(out)]
    done = subprocess.run([*command, *words], cwd=cache, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(out.read_text())
    return done.stdout, document


@pytest.mark.nightly
@pytest.mark.usefixtures("peers")
def test_the_engine_benchmark_measures_every_section(cache: Path) -> None:
    printed, document = run("engine.py", cache, "--target", "openvino-fp32")
    (case,) = (case for case in document["ratios"] if case["batch"] == 8)
    assert {name: len(times) for name, times in case["times_ms"].items()}.keys() == {BASELINE, ENSEMBLE, SINGLE}
    assert min(len(times) for times in case["times_ms"].values()) >= 5
    assert {"matmul-openvino", "matmul-torch", BASELINE, ENSEMBLE} == set(document["peak"][0]["times_ms"])
    assert set(document["backbones"][0]["times_ms"]) == {ENSEMBLE, "resnet50", "resnet101", "resnet152"}
    assert "ResNet50 / 8 members | ResNet101 / 8 members | ResNet152 / 8 members |" in printed
    assert {"torch-eager", "torch-eager-channels-last", "openvino-fp32"} == set(document["eager"][0]["times_ms"])
    assert set(document["layers"][0]["rows"]) == {"1", "8"}
    assert set(document["profile"][0]["rows"]) == {BASELINE, ENSEMBLE}
    assert document["environment"]["peak"]["command"].startswith(".venv/bin/python benchmarks/engine.py --quick")
    assert "ResNet152 / 8 members, openvino-fp32, 32 px, batch 1 | at least 6 |" in printed


@pytest.mark.nightly
def test_the_service_benchmark_measures_start_latency_and_load(cache: Path) -> None:
    printed, document = run("service.py", cache)
    (start,), (latency,), (load,) = document["start"], document["latency"], document["concurrency"]
    assert 0 < start["start_seconds"][0] < 60
    assert 50 < start["memory_mb"][0] < 5000
    assert latency["rows"][ENSEMBLE]["http"]["p50_ms"] > latency["rows"][ENSEMBLE]["engine"]["p50_ms"]
    assert list(load["http"]) == ["1", "2"]
    assert load["http"]["2"]["requests"] > 4
    assert "HTTP p50 - engine p50 (ms), openvino-fp32 | at most 4 |" in printed


@pytest.mark.nightly
def test_the_peers_benchmark_drives_every_contender(cache: Path, peers: "subprocess.Popen[str]") -> None:
    said, _ = peers.communicate(timeout=240)
    assert peers.returncode == 0, said
    document = json.loads((cache / "results" / "peers.json").read_text())
    (peers_case,), (same_engine,) = document["peers"], document["same_engine"]
    rows = peers_case["rows"]
    assert list(rows) == [
        "rrr serve, openvino-fp32",
        "rrr serve, onnxruntime-fp32",
        f"BentoML + PyTorch eager, {BASELINE}",
        f"BentoML + PyTorch eager, {ENSEMBLE}",
        "FastAPI + ONNX Runtime",
        "LitServe + ONNX Runtime",
        "Triton alone, openvino-fp32",
        "Triton alone, onnxruntime-fp32",
    ]
    assert list(same_engine["rows"]) == [
        "rrr serve, openvino-fp32",
        "FastAPI + the same engine",
        "LitServe + the same engine",
        "Triton alone, openvino-fp32",
    ]
    assert "rrr serve p50 less that of FastAPI + the same engine (ms), openvino-fp32, 32 px | at most 1 |" in said
    for row in [*rows.values(), *same_engine["rows"].values()]:
        assert len(row["concurrency-2"]["rounds"]) == 2
        assert row["concurrency-2"]["requests"] > 1
        assert 0 < row["concurrency-1"]["p50_ms"] <= row["concurrency-1"]["p99_ms"]


@pytest.mark.nightly
def test_page_and_plots_are_written_from_the_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = cache / "page" / "performance.md"
    page.parent.mkdir()
    page.write_text("\n".join(mark for name in performance.PARTS for mark in performance.marks(name)))
    readme = page.with_name("README.md")
    readme.write_text("\n".join(performance.marks("speed")))
    overview = page.with_name("overview.md")
    overview.write_text("\n".join(performance.marks("servers")))
    pages = ["--page", str(page), "--readme", str(readme), "--overview", str(overview)]
    words = ["--results", str(cache / "results"), *pages]
    monkeypatch.setattr(sys, "argv", ["performance.py", *words])
    # Published targets are of another machine than the rest, so they have a file of their own; engine.py writes both.
    shutil.copy(cache / "results" / "engine.json", cache / "results" / "targets.json")
    performance.main()
    assert "| ResNet152 in PyTorch eager, FP32; members in `openvino-fp32` |" in readme.read_text()
    assert "| Triton alone, openvino-fp32 |" in overview.read_text()
    for name in performance.PARTS:
        document = json.loads((cache / "results" / f"{name}.json").read_text())
        begin, end = performance.marks(name)
        written = page.read_text().split(begin)[1].split(end)[0].strip()
        assert written == performance.figures(name, document)
    pictures = re.findall(r"\]\((\S+\.png)\)", page.read_text())
    assert len(pictures) == 4
    for picture in pictures:
        assert (page.parent / picture).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", list(performance.PARTS))
def test_the_published_figures_are_those_of_the_result_file(name: str) -> None:
    begin, end = performance.marks(name)
    written = performance.PAGE.read_text().split(begin)[1].split(end)[0].strip()
    document = json.loads((RESULTS / f"{name}.json").read_text())
    assert written == performance.figures(name, document)


@pytest.mark.parametrize("name", list(performance.SUMMARIES))
def test_the_few_figures_are_those_of_the_result_files(name: str) -> None:
    source, page, summary = performance.SUMMARIES[name]
    text = {"readme": performance.README, "overview": performance.OVERVIEW}[page].read_text()
    begin, end = performance.marks(name)
    assert text.split(begin)[1].split(end)[0].strip() == summary(json.loads((RESULTS / f"{source}.json").read_text()))


def test_the_published_plots_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in performance.PAGE.parent.glob("performance_*.png")}
    assert len(sizes) == 4
    assert max(sizes.values()) < 150_000


@pytest.mark.parametrize("precision", peak.PRECISIONS)
def test_both_libraries_multiply_matrices_of_the_size_that_is_counted(precision: str) -> None:
    assert peak.gflop(rows=1000, depth=1000) == pytest.approx(2.0)
    by_torch = peak.products(precision, rows=48, depth=32)["matmul-torch"]()
    (by_openvino,) = peak.products(precision, rows=48, depth=32)["matmul-openvino"]().values()  # type: ignore[attr-defined]
    assert tuple(by_torch.shape) == by_openvino.shape == (48, 32)  # type: ignore[attr-defined]


def test_a_server_that_does_not_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(CheckFailedError, match="no such model"),
        running(command, url="", ready=lambda: False, log=tmp_path / "server.log"),
    ):
        pytest.fail("it is not ready")


@pytest.mark.nightly
def test_the_shadow_benchmark_asks_both_services_the_same_in_both_directions(cache: Path) -> None:
    printed, document = run("shadow.py", cache)
    assert [(case["model"], case["shadow"]) for case in document["open"]] == [
        (BASELINE, ENSEMBLE),
        (ENSEMBLE, BASELINE),
    ]
    for case in document["open"]:
        assert case["rate_per_second"] == pytest.approx(0.3 * case["capacity_per_second"], rel=1e-3)
        assert {len(found["p50_ms_by_round"]) for found in case["services"].values()} == {2}
        assert case["told"]["same yes"] + case["told"]["same no"] > 0
    assert f"| {BASELINE} | {ENSEMBLE} |" in printed
