"""The commands of benchmarks/method run through on a tiny checkpoint and write their tables into pages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.service import RRR

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.nightly  # it trains a network, and starts five processes that load torch


def run(*words: object) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_figures_of_checkpoints_come_between_the_marks_of_their_pages(tmp_path: Path) -> None:
    letters, net = tmp_path / "letters", tmp_path / "net"
    run(RRR, "data", "glyphs", letters, "--classes", 3, "--per-class", 12, "--size", 32)
    run(RRR, "train", "--data", letters, "--out", net, "--weights", "none", "--members", 2, "--size", 32, "--epochs", 1)
    for name, words in (("audit", []), ("adapt", ["--size", 32, "--epochs", 1, "--cache", tmp_path])):
        page, out = tmp_path / f"{name}.md", tmp_path / f"{name}.json"
        page.write_text((ROOT / "docs" / f"{name}.md").read_text())
        script = ROOT / "benchmarks" / "method" / f"{name}.py"
        run(sys.executable, script, net, *words, "--page", page, "--out", out)
        (case,) = json.loads(out.read_text())[name]
        assert case["name"] == "net"
        del case["command"]  # which has the words as they were typed
        assert str(tmp_path) not in json.dumps(case), "no place of this machine"
        assert f"| `{case['name']}` | " in page.read_text()
        assert "Nothing was run" not in page.read_text()
