"""Start a child process that cannot outlive this one, and end it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping

from rrrserve import die_with_parent


async def spawn(
    command: list[str], *, environment: Mapping[str, str], output: int, fds: tuple[int, ...] = (), nice: int = 0
) -> asyncio.subprocess.Process:
    """Start `command` in its own process group; the kernel kills it when this process dies.

    To be called on the main thread: the kernel sends the death signal when the *thread* that started the child ends.

    Args:
        command: program and arguments.
        environment: all of the child's variables.
        output: file descriptor for its standard output and error.
        fds: further descriptors that it inherits.
        nice: by how much its priority is lower than ours.
    """
    wrapper = [sys.executable, "-I", "-S", "-B", die_with_parent.__file__, str(os.getpid()), str(nice)]
    return await asyncio.create_subprocess_exec(
        *wrapper,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        pass_fds=fds,
    )


async def terminate(process: asyncio.subprocess.Process, *, patience_seconds: float) -> None:
    """Ask a child to end; end its whole group by force when it has not after `patience_seconds`."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), patience_seconds)
        except TimeoutError:
            kill(process)
            await process.wait()
    kill(process)


def kill(process: asyncio.subprocess.Process) -> None:
    """End a child and all that is left of its group at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left in the group
        os.killpg(process.pid, signal.SIGKILL)
