"""Progress, the line of the next step, and tables: nothing cut, nothing broken, and never a long silence."""

import io
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Column, Table

from rrrnet import output
from rrrnet.tables import print_table


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LINE_EVERY_SECONDS", 0.05)


def wait_for_lines(capsys: pytest.CaptureFixture[str], count: int) -> list[str]:
    lines: list[str] = []
    deadline = time.monotonic() + 30
    while len(lines) < count and time.monotonic() < deadline:
        time.sleep(0.05)
        lines += capsys.readouterr().err.splitlines()
    return lines


def test_a_bar_without_a_terminal_is_a_line_now_and_then_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_bar() as bar:
        task = bar.add_task("training", total=None, text="reading images")
        assert wait_for_lines(capsys, 2)[0] == "training: 0:00:00 passed, reading images"
        bar.update(task, total=780, completed=120, text="epoch 10")
        assert "training: 120 of 780, 0:00:0" in wait_for_lines(capsys, 3)[-1]
        bar.update(task, completed=780)
    assert capsys.readouterr().err.splitlines()[-1].startswith("training: 780 of 780, ")


def test_work_without_a_count_says_what_it_still_does(capsys: pytest.CaptureFixture[str]) -> None:
    with output.Working("openvino-fp32: starting") as working:
        working.update("openvino-fp32: verifying")
        assert "openvino-fp32: verifying ... 0 s" in wait_for_lines(capsys, 2)


def test_nothing_is_said_of_work_that_ends_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LINE_EVERY_SECONDS", 30.0)
    with output.Working("starting"), output.progress_bar() as bar:
        bar.add_task("training", total=None, text="")
    assert capsys.readouterr().err == ""


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, emoji=False)


def written(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 60])
def test_a_bar_in_a_narrow_terminal_cuts_no_number(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "messages", terminal(width))
    text = "epoch 300  loss 0.693  accuracy 0.512  val 0.480"
    with output.progress_bar() as bar:
        bar.update(bar.add_task("measuring", total=178000, text=text), completed=120000)
        drawn = "".join(segment.text for segment in output.messages.render(bar.get_renderable()))
    assert "120000/178000" in drawn
    assert text in drawn
    assert "…" not in drawn
    assert all(len(line) <= width for line in drawn.splitlines())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("rrr", "build", Path("a folder/ab's")), """next: rrr build 'a folder/ab'"'"'s'"""),
        (("curl", "-T", "IMAGE", "http://[::1]:3000"), "next: curl -T IMAGE 'http://[::1]:3000'"),
        (("rrr", "build", "[bold]:key:"), "next: rrr build '[bold]:key:'"),
        (("rrr", "build", "two\nlines"), r"next: rrr build $'two\x0alines'"),
        (("rrr", "build", "\udcff'\\"), r"next: rrr build $'\xff\x27\x5c'"),
        (("rrr", "build", "long " * 50), f"next: rrr build '{'long ' * 50}'"),
    ],
)
def test_the_next_step_is_one_line_that_a_shell_takes_as_it_stands(words: tuple[object, ...], line: str) -> None:
    for console in (terminal(), Console(file=io.StringIO(), width=80)):
        output.next_step(*words, to=console)
        assert written(console) == [line]


def test_a_shell_reads_back_what_was_quoted() -> None:
    name = "it's [a] \\ \n \t \x1b ü \udcff"
    done = subprocess.run(["bash", "-c", f"printf %s {output.quoted(name)}"], capture_output=True, check=True)
    assert done.stdout == name.encode("utf-8", "surrogateescape")


LONG = "a-name-of-a-model-that-somebody-thought-of-late-in-the-evening"


def models_table(*names: str) -> Table:
    table = Table("model", "target", "backend", "members", "image", "route", title=r"a path/with spaces \[x]")
    for name in names:
        table.add_row(name, "openvino-fp32", "python", "8", "224 x 224", f"/v1/models/{name[:9]}/predict")
    return table


def test_a_table_that_fits_is_drawn_as_it_is() -> None:
    print_table(models_table("mine"), to=(console := terminal()))
    title, header, _, row = written(console)
    assert title == "a path/with spaces [x]"
    assert header == "model  target         backend  members  image      route"
    assert row == "mine   openvino-fp32  python   8        224 x 224  /v1/models/mine/predict"


def test_a_table_in_a_pipe_is_as_wide_as_its_cells() -> None:
    print_table(models_table(LONG), to=(console := Console(file=io.StringIO(), width=80)))
    row = f"{LONG}  openvino-fp32  python   8        224 x 224  /v1/models/a-name-of/predict"
    assert written(console)[-1] == row


def test_a_name_that_is_too_long_for_the_terminal_stands_above_its_rows() -> None:
    print_table(models_table(LONG, LONG, "b"), to=(console := terminal()))
    lines = written(console)
    assert lines[1] == LONG
    assert lines.count(LONG) == 1
    assert lines[-2:] == ["b", "openvino-fp32  python   8        224 x 224  /v1/models/b/predict"]
    assert all(len(line) <= 80 for line in lines)


def test_text_wraps_between_words_and_a_column_that_may_not_wrap_does_not() -> None:
    table = Table("claim", Column("measured", no_wrap=True))
    table.add_row("the ensemble answers at least three times as fast as the ResNet152 it came from", "5.6 (5.5 to 5.7)")
    print_table(table, to=(console := terminal(64)))
    assert written(console)[2:] == [
        "the ensemble answers at least three times as    5.6 (5.5 to 5.7)",
        "fast as the ResNet152 it came from",
    ]


def test_a_table_whose_words_do_not_fit_becomes_lines_of_which_none_is_broken() -> None:
    table = Table("check", "folder", "what to do")
    table.add_row("disk", LONG + "/" + LONG, "free [bold]some[/bold] space")
    print_table(table, to=(console := terminal()))
    assert written(console) == ["check       disk", f"folder      {LONG}/{LONG}", "what to do  free some space", ""]


def test_a_text_that_changes_all_the_time_does_not_silence_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with output.Working("asking") as working:
        said = ""
        deadline = time.monotonic() + 30
        while "7 of 9 images asked ... " not in said and time.monotonic() < deadline:
            working.update("7 of 9 images asked", said=False)
            time.sleep(0.005)
            said += capsys.readouterr().err
    assert "7 of 9 images asked ... " in said
