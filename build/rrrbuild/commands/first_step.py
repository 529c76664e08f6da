"""Where somebody stands who asks what works here: the command that takes the newest artifact further."""

from collections.abc import Sequence
from pathlib import Path

from rrrbuild.manifest import MANIFEST
from rrrbuild.repository_document import DEFAULT_REPOSITORY
from rrrbuild.repository_document import DOCUMENT as REPOSITORY
from rrrnet.checkpoint import DOCUMENT as CHECKPOINT


def first_step(artifacts: Path) -> Sequence[object]:
    """Words of the command: serve, repository, build, or train where nothing has been made yet.

    Args:
        artifacts: the folder that holds models/, engines/ and repository/; need not exist.
    """
    # The furthest first: of two that are equally new, max takes the first.
    made = [
        *(("rrr", "serve", file.parent) for file in artifacts.glob(f"repository/{REPOSITORY}")),
        *(to_repository(file.parent.parent) for file in artifacts.glob(f"engines/[!.]*/[!.]*/{MANIFEST}")),
        *(("rrr", "build", file.parent) for file in artifacts.glob(f"models/[!.]*/{CHECKPOINT}")),
    ]
    return max(made, key=lambda words: _newest(Path(str(words[2]))), default=(*_TRAIN, artifacts / "models" / "mine"))


def to_repository(engines: Path | str) -> tuple[object, ...]:
    """Words of the command that puts an engine, or the best of a model's folder, into a repository."""
    return "rrr", "repository", engines, "--out", DEFAULT_REPOSITORY


_TRAIN = ("rrr", "train", "--data", "my_images", "--out")


def _newest(folder: Path) -> float:
    documents = [*folder.glob("*.json"), *folder.glob(f"*/{MANIFEST}")]
    return max(file.stat().st_mtime for file in documents)
