"""The first hour: what is typed, how what was printed is kept, and a shell with a service in it."""

import os
from pathlib import Path

import pytest

import first_hour
from first_hour import Step
from rrrbench import walk
from rrrbench.walk import Shell, Typed, new_user, own_images_commands

README = (Path(__file__).parents[2] / "README.md").read_text()
RRR = """#!/bin/sh
case $1 in
  serve)
    trap 'echo stopped; exit 0' INT
    echo starting
    echo "ready: http://127.0.0.1:3000"
    while :; do sleep 0.05; done ;;
  train) echo "no $HF_ENDPOINT in $PWD" >&2; exit 3 ;;
  *) echo "$@" ;;
esac
"""


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A `rrr` that only talks, and one photo of each animal."""
    monkeypatch.setattr(walk, "PHOTOS_EACH", 1)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rrr").write_text(RRR)
    (tmp_path / "bin" / "rrr").chmod(0o755)
    return {"PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"}


def test_a_shell_keeps_what_is_printed_and_lets_the_service_run(tmp_path: Path, variables: dict[str, str]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with new_user(work, variables) as shell:
        assert sorted(path.name for path in shell.folder.rglob("*.jpg")) == [
            *("cat.jpg", "cat_001.jpg", "dog_001.jpg", "owl_001.jpg")
        ]
        failed = shell.type("rrr train --data my_images")
        assert (failed.code, failed.output.startswith("no http://127.0.0.1:")) == (3, True)
        started = shell.type("rrr serve artifacts/repository")
        assert (started.code, started.output.splitlines()[0]) == (0, "starting")
        assert shell.type("rrr predict cat.jpg").output.startswith("predict cat.jpg")
        assert (stopped := shell.interrupt()).code == 0
        assert stopped.output == "stopped\n"


def test_where_the_default_port_is_taken_every_command_gets_another(tmp_path: Path, variables: dict[str, str]) -> None:
    shell = Shell(tmp_path, os.environ | variables)
    shell._port = 4321
    assert shell.type("rrr bench --url http://127.0.0.1:3000").output == "bench --url http://127.0.0.1:4321\n"
    assert shell.type("rrr predict cat.jpg").output == "predict cat.jpg --url http://127.0.0.1:4321\n"


def test_all_that_is_typed_begins_with_what_is_there_and_holds_the_readme_in_order() -> None:
    steps = first_hour.steps(README)
    own = own_images_commands(README)
    assert [step.command for step in steps if step.code == 0 and step.command in own] == own
    assert sum(step.code != 0 for step in steps) == 4


def test_what_was_printed_has_no_path_of_the_machine_and_is_folded_and_cut(tmp_path: Path) -> None:
    assert first_hour.shown(f"checkpoint: {tmp_path}/photos/a\n", tmp_path) == "checkpoint: ~/photos/a"
    assert [len(line) for line in first_hour.shown("x" * 250, tmp_path).splitlines()] == [100, 100, 50]
    lines = first_hour.shown("\n".join(map(str, range(100))), tmp_path).splitlines()
    assert lines[11:14] == ["11", "...", "90"]


def test_the_page_begins_with_what_to_type_and_tells_of_each_step(tmp_path: Path) -> None:
    title, says, means = first_hour.README_STEPS["rrr predict"]
    good = Step(title, says, "rrr predict cat.jpg", means)
    kept = [(good, Typed(good.command, 0, "cat 99 %\n", 71.2)), (first_hour.BEFORE[1], Typed("", 3, "rrr: no\n", 0.4))]
    page = first_hour.page(kept, tmp_path)
    assert page.splitlines()[0] == "# The first hour"
    assert f"{'rrr predict cat.jpg':<74}# 1 min 11 s\n" in page
    assert "```\n$ rrr predict cat.jpg\ncat 99 %\n```\n\n1 min 11 s. One row for each photo." in page
    assert "rrr: no\n```\n\n0.4 s, exit code 3. Wrong input" in page
