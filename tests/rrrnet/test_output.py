"""Progress without a terminal: plain lines, and never a long silence."""

import time

import pytest

from rrrnet import output


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


def test_a_text_that_changes_all_the_time_does_not_silence_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with output.Working("asking") as working:
        said = ""
        deadline = time.monotonic() + 30
        while "7 of 9 images asked ... " not in said and time.monotonic() < deadline:
            working.update("7 of 9 images asked", said=False)
            time.sleep(0.005)
            said += capsys.readouterr().err
    assert "7 of 9 images asked ... " in said
