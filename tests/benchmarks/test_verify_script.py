"""`make verify`: where its verdicts go. The judging itself is tested in tests/rrrserve/test_verify_command.py."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import verify

VERDICT: dict[str, Any] = {
    "name": "small",
    "sentence": "it is small",
    "kind": "parameters",
    "verdict": "pass",
    "estimate": 8.0,
    "interval": [8.0, 8.0],
    "unit": "M",
    "evidence": {},
}


@contextmanager
def running(*_: object) -> Iterator[Any]:
    """A server that is not needed."""
    yield SimpleNamespace(url="http://127.0.0.1:1")


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """The files that the command leaves in a project of nothing but empty folders."""
    for name in ("artifacts", "benchmarks/results"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setattr(verify, "ROOT", folder)
    monkeypatch.setattr(verify, "rrr_serve", running)
    monkeypatch.setattr(verify, "prometheus", running)
    monkeypatch.setattr(verify, "judged", lambda *_: [VERDICT])
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["verify.py", *words])
    verify.main()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_verdicts_are_left_in_artifacts_alone_which_git_ignores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written(tmp_path, monkeypatch) == ["artifacts/verify.json"]
    assert json.loads((tmp_path / "artifacts" / "verify.json").read_text())["scraped"] == [VERDICT]


def test_verdicts_are_kept_where_they_are_saved_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "benchmarks/results/verify.json"
    assert written(tmp_path, monkeypatch, "--save", kept) == ["artifacts/verify.json", kept]
    assert (tmp_path / kept).read_text() == (tmp_path / "artifacts" / "verify.json").read_text()
