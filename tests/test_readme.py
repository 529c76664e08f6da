"""README: its commands exist and run."""

import re
from pathlib import Path

import pytest
from rich.text import Text
from typer.main import get_command

from rrrbench.walk import new_user, own_images_commands
from rrrbuild import machine
from rrrserve.cli import make_app

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
# What each command says, in this order.
SAID = {
    "rrr train": (
        "120 images in 3 classes: 87 to train on, 9 to validate, 24 to test",
        "NO PRE-TRAINED WEIGHTS, TRAINING STARTS FROM SCRATCH",
        "(no answer within 4 s|timed out)",
        r"chosen: 64 pixels, \d+ epochs",
        r"about \d",
        "scoring on the test images",
        r"training: (?P<steps>\d+) of (?P=steps),",
        "checkpoint: artifacts/models/mine",
    ),
    "rrr build": ("trying .*onnxruntime-fp32", "taking ", "verifying against PyTorch", "accuracy"),
    "rrr repository": ("fastest of|only one to compare", "mine"),
    "rrr serve": ("starting Triton", "mine", "ready: http://127.0.0.1:"),
    "curl": ('"name": ?"mine"', '"predictions":', '"label": ?"(cat|dog|owl)"', '"timing_ms":'),
    "rrr predict": ("cat.jpg", "(cat|dog|owl) [0-9.]+%"),
    "rrr bench": ("turns: about", "mine", "written: bench.json"),
    "rrr claims": ("my_claims.yaml",),
    "rrr verify": ("pass",),
    "rrr report": ("written: report.html",),
}


def missing_in(text: str, wanted: tuple[str, ...]) -> str | None:
    """The first of these patterns that does not follow the one before it in a text."""
    start = 0
    for pattern in wanted:
        found = re.compile(pattern).search(text, start)
        if found is None:
            return pattern
        start = found.end()
    return None


def test_the_commands_for_ones_own_images_are_those_that_the_nightly_test_knows() -> None:
    commands = own_images_commands(README)
    assert [command for command in commands if not command.startswith(tuple(SAID))] == []
    assert len(commands) == len(SAID)


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # generous: it trains and builds, beside whatever else runs
def test_the_commands_for_ones_own_images_run_as_written(tmp_path: Path) -> None:
    """Each as it stands, on 3 x 40 photos, a CPU with AVX2 at most, and without a hub that answers."""
    # The second for OpenVINO's kernels, those of the service at least.
    masked = {machine.MASK_VARIABLE: BEYOND_AVX2, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    with new_user(tmp_path, masked) as shell:
        for command in own_images_commands(README):
            typed = shell.type(command)
            assert typed.code == 0, f"{command}:\n{typed.output}"
            (expected,) = (said for name, said in SAID.items() if command.startswith(name))
            assert missing_in(typed.output, expected) is None, f"{command}:\n{typed.output}"
        assert shell.interrupt().code == 0


def test_the_first_hour_was_typed_as_the_readme_says_and_names_no_path_of_a_machine() -> None:
    page = (ROOT / "docs" / "first_hour.md").read_text()
    assert [command for command in own_images_commands(README) if f"$ {command}\n" not in page] == []
    assert re.findall(r"/(?:tmp|root|home|usr|work)/\S*", page) == []


def test_no_word_of_a_help_text_is_taken_for_markup_and_lost() -> None:
    commands = get_command(make_app()).commands.values()  # type: ignore[attr-defined]  # a group has commands
    texts = [
        text for command in commands for text in (command.help, *(option.help for option in command.params)) if text
    ]
    assert len(texts) > 100
    assert [text for text in texts if Text.from_markup(text).plain != text] == []


def test_the_help_page_lists_the_commands_in_the_order_of_the_way() -> None:
    names = list(get_command(make_app()).commands)  # type: ignore[attr-defined]  # a group has commands
    assert set(names) == {
        "data", "advise", "train", "sweep", "adapt", "evaluate", "describe", "audit", "robust", "targets", "build",
        "export", "repository", "tune", "serve", "promote", "predict", "reload", "bench", "claims", "verify", "report",
        "doctor",
    }  # fmt: skip
