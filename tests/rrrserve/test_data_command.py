"""`rrr data glyphs` through the real command line."""

import json
from pathlib import Path

import pytest

from rrrnet.data.dataset import read_dataset
from rrrserve.cli import run

TINY = ["--classes", "2", "--per-class", "3", "--size", "32"]


def test_glyphs_makes_a_readable_data_set_and_tells_its_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "letters"
    assert run(["data", "glyphs", str(out), *TINY, "--script", "greek", "--background", "plain", "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    images = read_dataset(out)
    assert summary["path"] == str(out)
    assert (summary["classes"], summary["images"]) == (2, 6)
    assert summary["labels"] == ["U+03C9", "U+03B6"]
    assert summary["sha256"] == images.sha256
    assert summary["command"].endswith("--per-class 3 --size 32 --script greek --background plain")


def test_glyphs_prints_a_table_with_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "glyphs", str(tmp_path / "letters"), *TINY, "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    assert "rrr_glyphs_latin" in printed
    assert json.loads((tmp_path / "letters" / "glyphs.json").read_text())["options"]["seed"] == 5


def test_a_bad_flag_ends_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "glyphs", str(tmp_path / "letters"), "--script", "klingon"]) == 2
    error = capsys.readouterr().err
    assert "--script is klingon: allowed are latin" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "letters").exists()
