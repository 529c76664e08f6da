"""Private temporary folders whose names tell their owner, so that what a killed process left can be removed.

An owner keeps a lock (flock) on its folder, and on an empty file of the same name among the shared memory. A pid would
not tell enough: in a container the next service has the pid of the killed one, and a place that containers share holds
names with pids that are not seen here. systemd-tmpfiles, which cleans /tmp by age, respects such locks.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from rrrnet.errors import FULL_DISK, NoSpaceError, UsageError
from rrrserve.process.environment import variables

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the kernel's own place for POSIX shared memory
_PREFIX = "rrr-serve"
# Triton's Python backend makes one such folder each time it starts, wherever TMPDIR points, and a killed one leaves it.
_PYTHON_ENVIRONMENTS = Path("/tmp")  # noqa: S108  hard-coded in Triton
_NAME = re.compile(rf"({_PREFIX}-(\d+)-[a-z0-9_]{{8}})(.*)")  # Triton's names go on behind the folder's


class PrivateFolder:
    """A new folder that only this user can read. Shared memory of its owner begins with the folder's name too.

    Attributes:
        path: where it is.
    """

    def __init__(self) -> None:
        """Make it, after a sweep."""
        sweep()
        self.path = places()[0] / f"{prefix(os.getpid())}{secrets.token_hex(4)}"
        self._locks = [_locked(self.path, lambda: self.path.mkdir(0o700))]
        marker = SHARED_MEMORY / self.path.name
        with contextlib.suppress(OSError):  # no shared memory here, so there will be none to sweep
            self._locks.append(_locked(marker, lambda: marker.touch(0o600)))

    def remove(self) -> None:
        """Remove it and the shared memory that bears its name."""
        _remove(self.path)
        for lock in self._locks:
            os.close(lock)
        self._locks = []


def _locked(path: Path, make: Callable[[], None]) -> int:
    """Make a folder or file, and lock it: the lock's file descriptor."""
    while True:
        make()
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks: it is never swept
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():  # else a sweep came between
                return lock
            os.close(lock)


def prefix(pid: int) -> str:
    """How the names of a process's folders and shared memory begin."""
    return f"{_PREFIX}-{pid}-"


def places() -> tuple[Path, Path]:
    """Where private folders and shared memory lie."""
    return Path(tempfile.gettempdir()), SHARED_MEMORY


def temporary_folder() -> Path:
    """Where private folders are made, once a file can be written there.

    Python passes over a TMPDIR that it cannot use, without a word: what was meant for a large disk would fill /tmp.

    Raises:
        UsageError: TMPDIR names what cannot be used, or there is no such folder at all.
        NoSpaceError: it is full.
    """
    given = variables().get("TMPDIR", "")
    try:
        folder = Path(given or tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        if not given and isinstance(error, FileNotFoundError):  # Python's message lists where it looked
            raise UsageError(
                f"no folder takes temporary files: {error.strerror}; set TMPDIR to one of yours"
            ) from error
        place = f"TMPDIR is {given}" if given else f"the temporary folder is {folder}"
        if error.errno in FULL_DISK:
            raise NoSpaceError(f"{place}, which is full: free some space, or set TMPDIR to another folder") from error
        raise UsageError(f"{place}, {_why_not(folder, error)}; another will do, e.g. export TMPDIR=/var/tmp") from error


def _why_not(folder: Path, error: OSError) -> str:
    if not folder.exists():
        return f"which does not exist: mkdir -p {shlex.quote(str(folder))}"
    if not folder.is_dir():
        return "which is no folder: Triton's files and logs are put there"
    return f"where nothing can be written ({error.strerror}): make it writable"


def own_folders(place: Path) -> list[Path]:
    """The private folders of this user in `place`, of owners that run and others."""
    found = []
    for path in place.glob(f"{_PREFIX}-*"):
        with contextlib.suppress(OSError):  # just gone
            state = path.lstat()
            if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid():
                found.append(path)
    return found


def _remove(folder: Path) -> None:
    for region in SHARED_MEMORY.glob(f"{folder.name}*"):
        with contextlib.suppress(OSError):  # just gone, or another user's
            region.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove this user's folders and shared memory whose owner no longer runs.

    Anybody may put a file of any name into these places: what cannot be removed is passed over.
    """
    for place in places():
        for path in list(place.glob(f"{_PREFIX}-*")):
            with contextlib.suppress(OSError):
                _sweep_one(path)
    _sweep_python_environments()


def _sweep_one(path: Path) -> None:
    name = _NAME.fullmatch(path.name)
    if name is None or path.lstat().st_uid != os.getuid():
        return
    if name[3]:  # a region of Triton's, which goes with the file that tells its owner, unless that was lost
        if not path.with_name(name[1]).exists() and not Path("/proc", name[2]).exists():
            path.unlink()
        return
    probe = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its owner runs, or where there are no locks
        _remove(path)
    finally:
        os.close(probe)


def _sweep_python_environments() -> None:
    """Remove this user's empty folders, unless a tritonserver runs, whose they may be."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "tritonserver":
                return
    for folder in _PYTHON_ENVIRONMENTS.glob("python_env_??????"):
        with contextlib.suppress(OSError):  # not empty, another user's, or just gone
            if folder.lstat().st_uid == os.getuid():
                folder.rmdir()
