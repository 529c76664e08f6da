"""Private temporary folders whose names tell their owner, so that what a killed process left can be removed.

An owner keeps a lock (flock) on each of its folders, and on an empty file of the same name among the shared memory. A
pid would not tell enough: in a container the next service has the pid of the killed one, and a place that containers
share holds names with pids that are not seen here. systemd-tmpfiles, which cleans /tmp by age, respects such locks.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the kernel's own place for POSIX shared memory
_PREFIX = "rrr-serve"
# Triton's Python backend makes one such folder each time it starts, wherever TMPDIR points, and a killed one leaves it.
_PYTHON_ENVIRONMENTS = Path("/tmp")  # noqa: S108  hard-coded in Triton
_MADE_WITHIN_SECONDS = 60.0  # of Triton's start
_NAME = re.compile(rf"{_PREFIX}-(\d+)-")
_MARKER = re.compile(rf"{_PREFIX}-\d+-[a-z0-9_]{{8}}")  # Triton's names go on behind it
_UNFINISHED = ".rrr-new-"  # until the lock is there, nobody may take it for one that was left behind
_UNFINISHED_SECONDS = 60.0
_locks: dict[Path, list[int]] = {}


def private_folder() -> Path:
    """A new folder that only this user can read. Shared memory of its owner begins with the folder's name too."""
    sweep()
    made = Path(tempfile.mkdtemp(prefix=_UNFINISHED))
    name = prefix(os.getpid()) + made.name.removeprefix(_UNFINISHED)
    folder = made.with_name(name)
    _locks[folder] = [_lock_and_rename(made, folder)]
    with contextlib.suppress(OSError):  # no shared memory here, so there will be none to sweep
        made = SHARED_MEMORY / made.name
        made.touch(0o600)
        _locks[folder].append(_lock_and_rename(made, SHARED_MEMORY / name))
    return folder


def _lock_and_rename(made: Path, name: Path) -> int:
    """The lock's file descriptor. Locked first: else a sweep may come between."""
    lock = os.open(made, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks: `is_held` takes it for held
        fcntl.flock(lock, fcntl.LOCK_EX)
    made.rename(name)
    return lock


def is_held(path: Path) -> bool:
    """Whether the owner of a private folder, or of the file of its name, runs.

    On a file system without locks everything is taken for held.

    Raises:
        OSError: there is no such thing, or not for this user.
    """
    probe = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(probe)
    return False


def prefix(pid: int) -> str:
    """How the names of a process's folders and shared memory begin."""
    return f"{_PREFIX}-{pid}-"


def places() -> tuple[Path, Path]:
    """Where private folders and shared memory lie."""
    return Path(tempfile.gettempdir()), SHARED_MEMORY


def owned_folders(place: Path) -> list[Path]:
    """The private folders of this user in `place` whose owners run."""
    found = []
    for path in place.glob(f"{_PREFIX}-*"):
        with contextlib.suppress(OSError):  # just gone
            state = path.lstat()
            if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and is_held(path):
                found.append(path)
    return found


def remove(folder: Path) -> None:
    """Remove a private folder and the shared memory that bears its name."""
    for region in SHARED_MEMORY.glob(f"{folder.name}*"):
        with contextlib.suppress(OSError):  # just gone, or another user's
            region.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    for lock in _locks.pop(folder, []):
        os.close(lock)


def sweep() -> None:
    """Remove this user's folders and shared memory whose owner no longer runs.

    Anybody may put a file of any name into these places: what cannot be removed is passed over.
    """
    for place in places():
        paths = [path for path in place.glob(f"{_PREFIX}-*") if _NAME.match(path.name)]
        held = {path.name: _seems_held(path) for path in paths if _MARKER.fullmatch(path.name)}
        for path in paths:
            with contextlib.suppress(OSError):
                _sweep_one(path, held)
        for path in place.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(OSError):  # not empty, another user's, or just gone
                if time.time() - path.lstat().st_mtime > _UNFINISHED_SECONDS:
                    (path.rmdir if path.is_dir() else path.unlink)()
    sweep_python_environments()


def _seems_held(path: Path) -> bool:
    try:
        return is_held(path)
    except OSError:  # a link, just gone, or another user's
        return False


def _sweep_one(path: Path, held: Mapping[str, bool]) -> None:
    """Remove a file, a link or a folder that was left behind, if it is this user's; what a link points to stays."""
    state = path.lstat()
    if state.st_uid != os.getuid():
        return
    if stat.S_ISDIR(state.st_mode):
        if not is_held(path):
            remove(path)
        return
    marked = [holds for name, holds in held.items() if path.name.startswith(name)]
    if any(marked):
        return
    owner = _NAME.match(path.name)
    if marked or (owner and not Path(f"/proc/{owner[1]}").exists()):
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
