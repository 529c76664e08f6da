"""Real letters and an ensemble that has learnt them, as a cascade and as all its members; made once for the nightly."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.service import RRR

CLASSES, SIZE = 6, 64
TARGET = "openvino-fp32"
CASCADE, ALL, BASELINE = "cascade", "all", "resnet152"


@dataclass(frozen=True)
class Letters:
    """What the commands made.

    Attributes:
        root: where it lies, the letters that were learnt in `letters`.
        repository: of a checkpoint as `cascade` and as `all`, without a cascade and not calibrated, and of a
            `resnet152` that knows nothing.
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
    draw("letters", 600)
    common: list[str | Path] = ["--data", made.data, "--weights", "none", "--size", str(SIZE), "--test-fraction", "0.2"]
    rrr("train", "--out", root / "learnt", "--members", "4", "--epochs", "5", *common)
    rrr("train", "--out", root / BASELINE, "--method", "full", "--epochs", "0", *common)
    builds: tuple[tuple[str, str, list[str]], ...] = (
        (CASCADE, "learnt", ["--cascade"]),
        (ALL, "learnt", ["--no-cascade", "--no-calibrate"]),
        (BASELINE, BASELINE, ["--images", "20", "--no-calibrate"]),
    )
    for name, checkpoint, options in builds:
        rrr("build", root / checkpoint, "--target", TARGET, *options, "--out", made.engine(name))
    names = [word for name, _, _ in builds for word in ("--name", name)]
    rrr("repository", *(made.engine(name) for name, _, _ in builds), *names, "--out", made.repository)
    return made
