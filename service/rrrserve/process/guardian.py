"""End what a killed parent leaves behind. Executed as a script beside the parent, never imported.

    python -I -S guardian.py PREFIX FOLDER... < pipe

The kernel kills the children of a parent that dies (`die_with_parent`), but not their children: a process of Triton's
Python backend that waits for a lock in shared memory then waits for ever. The parent writes `+PID` for each process
group that it starts and `-PID` for each that has ended; when it dies, the kernel closes the pipe, and what is left is
killed and swept: process groups, and all in the folders whose name begins with the prefix.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

_PATIENCE_SECONDS = 0.5  # until then those that nobody has waited for count as members
_LOOK_SECONDS = 0.02


def main() -> None:
    """Follow the parent until it has gone, then clean up."""
    prefix, folders = sys.argv[1], sys.argv[2:]
    groups = _until_parent_ends()
    end = time.monotonic() + _PATIENCE_SECONDS
    while _kill(groups) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    paths = [path for folder in folders for path in Path(folder).glob(f"{prefix}*")]
    end = time.monotonic() + _PATIENCE_SECONDS
    while (held := [path.name for path in paths if _is_held(path)]) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)  # the kernel may still be ending the parent
    for path in paths:
        if any(path.name.startswith(name) for name in held):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):  # just gone, or another user's
            path.unlink()


def _is_held(path: Path) -> bool:
    """Whether somebody has it locked (`scratch`): a service in another container, where it has the same pid."""
    try:
        probe = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks there
        return False
    finally:
        os.close(probe)
    return False


def _until_parent_ends() -> set[int]:
    """The process groups that still ran when the parent's end of the pipe was closed."""
    groups: set[int] = set()
    with open(0) as told:
        for line in told:
            (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    return groups


def _kill(groups: set[int]) -> bool:
    """Kill the groups; whether there was anybody left."""
    found = False
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
            found = True
        except (ProcessLookupError, PermissionError):
            continue
    return found


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main()
