"""Private temporary folders whose names tell their owner, so that what a killed process left can be removed."""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the kernel's own place for POSIX shared memory
_PREFIX = "rrr-serve"
# Triton's Python backend makes one such folder each time it starts, wherever TMPDIR points, and a killed one leaves it.
_PYTHON_ENVIRONMENTS = Path("/tmp")  # noqa: S108  hard-coded in Triton
_MADE_WITHIN_SECONDS = 60.0  # of Triton's start
_NAME = re.compile(rf"{_PREFIX}-(\d+)-")


def private_folder() -> Path:
    """A new folder that only this user can read. Shared memory of its owner begins with the folder's name too."""
    sweep()
    return Path(tempfile.mkdtemp(prefix=prefix(os.getpid())))


def prefix(pid: int) -> str:
    """How the names of a process's folders and shared memory begin."""
    return f"{_PREFIX}-{pid}-"


def places() -> tuple[Path, Path]:
    """Where private folders and shared memory lie."""
    return Path(tempfile.gettempdir()), SHARED_MEMORY


def owned_folders(place: Path) -> list[Path]:
    """The private folders of this user in `place` whose owners may still run."""
    found = []
    for path in place.glob(f"{_PREFIX}-*"):
        with contextlib.suppress(OSError):  # just gone
            state = path.lstat()
            if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid():
                found.append(path)
    return found


def remove(folder: Path) -> None:
    """Remove a private folder and the shared memory that bears its name."""
    for region in SHARED_MEMORY.glob(f"{folder.name}*"):
        with contextlib.suppress(OSError):  # just gone, or another user's
            region.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove this user's folders and shared memory whose owner no longer runs.

    Anybody may put a file of any name into these places: what cannot be removed is passed over.
    """
    for place in places():
        for path in place.glob(f"{_PREFIX}-*"):
            owner = _NAME.match(path.name)
            if owner and not Path(f"/proc/{owner.group(1)}").exists():
                with contextlib.suppress(OSError):
                    _remove_own(path)
    sweep_python_environments()


def _remove_own(path: Path) -> None:
    """Remove a file, a link or a folder, if it is this user's; what a link points to is left alone."""
    state = path.lstat()
    if state.st_uid != os.getuid():
        return
    if stat.S_ISDIR(state.st_mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def sweep_python_environments() -> None:
    """Remove the empty folders of this user's tritonservers that no longer run."""
    starts = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "tritonserver":
                starts.append(process.create_time())
    for folder in _PYTHON_ENVIRONMENTS.glob("python_env_??????"):
        with contextlib.suppress(OSError):  # not empty, another user's, or just gone
            found = folder.lstat()
            in_use = any(start - 1 <= found.st_mtime <= start + _MADE_WITHIN_SECONDS for start in starts)
            if found.st_uid == os.getuid() and not in_use:
                folder.rmdir()
