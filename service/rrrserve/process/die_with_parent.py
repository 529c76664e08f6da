"""Run a command that the kernel kills, with all that it starts, when its parent dies. A script, never imported.

    python -I -S die_with_parent.py PARENT_PID PIPE NICE COMMAND...

PIPE is the reading end of a pipe whose other end only the parent has. When the kernel closes that one, it signals the
owner of this one: SIGKILL to the process group. PR_SET_PDEATHSIG would reach the command alone, and not what that has
started, such as a process of Triton's Python backend, which may wait for ever for a lock in shared memory.

A separate step before exec, because a preexec_fn runs Python between fork and exec in a process with threads, where
it can deadlock. The process becomes the leader of its own group, so that a terminal's Ctrl-C reaches only the
supervisor and a whole group can be killed; it writes no core files and no files that others can read.
"""

import fcntl
import os
import resource
import signal
import sys


def main() -> None:
    """Prepare this process, then become the command."""
    parent, pipe, nice, command = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    os.setpgid(0, 0)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if os.getppid() != parent:  # it died before that took effect
        sys.exit(1)
    os.umask(0o077)
    os.nice(nice)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execvp(command[0], command)  # noqa: S606  no shell: the arguments go through as they are


if __name__ == "__main__":
    main()
