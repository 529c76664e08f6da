"""`rrr reload`: a running service takes what its repository holds now, or goes on with what it has."""

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rrrnet import output
from rrrnet.errors import CheckFailedError

if TYPE_CHECKING:
    from rrrserve.versions.running_services import Reload, RunningService

_POLL_SECONDS = 0.1


def reload(
    repository: Annotated[
        Path | None, typer.Argument(help="the repository that the service was started with", show_default="any")
    ] = None,
    url: Annotated[str | None, typer.Option(help="where the service listens", show_default="any")] = None,
    pid: Annotated[int | None, typer.Option(help="process of rrr serve", show_default="any")] = None,
    timeout: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="how long to wait for the outcome")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let a service of this machine and user switch to what its repository holds now, without losing a request.

    The new version is checked and must answer before it is used; else the old one stays, and the exit code is 1.
    """
    from rrrserve.versions.running_services import chosen, running_services

    service = chosen(running_services(), repository, url, pid)
    with output.Working(f"waiting for {service.url} to switch"):
        done = _reloaded(service, timeout)
    if as_json:
        output.print_json(vars(done))
    if done.outcome == "refused":
        raise CheckFailedError(f"the reload was refused: {done.message}")
    if not as_json:
        output.print_line(f"{done.outcome}: {done.message} ({done.seconds:.1f} s)")
        output.next_step("curl", f"{service.url}/v1/models")


def _reloaded(service: "RunningService", timeout: float) -> "Reload":
    """Ask for a reload, and wait until one has ended that began after that.

    Raises:
        CheckFailedError: the service ended, or did not finish in time.
    """
    from rrrserve.versions.running_services import RUNNING, last_reload, running_services

    before = last_reload(Path(service.folder)).number
    deadline = time.monotonic() + timeout
    os.kill(service.pid, signal.SIGHUP)
    while time.monotonic() < deadline:
        last = last_reload(Path(service.folder))
        if last.number > before and last.outcome != RUNNING:
            return last
        if service not in running_services():
            raise CheckFailedError(f"the service at {service.url} ended during the reload; its log tells why")
        time.sleep(_POLL_SECONDS)
    raise CheckFailedError(f"no outcome after {timeout:.0f} s: look at the log of the service, or raise --timeout")
