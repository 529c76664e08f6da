"""README: its commands exist and run."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from rrrbuild import machine
from rrrserve.cli import make_app, run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("  #")[0].strip() for line in README.splitlines() if re.match(r"(rrr|make) ", line)]


def test_every_link_leads_to_a_file() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 7
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_target_is_in_the_makefile(command: str) -> None:
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


BEYOND_AVX2 = "avx_vnni,avx512f,avx512_vnni,avx512_bf16,amx_tile,amx_bf16,amx_int8"


@pytest.mark.nightly
def test_the_commands_for_ones_own_images_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], start_service: Any
) -> None:
    """Each as it stands, on tiny images and a CPU with AVX2 at most; only what takes long or for ever is shortened."""
    monkeypatch.setenv(machine.MASK_VARIABLE, BEYOND_AVX2)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # for OpenVINO's kernels, those of the service at least
    monkeypatch.chdir(tmp_path)
    assert run(["data", "glyphs", "my_images", "--classes", "3", "--per-class", "8", "--size", "32"]) == 0
    shutil.copy(next(tmp_path.glob("my_images/images/*")), "cat.jpg")
    own = README.split("## Your own images")[1].split("```")[1]
    lines = [line.split("  #")[0].strip() for line in own.splitlines() if line.startswith("rrr ")]
    names = [shlex.split(line)[1] for line in lines]
    assert names == ["train", "build", "repository", "serve", "predict", "bench", "claims", "verify", "report"]
    extra = {
        "train": ["--weights", "none", "--epochs", "1", "--size", "32"],
        "bench": ["--seconds", "0.2", "--warm-up", "0", "--rounds", "1"],
        "verify": ["--seconds", "30"],
    }
    url = "http://127.0.0.1:3000"
    for name, line in zip(names, lines, strict=True):
        words = shlex.split(line)[1:]
        if name == "serve":
            url = start_service(words[1], "--port", "0").url
            extra["predict"] = ["--url", url]
            continue
        words = [word.replace("http://127.0.0.1:3000", url) for word in words]
        assert run([*words, *extra.get(name, [])]) == 0, capsys.readouterr().err


def test_the_help_page_lists_the_commands_in_the_order_of_the_way() -> None:
    names = list(get_command(make_app()).commands)  # type: ignore[attr-defined]  # a group has commands
    assert set(names) == {
        "data", "train", "evaluate", "describe", "targets", "build", "repository", "tune", "serve", "predict",
        "reload", "bench", "claims", "verify", "report", "doctor",
    }  # fmt: skip
