"""How `rrr reload` and `rrr promote` find the services of this user, and how it learns what became of a reload.

A service writes both into its private folder: `service.json` once it is ready, and `reload.json` at the beginning and
the end of each reload.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rrrnet.errors import UsageError
from rrrnet.files import write_atomically
from rrrserve.process.scratch import own_folders

_SERVICE = "service.json"
_RELOAD = "reload.json"
RUNNING = "running"


@dataclass(frozen=True)
class RunningService:
    """A service that is ready.

    Attributes:
        pid: of the supervisor.
        started: when that process began, in ticks since the machine's start, which no change of the clock touches: to
            tell it from a later one of the same pid, and from one of another container.
        url: where it listens.
        repository: the folder that it reads.
        folder: its private folder.
    """

    pid: int
    started: int
    url: str
    repository: str
    folder: str


@dataclass(frozen=True)
class Reload:
    """The last reload of a service.

    Attributes:
        number: counted from 1; 0 stands for none yet.
        outcome: `running`, or one of `shared_state.RELOAD_OUTCOMES`.
        message: what became of it, for people.
        repository: digest of what is served now.
        seconds: how long it took.
    """

    number: int = 0
    outcome: str = ""
    message: str = ""
    repository: str = ""
    seconds: float = 0.0


def take_up(repository: Path) -> tuple[object, ...]:
    """Words of the command by which a repository is served: `rrr reload` where a service has it already."""
    served = any(service.repository == str(repository.absolute()) for service in running_services())
    return "rrr", "reload" if served else "serve", repository


def announce(folder: Path, url: str, repository: Path) -> None:
    """Tell that this process serves, and is ready."""
    pid = os.getpid()
    service = RunningService(pid, _started(pid), url, str(repository), str(folder))
    write_atomically(folder / _SERVICE, json.dumps(asdict(service)).encode())


def running_services() -> list[RunningService]:
    """The services of this user that are ready, in the order of their pids."""
    found = []
    for folder in own_folders(Path(tempfile.gettempdir())):
        try:
            service = RunningService(**json.loads((folder / _SERVICE).read_text(encoding="utf-8")))
            if _started(service.pid) == service.started:
                found.append(service)
        except (OSError, ValueError, TypeError):
            continue  # not a service's folder, or one that is just coming or going
    return sorted(found, key=lambda service: service.pid)


def chosen(services: list[RunningService], repository: Path | None, url: str | None, pid: int | None) -> RunningService:
    """The one service that was meant.

    Raises:
        UsageError: there is none, or more than one; lists them.
    """
    meant = [
        service
        for service in services
        if (repository is None or service.repository == str(repository.absolute()))
        and (url is None or service.url == url.rstrip("/"))
        and (pid is None or service.pid == pid)
    ]
    if len(meant) == 1:
        return meant[0]
    listed = "; ".join(f"{service.url}, pid {service.pid}, {service.repository}" for service in meant or services)
    if not services:
        raise UsageError("no rrr serve of this user is ready on this machine (or it has another TMPDIR)")
    if not meant:
        raise UsageError(f"no such service is ready here; those that are: {listed}")
    raise UsageError(f"{len(meant)} services are meant: choose one with --url or --pid: {listed}")


def _started(pid: int) -> int:
    """The field `starttime` of proc(5); the name of a process, in parentheses before it, may hold anything.

    Raises:
        OSError: no such process.
    """
    return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])


def write_reload(folder: Path, reload: Reload) -> None:
    """Tell how the last reload stands."""
    write_atomically(folder / _RELOAD, json.dumps(asdict(reload)).encode())


def last_reload(folder: Path) -> Reload:
    """How the last reload of a service stands."""
    try:
        return Reload(**json.loads((folder / _RELOAD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Reload()
