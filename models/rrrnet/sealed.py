"""Sealed folders: a JSON document that holds the SHA-256 of itself and of every file beside it.

Checkpoints, engines and Triton repositories are sealed, so that one changed byte anywhere is found before a
parser sees it: neither ONNX Runtime nor OpenVINO notices a flipped weight bit.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rrrnet.errors import ArtifactError, UsageError, reporting_full_disk

_BLANK = "0" * 64
_SEAL = re.compile(rb'\A\{\n  "seal": "([0-9a-f]{64})"')


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Write `document` to `folder/name` with the digests of all other files below `folder`.

    The first key, `seal`, is the SHA-256 of the document's own bytes with 64 zeros in the seal's place; the key
    `files` maps each relative path to its `sha256` and `size_bytes`.
    """
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / name
    }
    body = {key: value for key, value in document.items() if key not in ("seal", "files")}
    text = json.dumps({"seal": _BLANK, **body, "files": files}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    target = folder / name
    temporary = target.with_name(f".{name}.{secrets.token_hex(4)}")
    with reporting_full_disk(target):
        try:
            with temporary.open("wb") as file:
                file.write(text.replace(_BLANK, digest, 1).encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def read_sealed(folder: Path, name: str, *, remedy: str) -> dict[str, Any]:
    """Read `folder/name` and check its own seal and every file it lists.

    Args:
        folder: the sealed folder.
        name: the document in it, e.g. `manifest.json`.
        remedy: how a user gets an undamaged one, e.g. "run rrr build again".

    Raises:
        ArtifactError: the folder or a file is missing, or a byte has changed; names the file and both digests.
    """
    path = folder / name
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder: expected one with {name} in it; {remedy}")
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, so {folder} is not a complete artifact; {remedy}")
    raw = path.read_bytes()
    match = _SEAL.match(raw)
    expected = match.group(1).decode() if match else "(none)"
    found = hashlib.sha256(raw.replace(match.group(1), _BLANK.encode(), 1)).hexdigest() if match else "(unreadable)"
    if found != expected:
        raise ArtifactError(f"{path} was changed after it was written: sealed as {expected}, now {found}; {remedy}")
    document: dict[str, Any] = json.loads(raw)
    for relative, entry in document["files"].items():
        check_file(folder / relative, entry, remedy=remedy)
    return document


def check_file(path: Path, entry: dict[str, Any], *, remedy: str) -> None:
    """Compare one file with its recorded size and digest.

    Raises:
        ArtifactError: it is missing or differs.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; {remedy}")
    if path.stat().st_size != entry["size_bytes"]:
        sizes = f"expected {entry['size_bytes']} bytes, found {path.stat().st_size}"
        raise ArtifactError(f"{path} was changed after it was written: {sizes}; {remedy}")
    found = sha256_of(path)
    if found != entry["sha256"]:
        raise ArtifactError(
            f"{path} was changed after it was written: expected {entry['sha256']}, found {found}; {remedy}"
        )


def check_target(target: Path, *, document: str) -> None:
    """Make sure, before long work, that `staged` can write to `target`: its parent exists and can be written.

    Raises:
        UsageError: `target` exists and is neither empty nor holds `document`, or its parent is no writable folder.
    """
    target = target.absolute()
    if target.exists() and not (target.is_dir() and ((target / document).exists() or not any(target.iterdir()))):
        raise UsageError(f"{target} exists and holds no {document}: choose another --out or remove it first")
    with reporting_full_disk(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"{target.parent} is not a folder: choose another --out") from error
        except PermissionError as error:
            raise UsageError(f"{target.parent} cannot be made: permission denied; choose another --out") from error
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"{target.parent} cannot be written: permission denied; choose another --out")


@contextmanager
def staged(target: Path, *, document: str) -> Iterator[Path]:
    """Give an empty folder beside `target`; put it in `target`'s place when the block ends without an error.

    A folder that already stands at `target` is replaced only if it holds `document` (so it is one of ours) or is
    empty: a mistyped `--out` must not delete a user's files.

    Raises:
        UsageError: `target` exists and is not such a folder.
        NoSpaceError: the disk is full; `target` is as it was.
    """
    target = target.absolute()
    check_target(target, document=document)
    with reporting_full_disk(target):
        for stale in target.parent.glob(f".{target.name}.*.staging"):  # left by a killed run
            if not _owner_alive(stale):
                shutil.rmtree(stale, ignore_errors=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(3)}.staging")
        try:
            temporary.mkdir()
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            previous = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(3)}.previous")
            if target.exists():
                target.rename(previous)
            temporary.rename(target)
            shutil.rmtree(previous, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _owner_alive(stale: Path) -> bool:
    """Whether the process named in a staging folder's name still runs."""
    pid = stale.name.rsplit(".", 2)[-2].split("-")[0]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
