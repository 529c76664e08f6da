"""The whole command, with real child processes: it goes on, it survives a crash, Ray gives the same table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rrrnet.glyphs.generate import generate_glyphs
from rrrnet.glyphs.options import GlyphOptions

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]
RRR = (sys.executable, "-c", "import typer; from rrrnet.commands.sweep import sweep; typer.run(sweep)")
FLAGS = ("--methods", "reduced,ensemble", "--seeds", "1", "--weights", "none", "--size", "32", "--members", "2")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folders = [tmp_path_factory.mktemp("data") / name for name in ("greek", "latin")]
    for folder in folders:
        generate_glyphs(folder, GlyphOptions(classes=2, per_class=12, size=32, scripts=(folder.name,)))
    return [str(folder) for folder in folders]


def sweep(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*RRR, *words], capture_output=True, text=True, timeout=300)


def accuracies(out: Path) -> dict[str, float]:
    cells = sorted((out / "cells").glob("*/*seed?.json"))
    return {f"{path.parent.name}/{path.stem}": json.loads(path.read_text())["accuracy"] for path in cells}


def test_a_sweep_ends_with_a_table_and_goes_on_where_it_is_asked_again(letters: list[str], tmp_path: Path) -> None:
    words = [*letters, "--out", str(tmp_path / "out"), *FLAGS, "--epochs", "1"]
    done = sweep(*words, "--cores", "1")
    assert done.returncode == 0, done.stderr
    assert "4 cells: 0 are measured already, 4 to train" in done.stderr
    assert "ensemble - reduced" in done.stdout
    assert "next: rrr train --data" in done.stdout
    assert len(accuracies(tmp_path / "out")) == 4
    again = sweep(*words)
    assert again.returncode == 0
    assert "4 cells: 4 are measured already, 0 to train" in again.stderr
    by_ray = sweep(*letters, "--out", str(tmp_path / "ray"), *FLAGS, "--epochs", "1", "--ray", "local", "--cores", "1")
    assert by_ray.returncode == 0, by_ray.stderr
    assert accuracies(tmp_path / "ray").keys() == accuracies(tmp_path / "out").keys()


def test_a_child_that_is_killed_loses_its_cell_alone(letters: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*RRR, letters[0], "--out", str(out), *FLAGS, "--epochs", "30"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    stage = out / "models" / "greek" / ".reduced-seed0"
    deadline = time.monotonic() + 120
    training: list[psutil.Process] = []
    while not training and time.monotonic() < deadline:
        time.sleep(0.2)
        children = psutil.Process(process.pid).children()
        training = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    os.kill(training[0].pid, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "greek/reduced-seed0 failed: its process was ended by SIGKILL" in said
    assert accuracies(out).keys() == {"greek/ensemble-seed0"}
    assert not stage.exists()
