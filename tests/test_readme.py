"""README: its commands exist and run, its figures come from a file."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from rrrserve.cli import make_app, run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
COMMANDS = [line.split("  #")[0].strip() for line in README.splitlines() if re.match(r"(rrr|make) ", line)]


def test_the_figures_are_those_of_the_result_file() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = README.split(module.BEGIN)[1].split(module.END)[0].strip()
    assert written == module.figures(json.loads(RESULT.read_text()))


def test_every_link_leads_to_a_file() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 7
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_target_is_in_the_makefile(command: str) -> None:
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_commands_for_ones_own_images_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each as it stands, on tiny images; only what would take long or run for ever is shortened."""
    monkeypatch.chdir(tmp_path)
    assert run(["data", "glyphs", "my_images", "--classes", "3", "--per-class", "8", "--size", "32"]) == 0
    own = README.split("## Your own images")[1].split("```")[1]
    lines = [line.split("  #")[0].strip() for line in own.splitlines() if line.startswith("rrr ")]
    assert [shlex.split(line)[1] for line in lines] == ["train", "build", "repository", "serve"]
    extra = {"train": ["--weights", "none", "--epochs", "1", "--size", "32"], "serve": ["--help"]}
    for line in lines:
        words = shlex.split(line.replace("openvino-bf16", "openvino-fp32"))[1:]
        assert run([*words, *extra.get(words[0], [])]) == 0, capsys.readouterr().err


def test_the_help_page_lists_the_commands_in_the_order_of_the_way() -> None:
    names = list(get_command(make_app()).commands)  # type: ignore[attr-defined]  # a group has commands
    assert set(names) == {
        "data", "train", "evaluate", "describe", "targets", "build", "repository", "tune", "serve", "predict",
        "doctor",
    }  # fmt: skip
