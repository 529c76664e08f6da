"""The long tests, whole: their bounds hold. What they measured is left in artifacts/long."""

import subprocess
import sys
from pathlib import Path

import pytest

LONG = Path(__file__).parent
MEASURED = LONG.parents[1] / "artifacts" / "long"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that the commands share."""
    return tmp_path_factory.mktemp("long")


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "words", [["fuzz"], ["overload"], ["soak"], ["reload", "--reloads", "16"], ["chaos"]], ids=lambda words: words[0]
)
def test_the_bounds_hold(words: list[str], cache: Path) -> None:
    command = [sys.executable, str(LONG), *words, "--cache", str(cache), "--out", str(MEASURED / f"{words[0]}.json")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
