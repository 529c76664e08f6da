"""A CPU quota, as a container has one: a cgroup of one's own below that of this process, v1 or v2."""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rrrnet.errors import CheckFailedError
from rrrnet.processor import cpu_groups

_PERIOD_US = 100_000  # docker's and the kubelet's
_ENDING_SECONDS = 10.0


@dataclass(frozen=True)
class Quota:
    """A cgroup with a limit.

    Attributes:
        folder: the cgroup's.
    """

    folder: Path

    @property
    def words(self) -> list[str]:
        """To be put before a command: it and its children then have the quota."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs")]

    def periods(self) -> tuple[int, int]:
        """How many periods of 0.1 s there were in which something ran, and in how many of them it was stopped."""
        rows = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        return int(rows["nr_periods"]), int(rows["nr_throttled"])


@contextmanager
def quota(cpus: float) -> Iterator[Quota]:
    """A cgroup that gives so many CPUs to what runs in it, and is gone when the block ends; that must have ended.

    Raises:
        CheckFailedError: none can be made here; says why.
    """
    folder = _make(round(cpus * _PERIOD_US))
    try:
        yield Quota(folder)
    finally:
        _remove(folder)


def _make(quota_us: int) -> Path:
    reasons = []
    for above in cpu_groups():
        folder = above / f"rrr-quota-{os.getpid()}-{time.monotonic_ns()}"
        try:
            folder.mkdir()
        except OSError as error:
            reasons.append(f"{above}: {error.strerror}")
            continue
        try:
            if (folder / "cpu.max").exists():
                (folder / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
            else:
                (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        except OSError as error:  # of v2 only the groups above hand the controller on
            reasons.append(f"{folder}: {error.strerror}")
            folder.rmdir()
            continue
        return folder
    told = "; ".join(reasons) or "no cgroup with the controller cpu is mounted"
    raise CheckFailedError(f"no cgroup with a CPU quota can be made: {told}. Run this as root, outside of a container")


def _remove(folder: Path) -> None:
    end = time.monotonic() + _ENDING_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):  # what has just ended is in it for a moment
            folder.rmdir()
            return
        time.sleep(0.05)
