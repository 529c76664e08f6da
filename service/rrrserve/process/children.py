"""Start a child process that cannot outlive this one, nor can its own children; and end it."""

import asyncio
import contextlib
import os
import signal
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path

from rrrserve.process import die_with_parent


async def spawn(
    command: list[str],
    *,
    environment: Mapping[str, str],
    output: int,
    fds: tuple[int, ...] = (),
    nice: int = 0,
    folder: Path | None = None,
) -> asyncio.subprocess.Process:
    """Start `command` in its own process group; the kernel kills the group when this process dies.

    So it does when nobody holds the returned object any more: what a child that has ended left of its group goes too.

    Args:
        command: program and arguments.
        environment: all of the child's variables.
        output: file descriptor for its standard output and error.
        fds: further descriptors that it inherits.
        nice: by how much its priority is lower than ours.
        folder: its working directory, if it is not ours.
    """
    reading, writing = os.pipe()
    try:
        wrapper = [sys.executable, "-I", "-S", "-B", die_with_parent.__file__]
        process = await asyncio.create_subprocess_exec(
            *wrapper,
            *(str(os.getpid()), str(reading), str(nice)),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            pass_fds=(*fds, reading),
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    weakref.finalize(process, os.close, writing)
    return process


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
