"""What a serving process gives up before it starts anything; its children inherit it."""

import contextlib
import ctypes
import os
import resource

from rrrserve.process.environment import do_not_track

_PR_SET_NO_NEW_PRIVS = 38
_MOST_DESCRIPTORS = 2**20  # some containers allow 2**30, and programs that close them one by one then stand still


def harden() -> None:
    """Private files, no core dumps, no new privileges, no telemetry; as many file descriptors as are allowed."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    with contextlib.suppress(OSError, ValueError):  # the kernel's own limit is lower: what there is must do
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # A kernel without it is not refused: nothing here has privileges to gain, it only could be made to.
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    do_not_track()
