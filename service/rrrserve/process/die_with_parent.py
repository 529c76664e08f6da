"""Run a command that the kernel kills when its parent dies. Executed as a script, never imported.

    python -I -S die_with_parent.py PARENT_PID NICE COMMAND...

A separate step before exec, because a preexec_fn runs Python between fork and exec in a process with threads, where
it can deadlock. The process becomes the leader of its own group, so that a terminal's Ctrl-C reaches only the
supervisor and a whole group can be killed; it writes no core files and no files that others can read.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Prepare this process, then become the command."""
    parent, nice, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # the parent died before prctl took effect
        sys.exit(1)
    os.setpgid(0, 0)
    os.umask(0o077)
    os.nice(nice)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execvp(command[0], command)  # noqa: S606  no shell: the arguments go through as they are


if __name__ == "__main__":
    main()
