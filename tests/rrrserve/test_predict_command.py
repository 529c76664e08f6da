"""`rrr predict` against the running service."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rrrserve.cli import run
from rrrserve.commands import predict


@pytest.fixture
def files(tmp_path: Path, png: Callable[[int], bytes]) -> list[str]:
    """Two images as files."""
    paths = [tmp_path / f"{seed}.png" for seed in range(2)]
    for seed, path in enumerate(paths):
        path.write_bytes(png(seed))
    return [str(path) for path in paths]


def test_json_gives_one_line_for_each_image(service: Any, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", *files, "--url", service.url, "--json", "--top-k", "1", "--members"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == files
    assert [len(line["predictions"]) for line in lines] == [1, 1]
    assert len(lines[0]["members"]) == 3


def test_the_table_shows_labels_of_the_named_model(
    service: Any, files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert run(["predict", files[0], "--url", service.url, "--model", "single"]) == 0
    out = capsys.readouterr().out
    assert "agreement" in out
    assert out.count("%") == 3


def test_bad_files_are_reported_and_good_rows_still_printed(
    service: Any, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, fifo = tmp_path / "a.txt", tmp_path / "fifo"
    text.write_text("no image")
    os.mkfifo(fifo)
    names = [str(tmp_path / "missing"), files[0], str(text), str(tmp_path), str(fifo), files[1]]
    assert run(["predict", *names, "--url", service.url, "--json"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["file"] for line in captured.out.splitlines()] == files
    errors = captured.err.replace("\n", "")
    for name, reason in zip(
        [names[0], names[2], names[3], names[4]],
        ["No such file", "unsupported_image", "not a file", "not a file"],
        strict=True,
    ):
        assert name in errors
        assert reason in errors
    assert "4 of 6 images got no answer" in errors


def test_standard_input_is_read_for_a_dash(
    service: Any,
    png: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(png(0))))
    assert run(["predict", "-", "--url", service.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == "-"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert run(["predict", "-", "--url", service.url]) == 1
    assert "0 bytes" in capsys.readouterr().err


def test_the_table_has_a_column_for_members_sets_and_notes_where_an_answer_tells_of_them() -> None:
    plain = {
        "model": {"members": 8},
        "predictions": [{"label": "[a]", "probability": 0.9}],
        "uncertainty": {"agreement": 1.0, "entropy": 0.25},
        "timing_ms": {"total": 4.26},
    }
    full = plain | {"effort": "full", "members_used": 8, "partial": False, "unsure": False}
    early = full | {"effort": "auto", "members_used": 2, "set": [], "unsure": True}

    def columns(*answers: dict[str, Any]) -> dict[str, list[str]]:
        table = predict._table([("x.png", answer) for answer in answers], 3)
        return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}

    first = ["image", "labels", "agreement", "entropy", "ms"]
    assert list(columns(plain)) == list(columns(full)) == first
    found = columns(full, early, full | {"set_reason": "no scores"})
    assert list(found) == [*first, "used", "set", "note"]
    assert found["labels"][0] == "\\[a] 90.0%"
    assert found["used"] == ["", "2 of 8 (auto)", ""]
    assert found["set"] == ["", "empty", "none"]
    assert found["note"] == ["", "unsure", ""]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--effort", "slow", "--effort is 'slow': expected fast, auto or full"),
        ("--coverage", "95", "--coverage is 95.0: expected a number between 0 and 1, such as 0.95"),
    ],
)
def test_a_bad_effort_or_coverage_is_exit_2(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", "a.png", option, value]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_no_service_is_exit_1_and_says_how_to_start_one(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", files[0], "--url", "http://127.0.0.1:9"]) == 1
    assert "rrr serve" in capsys.readouterr().err


def test_a_url_that_is_none_is_exit_2(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", files[0], "--url", "127.0.0.1:3000"]) == 2
    assert "http://HOST:PORT" in capsys.readouterr().err
