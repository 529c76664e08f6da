"""The routes that a running service goes by, as a file in its private folder.

`rrr promote` writes it, the HTTP workers look at it and tell in the shared state by which one they choose: no route of
HTTP changes it, and what is written outlives a worker and a reload, but not the service.
"""

import asyncio
import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rrrnet.errors import CheckFailedError
from rrrnet.files import write_atomically
from rrrserve.config.routes import Route
from rrrserve.state.shared_state import STATE, SharedState

_FILE, _LOCK = "routing.json", "routing.lock"
_POLL_SECONDS = 0.05
_FOLLOW_SECONDS = 10.0  # a worker looks 20 times a second


@dataclass(frozen=True)
class Routes:
    """Routes and their number.

    Attributes:
        number: counted from 1; each change makes a new one.
        routes: by name.
    """

    number: int
    routes: Mapping[str, Route]


def write_routes(folder: Path, routes: Routes) -> None:
    """Let a service go by these from now on.

    Args:
        folder: its private one.
        routes: all of them.
    """
    document = {
        "number": routes.number,
        "routes": {route.name: dict(route.weights) for route in routes.routes.values()},
    }
    write_atomically(folder / _FILE, json.dumps(document).encode())


def read_routes(folder: Path) -> Routes:
    """What `write_routes` wrote."""
    document = json.loads((folder / _FILE).read_bytes())
    return Routes(document["number"], {name: Route(name, weights) for name, weights in document["routes"].items()})


class RoutesFile:
    """The file as a worker sees it.

    Args:
        folder: the service's private one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, int] | None = None

    def changed(self) -> Routes | None:
        """What it says, if that is new; None too where somebody has removed it."""
        try:
            found = (self._folder / _FILE).stat()
        except FileNotFoundError:
            return None
        now = found.st_ino, found.st_mtime_ns
        if now == self._seen:
            return None
        routes = read_routes(self._folder)
        self._seen = now  # as it was before the reading: what was written meanwhile is read next time
        return routes


class RoutesControl:
    """Changes the routes of a running service from outside; `held` keeps others from doing so meanwhile.

    Args:
        folder: the service's private one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else changes them while the body of the `with` statement runs.

        Raises:
            CheckFailedError: somebody else does.
        """
        with (self._folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CheckFailedError("another rrr promote moves weights of this service: let it end first") from error
            yield

    async def change(self, route: Route) -> None:
        """Have every worker go by another route of that name.

        Raises:
            CheckFailedError: a worker does not follow.
        """
        before = read_routes(self._folder)
        number = before.number + 1
        write_routes(self._folder, Routes(number, {**before.routes, route.name: route}))
        state = SharedState.open(self._folder / STATE, 0)
        deadline = time.monotonic() + _FOLLOW_SECONDS
        while state.routings_in_use() - {number}:
            if time.monotonic() > deadline:
                raise CheckFailedError(
                    f"a worker does not follow within {_FOLLOW_SECONDS:.0f} s; see the service's log"
                )
            await asyncio.sleep(_POLL_SECONDS)
