"""Files that are there whole or not at all."""

import os
import secrets
import stat
from pathlib import Path

from rrrnet.errors import UsageError, reporting_full_disk


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file; whatever interrupts it, `path` holds its old content or all of the new one.

    Raises:
        NoSpaceError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with reporting_full_disk(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def make_readable(folder: Path) -> None:
    """Give all files below `folder` the mode that a new file gets there, by the umask or the folder's default ACL.

    Some writers, as that of safetensors, write a temporary file that only its owner may read, and rename it.
    """
    probe = folder / f".{secrets.token_hex(4)}"
    try:
        probe.touch()
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
    for path in folder.rglob("*"):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


def check_writable(path: Path, *, option: str) -> None:
    """Make sure, before long work, that a file can be written at `path`.

    Args:
        path: the file, which may exist.
        option: the flag that named it, for the message.

    Raises:
        UsageError: it is a folder, or its folder does not exist or cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"{option} is {path}, which is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{option} is {path}, but there is no folder {path.parent}: make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{option} is {path}, but {path.parent} cannot be written: permission denied")


def shown(path: Path) -> str:
    """A path as a document holds it: relative where it lies below the present folder, to mean something elsewhere."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
