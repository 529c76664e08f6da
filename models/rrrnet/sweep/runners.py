"""Where cells are trained: in child processes of this machine, or as tasks of a Ray cluster.

Each cell has a process of its own, so that one that crashes takes no other with it and memory begins fresh.
"""

import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from rrrnet.sweep.cells import Cell
from rrrnet.sweep.training import Request, Result, attempt

_DIES_SECONDS = 10.0


@dataclass(frozen=True)
class Event:
    """How a cell goes on: a share of its work is done, or with `result` all of it."""

    cell: Cell
    share: float = 0.0
    text: str = ""
    result: Result | None = None


class Runner(Protocol):
    """Trains cells, `slots` of them at once."""

    slots: int

    def start(self, cell: Cell, request: Request) -> None:
        """Begin with a cell."""

    def poll(self, seconds: float) -> Iterator[Event]:
        """What happened; waits up to so long for something."""

    def stop(self) -> None:
        """End what runs; it is lost."""


class Processes:
    """A child process for each cell."""

    def __init__(self, slots: int, threads: int) -> None:
        """Train so many cells at once, each with so many threads."""
        self.slots, self._threads = slots, threads
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[Connection, tuple[Cell, SpawnProcess]] = {}

    def start(self, cell: Cell, request: Request) -> None:
        """Start its process."""
        ours, theirs = self._context.Pipe(duplex=False)
        request = replace(request, threads=self._threads)
        process = self._context.Process(target=_child, args=(theirs, request), name=str(cell), daemon=True)
        process.start()
        theirs.close()
        self._running[ours] = (cell, process)

    def poll(self, seconds: float) -> Iterator[Event]:
        """What the children sent; one that ended without a result has crashed."""
        for pipe in wait(list(self._running), seconds):
            assert isinstance(pipe, Connection)  # noqa: S101  only such are waited for
            cell, process = self._running[pipe]
            try:
                sent = pipe.recv()
            except EOFError:
                process.join()
                sent = Result(None, _crash(process.exitcode))
            if isinstance(sent, Result):
                process.join()
                pipe.close()
                del self._running[pipe]
                yield Event(cell, 1.0, result=sent)
            else:
                yield Event(cell, *sent)

    def stop(self) -> None:
        """Terminate the children."""
        for _, process in self._running.values():
            process.terminate()
        for _, process in self._running.values():
            process.join(_DIES_SECONDS)
            process.kill()
        self._running.clear()


def _child(pipe: Connection, request: Request) -> None:
    """The life of a child: it ends with its parent, since it cannot tell that of a step any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pipe.send(attempt(request, lambda share, text: pipe.send((share, text))))


def _crash(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with exit code {code} and no result"
    name = signal.Signals(-code).name
    out_of_memory = "; the system kills so what takes too much memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{out_of_memory}"


class RayTasks:
    """A task of Ray for each cell, on whichever machine has the cores."""

    def __init__(self, machines: tuple[int, ...], threads: int) -> None:
        """Take the cluster that is connected to, of machines with so many cores, so many of them for each cell."""
        import ray

        self.slots = max(1, sum(count // threads for count in machines))
        self._threads = threads
        self._ray = ray
        # A process of its own for each, and no second try: the next sweep makes that.
        self._attempt = ray.remote(num_cpus=threads, max_calls=1, max_retries=0)(attempt)
        self._running: dict[Any, Cell] = {}

    def start(self, cell: Cell, request: Request) -> None:
        """Submit its task."""
        self._running[self._attempt.remote(replace(request, threads=self._threads))] = cell

    def poll(self, seconds: float) -> Iterator[Event]:
        """Tasks that ended."""
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        for task in ended:
            cell = self._running.pop(task)
            try:
                result = self._ray.get(task)
            except (
                self._ray.exceptions.RayError
            ) as error:  # of that machine or process; what the training raises is told
                result = Result(None, str(error).strip().splitlines()[0])
            yield Event(cell, 1.0, result=result)

    def stop(self) -> None:
        """Cancel the tasks."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
