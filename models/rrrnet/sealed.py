"""Sealed folders: a JSON document that holds the SHA-256 of itself and of every file beside it.

Checkpoints, engines and Triton repositories are sealed, so that one changed byte anywhere is found before a
parser sees it: neither ONNX Runtime nor OpenVINO notices a flipped weight bit.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from rrrnet.errors import FULL_DISK, ArtifactError, UsageError, reporting_full_disk
from rrrnet.files import make_readable, write_atomically

# What each sealed document makes of its folder, for messages to someone who gave the wrong one.
KINDS = {
    "model.json": "a checkpoint (written by rrr train)",
    "manifest.json": "an engine (written by rrr build)",
    "repository.json": "a Triton repository (written by rrr repository)",
}
# What is said about a sealed folder later (`seal_alone`); it may come, change or be damaged, and the folder stays good.
APART = "claims.json"
# A checkpoint's page on the hub. Its digest is sealed too, but people edit it, and the folder stays good.
PAGE = "README.md"
_BLANK = "0" * 64
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD and the flag, in <fcntl.h> and <linux/fs.h>
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
        if path.is_file() and path != folder / name and path.name != APART
    }
    body = {key: value for key, value in document.items() if key != "files"}
    seal_alone(folder / name, {**body, "files": files})


def seal_alone(target: Path, document: dict[str, Any]) -> None:
    """Write `document` to `target`, in one step, with a seal over its own bytes and none over other files."""
    body = {key: value for key, value in document.items() if key != "seal"}
    text = json.dumps({"seal": _BLANK, **body}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomically(target, text.replace(_BLANK, digest, 1).encode())


def read_sealed(folder: Path, name: str, *, remedy: str) -> dict[str, Any]:
    """Read `folder/name` and check its own seal and every file it lists, but for `PAGE`.

    Args:
        folder: the sealed folder.
        name: the document in it, e.g. `manifest.json`.
        remedy: how a user gets an undamaged one, e.g. "run rrr build again".

    Raises:
        ArtifactError: the folder or a file is missing, or a byte has changed; names the file and both digests.
    """
    document = read_document(folder, name, remedy=remedy)
    for relative, entry in document["files"].items():
        if relative != PAGE:
            check_file(folder / relative, entry, remedy=remedy)
    return document


def read_document(folder: Path, name: str, *, remedy: str) -> dict[str, Any]:
    """Read `folder/name` and check its own seal, but none of the files it lists.

    Raises:
        ArtifactError: the folder or the document is missing, a byte of it has changed, or it lists files elsewhere.
    """
    path = folder / name
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ArtifactError(f"{folder} {state}: expected {KINDS.get(name, f'a folder with {name} in it')}")
    if not path.is_file():
        for other, kind in KINDS.items():
            if (folder / other).is_file():
                raise ArtifactError(f"{folder} is {kind}: expected {KINDS.get(name, name)}")
        raise ArtifactError(f"{path} is missing, so {folder} is not a complete artifact; {remedy}")
    document = read_alone(path, remedy=remedy)
    with describing(path, remedy=remedy):
        for relative, entry in document["files"].items():
            if not set(entry) >= {"sha256", "size_bytes"} or not _is_inside(relative):
                raise ArtifactError(f"it lists {relative!r}, which is no file of its folder")
    return document


def read_alone(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read what `seal_alone` wrote and check its own seal.

    Raises:
        ArtifactError: a byte has changed.
    """
    raw = path.read_bytes()
    match = _SEAL.match(raw)
    expected = match.group(1).decode() if match else "(none)"
    found = hashlib.sha256(raw.replace(match.group(1), _BLANK.encode(), 1)).hexdigest() if match else "(unreadable)"
    if found != expected:
        raise ArtifactError(f"{path} was changed after it was written: sealed as {expected}, now {found}; {remedy}")
    with describing(path, remedy=remedy):
        document: dict[str, Any] = json.loads(raw)
    return document


def check_format(path: Path, document: dict[str, Any], *, version: int, command: str) -> None:
    """Refuse a document of another format than this rrr reads.

    Args:
        path: the document's.
        document: holds `format_version`, and perhaps `command`, by which its folder was made.
        version: the one that is read.
        command: what makes the folder anew, where the document does not tell.

    Raises:
        ArtifactError: says which version was found, which is read, and the command.
    """
    found = document.get("format_version")
    if found == version:
        return
    told = document.get("command")
    newer = isinstance(found, int) and found > version
    raise ArtifactError(
        f"{path} has {'no format version' if found is None else f'format version {found}'}; this rrr reads {version}: "
        f"{'install a newer rrr, or ' if newer else ''}make it again with: {told if isinstance(told, str) else command}"
    )


@contextmanager
def describing(path: Path, *, remedy: str) -> Iterator[None]:
    """Turn what a document that lacks something, or holds another type, causes into `ArtifactError`.

    A seal can be made by anyone: a document may be whole and still not what it should be.
    """
    try:
        yield
    except (ArtifactError, UsageError) as error:
        raise ArtifactError(f"{path}: {error}; {remedy}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be understood ({error})"
        raise ArtifactError(f"{path} {what}; {remedy}") from error


def _is_inside(relative: str) -> bool:
    """Whether a listed path stays in its folder."""
    path = PurePosixPath(relative)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


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


def unlisted(folder: Path, name: str, document: dict[str, Any]) -> list[str]:
    """What lies below `folder` though its sealed document `name` does not list it, as relative paths.

    An empty file `__pycache__` is let pass: it keeps Python from making the folder of that name (rrrbuild.repository).
    So are files named `APART`.
    """
    files = {folder / relative for relative in document["files"]} | {folder / name}
    known = files | {parent for file in files for parent in file.parents}
    strangers = [
        path
        for path in sorted(folder.rglob("*"))
        if path not in known
        and not (path.name == "__pycache__" and path.is_file() and path.stat().st_size == 0)
        and not (path.name == APART and path.is_file())
    ]
    return [path.relative_to(folder).as_posix() for path in strangers]


def page_changed(folder: Path, name: str) -> bool:
    """Whether somebody edited the `PAGE` of a folder since its document `name` was sealed."""
    try:
        entry = json.loads((folder / name).read_bytes())["files"][PAGE]
        return bool(sha256_of(folder / PAGE) != entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError):  # there is no such page, or nothing that is known of it
        return False


def check_target(target: Path, *, document: str) -> None:
    """Make sure, before long work, that `staged` can write to `target`: its parent exists and can be written.

    Raises:
        UsageError: `target` exists and is neither empty nor wholly ours, or its parent is no writable folder.
    """
    target = target.resolve()
    obstacle = _obstacle(target, document)
    if obstacle:
        raise UsageError(f"{target} exists and {obstacle}: choose another --out or remove it first")
    with reporting_full_disk(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise
            raise UsageError(f"{target.parent} cannot be made ({error.strerror}): choose another --out") from error
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"{target.parent} cannot be written: permission denied; choose another --out")


def _obstacle(target: Path, document: str) -> str | None:
    """Why the folder at `target` must not be replaced, if so: it, or something in it, is not ours."""
    if not target.exists():
        return None
    if not target.is_dir():
        return "is not a folder"
    if not any(target.iterdir()):
        return None
    path = target / document
    if not path.is_file():
        return f"holds no {document}"
    if document not in KINDS:
        return None
    raw = path.read_bytes()
    if not _SEAL.match(raw):
        return f"its {document} was not written by rrr"
    try:
        strangers = unlisted(target, document, json.loads(raw))
    except (ValueError, KeyError):
        return f"its {document} is damaged"
    return f"holds {', '.join(strangers[:3])}, which rrr did not write" if strangers else None


@contextmanager
def staged(target: Path, *, document: str) -> Iterator[Path]:
    """Give an empty folder beside `target`; put it in `target`'s place when the block ends without an error.

    A folder that already stands at `target` is replaced only if it is empty or all that it holds is ours: a mistyped
    `--out` must not delete a user's files.
    An edited `PAGE` stays as it is.

    Raises:
        UsageError: `target` exists and is not such a folder.
        NoSpaceError: the disk is full; `target` is as it was.
    """
    target = target.resolve()
    check_target(target, document=document)
    with reporting_full_disk(target):
        _clear_up(target)
        own = f"{os.getpid()}-{secrets.token_hex(3)}"
        temporary, previous = (target.with_name(f".{target.name}.{own}.{end}") for end in ("staging", "previous"))
        try:
            temporary.mkdir()
            yield temporary
            if page_changed(target, document):
                shutil.copyfile(target / PAGE, temporary / PAGE)
            make_readable(temporary)
            for path in (*temporary.rglob("*"), temporary):
                _sync(path)
            _swap(temporary, target, previous)
            _sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, written to the disk before what is done next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(temporary: Path, target: Path, previous: Path) -> None:
    """Put `temporary` in the place of `target`. Whatever interrupts it, one of the two is at `target` afterwards.

    In one step where the system can; else in two, and a process killed between them leaves the old folder aside, where
    the next run finds it (`_clear_up`).
    """
    if target.exists() and _exchange(temporary, target):
        return  # what stood at `target` is at `temporary` now, which the caller removes
    try:
        if target.exists():
            target.rename(previous)
        temporary.rename(target)
    except BaseException as error:
        if previous.exists() and not target.exists():
            previous.rename(target)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise UsageError(f"{target} was written by another process meanwhile: run it again") from error
        raise
    finally:
        shutil.rmtree(previous, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; whether this system and file system could."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux only; glibc 2.28 or later
    if renameat2 is None:
        return False
    return bool(renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _clear_up(target: Path) -> None:
    """Mend what killed runs left: their half-written folders go, a folder they had moved aside comes back."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)-[0-9a-f]{{6}}\.(staging|previous)")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if not match or Path(f"/proc/{match.group(1)}").exists():
            continue
        if match.group(2) == "previous" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)
