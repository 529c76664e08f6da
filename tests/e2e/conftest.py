"""Real letters and an ensemble that has learnt them, as a cascade and as all its members; made once for the nightly."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.service import RRR

CLASSES, SIZE = 8, 64
TARGET = "openvino-fp32"
CASCADE, ALL = "cascade", "all"


@dataclass(frozen=True)
class Letters:
    """What the commands made.

    Attributes:
        root: where it lies, the letters that were learnt in `letters`.
        repository: of two models of one checkpoint: `cascade`, and `all` without a cascade and not calibrated.
        draw: draws further letters of the same kind: the folder's name, how many of each, and the script.
    """

    root: Path
    repository: Path
    draw: Callable[..., list[Path]]

    @property
    def data(self) -> Path:
        """The letters that were learnt, validated and tested on."""
        return self.root / "letters"

    def engine(self, name: str) -> Path:
        """An engine's folder."""
        return self.root / "engines" / name


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Letters:
    root = tmp_path_factory.mktemp("letters")

    def rrr(*words: str | Path) -> None:
        done = subprocess.run([str(RRR), *map(str, words)], check=False, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr

    def draw(name: str, per_class: int, script: str = "latin") -> list[Path]:
        seed = sum(name.encode())
        options = ["--classes", str(CLASSES), "--per-class", str(per_class), "--size", str(SIZE), "--seed", str(seed)]
        rrr("data", "glyphs", root / name, *options, "--script", script)
        return sorted((root / name / "images").iterdir())

    made = Letters(root, root / "repository", draw)
    draw("letters", 500)
    learning = ["--members", "4", "--weights", "none", "--size", str(SIZE), "--epochs", "6", "--test-fraction", "0.2"]
    rrr("train", "--data", made.data, "--out", root / "model", *learning)
    plain = ["--no-cascade", "--no-calibrate"]
    for name, options in ((CASCADE, ["--cascade"]), (ALL, plain)):
        rrr("build", root / "model", "--target", TARGET, *options, "--out", made.engine(name))
    names = ["--name", CASCADE, "--name", ALL]
    rrr("repository", made.engine(CASCADE), made.engine(ALL), *names, "--out", made.repository)
    return made


@pytest.fixture(scope="session")
def cascade_manifest(letters: Letters) -> dict[str, Any]:
    """Of the engine with the cascade."""
    document: dict[str, Any] = json.loads((letters.engine(CASCADE) / "manifest.json").read_text())
    assert document["cascade"], document["cascade_reason"]
    return document
