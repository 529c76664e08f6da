"""Copies: which images have the bytes of files that were used otherwise, whatever their names."""

from collections.abc import Collection, Iterable
from pathlib import Path

from rrrnet.checkpoint import SPLIT, Checkpoint
from rrrnet.data.dataset import TEST_DATA, ImageSet, read_split
from rrrnet.data.folder_tree import scan
from rrrnet.data.remembered import recorded_data
from rrrnet.hub.reference import is_in_cache
from rrrnet.sealed import sha256_of


def used_files(checkpoint: Checkpoint, which: Collection[str], data: Path | None = None) -> dict[Path, str]:
    """Where the images lie, or lay, that a training used, and their names in its record.

    Args:
        checkpoint: of the training.
        which: parts of its split; with "train" its images without a label, too.
        data: where its data set lies now; None: where it lay.
    """
    recorded, nowhere = recorded_data(checkpoint), checkpoint.path / "images"
    root, tests = data or Path(recorded.get("path") or nowhere), Path(recorded.get("test_path") or nowhere)
    parts = read_split(checkpoint.path / SPLIT) if SPLIT in checkpoint.files else {}
    found = {
        (tests / file.removeprefix(TEST_DATA) if file.startswith(TEST_DATA) else root / file): file
        for file, part in parts.items()
        if part in which
    }
    unlabelled = ((checkpoint.training.get("teacher") or {}).get("unlabelled") or {}).get("path")
    if unlabelled and "train" in which and not is_in_cache(checkpoint.path) and Path(unlabelled).is_dir():
        found |= {Path(unlabelled) / file: file for file in scan(Path(unlabelled)).files}
    return found


def copies(images: ImageSet, paths: Iterable[Path]) -> dict[str, Path]:
    """By name, the images whose bytes are those of a file in `paths`, and that file; files that are gone are none."""
    sizes = {images.path(file).stat().st_size for file in images.files}
    known = {sha256_of(path): path for path in paths if path.is_file() and path.stat().st_size in sizes}
    digests = {file: sha256_of(images.path(file)) for file in images.files} if known else {}
    return {file: known[digest] for file, digest in digests.items() if digest in known}
