"""The long tests, whole: their bounds hold. What they measured is left in artifacts/long."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEASURED = Path("artifacts") / "long"


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where the commands keep networks that they share, made anew."""
    networks = MEASURED / "networks"
    shutil.rmtree(ROOT / networks, ignore_errors=True)
    return networks


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "words",
    [["fuzz"], ["overload"], ["soak"], ["reload", "--reloads", "16"], ["tritons"], ["chaos"]],
    ids=lambda words: words[0],
)
def test_the_bounds_hold(words: list[str], cache: Path) -> None:
    options = ["--cache", str(cache), "--save", str(MEASURED / f"{words[0]}.json")]
    command = [sys.executable, "tests/long", *words, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
