"""`rrr predict FOLDER --out FILE`: one row for each image, whatever happens."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet
import pytest

from rrrbuild.repository_document import read_repository
from rrrserve.batch.listing import File, Listing
from rrrserve.cli import run

Capture = pytest.CaptureFixture[str]
COLUMNS = [
    *("path", "label", "probability", "agreement", "entropy", "members_used", "effort", "unsure", "error", "truth"),
    *("label_2", "probability_2", "label_3", "probability_3"),
]
# The command line in a process of its own, to be killed.
RRR = (sys.executable, "-c", "from rrrserve.cli import main; main()")


@pytest.fixture(scope="session")
def engine(repository: Path) -> str:
    """An ensemble of 3 members."""
    return str(read_repository(repository).models[0].engine)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, png: Callable[[int], bytes]) -> Path:
    """Two classes of four images, and what lies about in folders."""
    root = tmp_path_factory.mktemp("photos")
    for number, label in enumerate(("red", "green")):
        (root / label / "deeper").mkdir(parents=True)
        for seed in range(4):
            (root / label / "deeper" / f"{seed}.png").write_bytes(png(4 * number + seed))
    (root / "red" / "damaged.png").write_bytes(png(0)[:60])
    (root / "red" / "old.gif").write_bytes(b"GIF89a" + bytes(20))
    (root / "README.txt").write_text("my photos")
    (root / "Thumbs.db").write_bytes(b"junk")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._0.png").write_bytes(png(0))
    (root / "red" / ".hidden.png").write_bytes(png(0))
    return root


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, png: Callable[[int], bytes]) -> Path:
    """1 500 files."""
    root = tmp_path_factory.mktemp("many")
    for number in range(1500):
        (root / f"{number:05}.png").write_bytes(png(number % 8))
    return root


def rows_of(table: Path) -> list[dict[str, Any]]:
    if table.suffix == ".parquet":
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(table).to_pylist()
        return rows
    if table.suffix == ".jsonl":
        return [json.loads(line) for line in table.read_text().splitlines()]
    with table.open(newline="") as file:
        header, *lines = csv.reader(file)
    kinds: dict[str, Callable[[str], Any]] = dict.fromkeys(("probability", "agreement", "entropy"), float)
    kinds |= {"members_used": int, "unsure": "true".__eq__}
    return [
        {
            name: kinds.get(name.rstrip("_23"), str)(cell) if cell else None
            for name, cell in zip(header, line, strict=True)
        }
        for line in lines
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_picture_gets_one_row_and_nothing_is_passed_over_in_silence(
    kind: str, folder: Path, engine: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / f"found.{kind}"
    assert run(["predict", str(folder), "--engine", engine, "--out", str(out)]) == 0
    rows = rows_of(out)
    assert [list(row) for row in rows] == [COLUMNS] * 10
    assert [row["path"] for row in rows] == [
        *(f"{folder}/green/deeper/{seed}.png" for seed in range(4)),
        f"{folder}/red/damaged.png",
        *(f"{folder}/red/deeper/{seed}.png" for seed in range(4)),
        f"{folder}/red/old.gif",
    ]
    good = [row for row in rows if row["error"] is None]
    assert len(good) == 8
    assert all(row["label"] in ("red", "green", "blue") and row["truth"] in row["path"] for row in good)
    assert all(row["probability"] >= row["probability_2"] >= row["probability_3"] for row in good)
    assert {(row["members_used"], row["effort"], row["unsure"]) for row in good} == {(3, "full", False)}
    assert [row["error"] for row in rows if row["error"]] == [
        "the PNG data are cut short (truncated_image)",
        "GIF: the bytes are not one of JPEG, PNG, WEBP, AVIF, HEIC (judged by their first bytes) (unsupported_image)",
    ]
    said = capsys.readouterr()
    assert "2 got no answer, and a row with the reason: 1 truncated_image, 1 unsupported_image" in said.err
    assert "passed over what systems leave beside images: 1 Thumbs.db, 1 __MACOSX/" in said.err
    assert "not taken: 1 hidden pictures" in said.err
    assert "no rows: 1 files that are no pictures" in said.err
    assert f"written: {out} (10 rows)" in said.out
    assert list(tmp_path.iterdir()) == [out], "nothing else is left"


def test_it_ends_with_the_figures_of_rrr_evaluate(folder: Path, engine: str, tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for label in ("red", "green"):
        (data / label).symlink_to(folder / label)
    assert run(["evaluate", engine, "--data", str(data), "--split", "all", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert run(["predict", str(data), "--engine", engine, "--out", str(tmp_path / "a.csv"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["images"] == 8
    assert {name: evaluated[name] for name in scores if name != "every"} == {
        name: value for name, value in scores.items() if name != "every"
    }


def test_a_service_gives_the_same_rows_as_its_engine(
    service: Any, folder: Path, engine: str, tmp_path: Path, capsys: Capture
) -> None:
    found = {}
    for name, who in (("engine", engine), ("url", service.url)):
        out = tmp_path / f"{name}.jsonl"
        assert run(["predict", str(folder), f"--{name}", who, "--out", str(out)]) == 0
        found[name] = rows_of(out)
    for one, other in zip(*found.values(), strict=True):
        numbers = [name for name in COLUMNS if isinstance(one[name], float)]
        assert [one[name] for name in numbers] == pytest.approx([other[name] for name in numbers], abs=1e-4)
        assert {name: one[name] for name in COLUMNS if name not in (*numbers, "error")} == {
            name: other[name] for name in COLUMNS if name not in (*numbers, "error")
        }
        assert (one["error"] or "")[-20:] == (other["error"] or "")[-20:]
    assert capsys.readouterr().out.count("8 labelled images") == 2


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*RRR, "predict", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(process: subprocess.Popen[str], growing: Path, count: int) -> None:
    while not growing.exists() or growing.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_killed_and_resumed_it_has_the_same_rows_none_twice(
    kind: str, many: Path, engine: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / f"found.{kind}"
    growing = out if kind == "csv" else tmp_path / "found.parquet.partial.jsonl"
    command = (str(many), "--engine", engine, "--out", str(out))
    process = start(*command)
    wait_for_rows(process, growing, 100)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert process.communicate()[0] == ""
    with growing.open("ab") as file:  # as if the kill had torn a row
        file.write(b'"a\n' if kind == "csv" else b'{"path": "a')
    assert run(["predict", *command]) == 2
    assert f"{growing} exists: --resume goes on after its last row" in capsys.readouterr().err
    assert run(["predict", *command, "--resume"]) == 0
    assert "going on after " in capsys.readouterr().err
    rows = rows_of(out)
    assert [row["path"] for row in rows] == sorted(str(path) for path in many.iterdir())
    # As an undisturbed run gives them: eight pictures in turns.
    assert len({tuple(list(row.values())[1:]) for row in rows}) == 8
    assert run(["predict", *command, "--resume"]) == 0
    assert rows_of(out) == rows


def test_ctrl_c_is_exit_130_and_loses_nothing(many: Path, engine: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "found.jsonl"
    command = (str(many), "--engine", engine, "--out", str(out))
    process = start(*command)
    wait_for_rows(process, out, 50)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    written = rows_of(out)  # whole lines
    assert f"stopped: {out} has {len(written)} whole rows, {1500 - len(written)} files to go" in said
    assert "Traceback" not in said
    assert said.splitlines()[-1].endswith("--resume")
    assert run(["predict", *command, "--resume"]) == 0
    assert [row["path"] for row in rows_of(out)] == sorted(str(path) for path in many.iterdir())
    assert rows_of(out)[: len(written)] == written


@pytest.mark.parametrize(("name", "content"), [("notes.csv", "buy milk"), ("notes.csv", "a,b\n"), ("x.jsonl", "{}\n")])
def test_a_file_that_is_no_table_of_ours_is_left_alone(
    name: str, content: str, folder: Path, engine: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    for resume, code in (([], 2), (["--resume"], None)):
        ended = run(["predict", str(folder), "--engine", engine, "--out", str(tmp_path / name), *resume])
        assert ended in ((code,) if code else (2, 3))
    assert (tmp_path / name).read_text() == content


def test_rows_of_another_engine_or_other_columns_are_not_gone_on_with(
    many: Path, engine: str, repository: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "found.jsonl"
    command = ["predict", str(many), "--out", str(out)]
    process = start(*command[1:], "--engine", engine)
    wait_for_rows(process, out, 10)
    process.kill()
    process.communicate()
    assert run([*command, "--engine", str(read_repository(repository).models[1].engine), "--resume"]) == 2
    assert "the rows so far are of another run (model 'tiny', now 'single'" in capsys.readouterr().err
    assert run([*command, "--engine", engine, "--resume", "--top-k", "1"]) == 2
    assert "give the same --top-k" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", "--out", "a.csv"], 2, "nowhere does not exist: give a folder, a glob in quotes, a LIST.txt"),
        (["*.nothing", "--out", "a.csv"], 2, "*.nothing matches nothing"),
        ([".", "--out", "a.xls"], 2, "--out is a.xls: its name must end in .parquet, .csv, .jsonl"),
        ([".", "--out", "no/a.csv"], 2, "there is no folder no"),
        ([".", "--out", "a.csv", "--url", "http://127.0.0.1:9"], 2, "--engine and --url both say who answers"),
        ([".", "--out", "a.csv", "--members"], 2, "--members is not for tables"),
        ([".", "--resume"], 2, "add --out FILE.csv"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], code: int, message: str, engine: str, tmp_path: Path, capsys: Capture, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["predict", *arguments, "--engine", engine]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_lists_name_their_files_which_get_a_row_whatever_they_are(
    folder: Path, engine: str, tmp_path: Path, monkeypatch: Any
) -> None:
    lines = f"{folder}/red/deeper/0.png\r\n\n{folder}/README.txt\n{folder}/missing.png\n{folder}/red/deeper/0.png\n"
    (tmp_path / "list.txt").write_text(lines)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    found = []
    for number, source in enumerate((str(tmp_path / "list.txt"), "-")):
        out = tmp_path / f"{number}.jsonl"
        assert run(["predict", source, "--engine", engine, "--out", str(out)]) == 0
        found.append(rows_of(out))
    assert found[0] == found[1]
    assert [Path(row["path"]).name for row in found[0]] == ["0.png", "README.txt", "missing.png"]
    assert [row["error"] for row in found[0]][::2] == [None, "the file is missing (missing_image)"]
    assert "(unsupported_image)" in found[0][1]["error"]


def test_the_label_is_the_outermost_folder_that_is_named_like_one_and_no_file_comes_twice(
    folder: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(folder.parent)

    def listed(*sources: str) -> list[File]:
        files = Listing(("red", "deeper"))
        assert list(files.add(sources))[-1] == len(files)
        return list(files)

    name = folder.name
    assert listed(f"{name}/red/deeper", f"{name}/*/deeper/0.png", f"./{name}")[:6] == [
        *(File(f"{name}/red/deeper/{seed}.png", None, named=False) for seed in range(4)),
        File(f"{name}/green/deeper/0.png", "deeper", named=False),
        File(f"{name}/README.txt", None, named=False),
    ]
    assert {file.truth for file in listed(name) if "/red/" in file.path} == {"red"}
    assert len({file.path for file in listed(name, f"{name}/**/*", f"./{name}/")}) == len(listed(name))


def test_a_uri_is_read_through_pyarrow_with_the_same_rows(folder: Path, engine: str, tmp_path: Path) -> None:
    found = []
    for number, source in enumerate((str(folder), f"file://{folder}")):
        out = tmp_path / f"{number}.jsonl"
        assert run(["predict", source, "--engine", engine, "--out", str(out)]) == 0
        found.append({row["path"].removeprefix("file://"): {**row, "path": ""} for row in rows_of(out)})
    # Object stores have no hidden files.
    hidden = found[1].pop(f"{folder}/red/.hidden.png")
    assert hidden["label"] in ("red", "green", "blue")
    assert found[1] == found[0]
    assert run(["predict", f"file://{folder}/nowhere", "--engine", engine, "--out", str(tmp_path / "a.csv")]) == 2


def test_a_name_that_is_not_utf8_is_a_row_with_the_reason(
    engine: str, png: Callable[[int], bytes], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.png")).write_bytes(png(0))
    assert run(["predict", str(tmp_path / "in"), "--engine", engine, "--out", str(tmp_path / "a.csv")]) == 1
    (row,) = rows_of(tmp_path / "a.csv")
    assert row["path"].endswith("caf\\xe9.png")
    assert row["error"].startswith("named not in UTF-8")


class _Busy(BaseHTTPRequestHandler):
    """Has no time for the first two requests, and takes four images at most."""

    asked: list[int]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._say(200, {"default": "m", "models": [{"name": "m", "labels": ["red", "green"]}]})

    def do_POST(self) -> None:
        count = self.rfile.read(int(self.headers["Content-Length"])).count(b'name="images"')
        self.asked.append(count)
        if len(self.asked) <= 2:
            return self._say(429, {"error": {"code": "overloaded", "message": "busy"}})
        if count > 4:
            return self._say(413, {"error": {"code": "batch_too_large", "message": "most is 4"}})
        item = {
            "predictions": [{"label": "red", "probability": 0.75}, {"label": "green", "probability": 0.25}],
            "uncertainty": {"agreement": 1.0, "entropy": 0.5, "mutual_information": 0.0},
            "effort": "full",
            "members_used": 3,
            "partial": False,
            "unsure": False,
        }
        return self._say(200, {"results": [item] * count})

    def _say(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def busy() -> Iterator[tuple[str, list[int]]]:
    """The address of a busy service, and how many images it was asked about each time."""
    asked: list[int] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Busy", (_Busy,), {"asked": asked}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_busy_service_is_asked_again_and_smaller_where_it_takes_less(
    busy: tuple[str, list[int]], many: Path, tmp_path: Path
) -> None:
    url, asked = busy
    (tmp_path / "list.txt").write_text("".join(f"{many}/{number:05}.png\n" for number in range(40)))
    out = tmp_path / "a.csv"
    assert run(["predict", str(tmp_path / "list.txt"), "--url", url, "--out", str(out)]) == 0
    assert [row["label"] for row in rows_of(out)] == ["red"] * 40
    assert sum(count for count in asked[2:] if count <= 4) == 40


def test_a_service_that_goes_away_leaves_what_was_answered(many: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(["predict", str(many), "--url", "http://127.0.0.1:9", "--out", str(tmp_path / "a.csv")]) == 1
    assert "start the service with rrr serve" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
