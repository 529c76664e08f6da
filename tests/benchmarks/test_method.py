"""Pre-training from drawn letters goes on where it was killed; the report says what the numbers say."""

import json
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rrrnet
from rrrbench.glyph_pool import GlyphPool
from rrrbench.method_claims import judgements
from rrrnet.glyphs.options import GlyphOptions
from rrrnet.glyphs.picture import render_glyph
from rrrnet.sweep.cells import Cell, Folder
from rrrnet.sweep.table import summarise

ROOT = Path(__file__).resolve().parents[2]
METHOD = ROOT / "benchmarks" / "method"


def document(accuracy: float, parameters: float, macs: float) -> dict[str, Any]:
    fixed = {"nll": 0.5, "ece": 0.1, "seconds": 10.0, "epochs": 3, "lr": 1e-3, "size": 64, "data_sha256": "same"}
    told = {
        "val_accuracy": 0.5,
        "command": "rrr train",
        "weights": "none",
        "date": "2026-01-02",
        "versions": {"rrr": "1"},
    }
    machine = {"machine": {"cpu": "a CPU", "threads": 2}, "settings": {"size": 64, "lr": None}}
    figures = {"accuracy": accuracy, "correct": round(100 * accuracy), "images": 100}
    return {**figures, "parameters": parameters, "macs": macs, **fixed, **told, **machine}


def results(full: tuple[float, ...], reduced: tuple[float, ...], ensemble: tuple[float, ...]) -> dict[Cell, Any]:
    """One data set for each accuracy; costs are a ResNet152's and those of 8 members."""
    costs = {"full": (58.2e6, 3759e6), "reduced": (8.06e6, 479e6), "ensemble": (8.03e6, 546e6)}
    given = {"full": full, "reduced": reduced, "ensemble": ensemble}
    return {
        Cell(f"set{number}", method, 0): document(value, *costs[method])
        for method, values in given.items()
        for number, value in enumerate(values)
    }


def test_each_sentence_of_the_paper_is_judged_by_its_number() -> None:
    found = summarise(results((0.9, 0.8, 0.7), (0.5, 0.4, 0.31), (0.91, 0.79, 0.7)))
    told = {sentence: (measured, verdict) for sentence, measured, verdict in judgements(found)}
    assert next(iter(told.values())) == ("7.2 times the parameters, 7.8 times the MACs", "holds")
    assert told["... without significant performance degradation"][1] == "reduced is less accurate"
    assert told["split into branches, keeping parameters and FLOPs"][1] == "holds within 15 %"
    assert told["... and the ensemble improves performance"][1] == "ensemble is more accurate"
    assert told["matches or beats classical backbone fine-tuning"][1] == "no difference shown, in either direction"


def test_one_data_set_judges_no_accuracy() -> None:
    verdicts = [verdict for _, _, verdict in judgements(summarise(results((0.9,), (0.8,), (0.9,))))]
    assert verdicts.count("one data set judges nothing") == 3


def test_the_report_keeps_every_cell_and_writes_the_page(tmp_path: Path) -> None:
    for cell, found in results((0.9, 0.8), (0.5, 0.4), (0.9, 0.8)).items():
        Folder(tmp_path / "letters").write(cell, found)
    page, out = tmp_path / "method.md", tmp_path / "method.json"
    page.write_text((ROOT / "docs" / "method.md").read_text())
    report = runpy.run_path(str(METHOD / "report.py"))
    report["main"]([str(tmp_path / "letters"), "--out", str(out), "--page", str(page)])
    sweep = json.loads(out.read_text())["sweeps"]["letters"]
    assert (len(sweep["cells"]), sweep["machines"]) == (6, ["a CPU, 2 threads"])
    assert "| set0 | 90.0 (1) | 50.0 (1) | 90.0 (1) |" in page.read_text()
    assert (tmp_path / "method_letters.svg").is_file()


def test_a_pool_of_letters_draws_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    options = GlyphOptions(classes=3, size=32, scripts=("greek",))
    pool = GlyphPool(tmp_path / "pool", options, 300)
    assert list(pool.draw()) == [0, 256, 300]
    letters = [letter for letter, _ in options.letters()]
    assert pool.labels[:4].tolist() == [0, 1, 2, 0]
    np.testing.assert_array_equal(pool.array[299], np.asarray(render_glyph(letters[299 % 3], options, 299 // 3)[0]))
    assert list(GlyphPool(tmp_path / "pool", options, 300).draw()) == [300]


@pytest.mark.nightly
def test_pre_training_that_is_killed_goes_on_and_writes_weights_that_train_takes(tmp_path: Path) -> None:
    out = tmp_path / "resnet50.safetensors"
    command = [sys.executable, str(METHOD / "pretrain.py"), "--out", str(out), "--size", "32", "--images", "320"]
    command += ["--batch-size", "32", "--scripts", "greek"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    pool = tmp_path / "resnet50.safetensors.work" / "images.npy"
    while not pool.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on with" in done.stderr
    said = json.loads(out.with_name(f"{out.name}.json").read_text())
    assert (said["images_seen"], said["val_images"], said["classes"]) == (320, 64, 20)
    assert not pool.exists()
    told: list[str] = []
    rrrnet.draw_glyphs(tmp_path / "letters", GlyphOptions(classes=2, per_class=12, size=32))
    flags: rrrnet.TrainingOptions = {"method": "reduced", "weights": out, "size": 32, "epochs": 1}
    rrrnet.train(tmp_path / "letters", tmp_path / "net", say=told.append, **flags)
    assert any(re.fullmatch(r"starting from resnet50\.safetensors.*, 2 tensors fresh", line) for line in told), told


def test_every_command_finds_what_benchmarks_share_wherever_it_is_called_from() -> None:
    for path in sorted(METHOD.glob("*.py")):
        before, found, _ = path.read_text().partition("\nfrom rrrbench")
        assert not found or "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))" in before, path
