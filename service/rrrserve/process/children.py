"""Start a child process that cannot outlive this one, nor can its own children; and end it."""

import asyncio
import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from functools import cache

from rrrserve.process import die_with_parent, guardian, scratch

_watched: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to its tasks
_groups: set[int] = set()  # of the children that may still run


async def spawn(
    command: list[str],
    *,
    environment: Mapping[str, str],
    output: int,
    fds: tuple[int, ...] = (),
    nice: int = 0,
    input_pipe: bool = False,
) -> asyncio.subprocess.Process:
    """Start `command` in its own process group; the kernel kills it when this process dies.

    To be called on the main thread: the kernel sends the death signal when the *thread* that started the child ends.

    Args:
        command: program and arguments.
        environment: all of the child's variables.
        output: file descriptor for its standard output and error.
        fds: further descriptors that it inherits.
        nice: by how much its priority is lower than ours.
        input_pipe: its standard input is a pipe from us, not empty.
    """
    wrapper = [sys.executable, "-I", "-S", "-B", die_with_parent.__file__, str(os.getpid()), str(nice)]
    _guard()
    process = await asyncio.create_subprocess_exec(
        *wrapper,
        *command,
        stdin=asyncio.subprocess.PIPE if input_pipe else asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        pass_fds=fds,
    )
    _tell(f"+{process.pid}")
    _groups.add(process.pid)

    async def until_ended() -> None:
        await process.wait()
        _groups.discard(process.pid)
        _tell(f"-{process.pid}")

    watching = asyncio.create_task(until_ended())
    _watched.add(watching)
    watching.add_done_callback(_watched.discard)
    return process


@cache
def _guard() -> int:
    """The pipe to this process's guardian, which is started with its first child."""
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", "-B", guardian.__file__, scratch.prefix(os.getpid())]
    command += [str(folder) for folder in scratch.places()]
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    standard = [(os.POSIX_SPAWN_DUP2, reading, 0), *nowhere]
    pid = os.posix_spawn(sys.executable, command, {}, file_actions=standard, setpgroup=0)
    os.close(reading)

    def dismiss() -> None:
        os.close(writing)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    atexit.register(dismiss)
    return writing


def _tell(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # it was killed: the kernel still kills the children themselves
        os.write(_guard(), f"{line}\n".encode())


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
    _tell(f"-{process.pid}")


def kill(process: asyncio.subprocess.Process) -> None:
    """End a child and all that is left of its group at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left in the group
        os.killpg(process.pid, signal.SIGKILL)


def kill_all() -> None:
    """End every child and its group at once; from any thread."""
    for group in tuple(_groups):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
