"""What the system says of its CPU, and how much of it is ours.

Copied into Triton model repositories: imports the standard library only.
"""

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc/self")
_LIMITS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # of a cgroup v2, v1


def cpuinfo(*keys: str) -> str:
    """First value of any of `keys` in /proc/cpuinfo; empty where there is no such file or key."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return ""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


@cache
def cpu_model() -> str:
    """The CPU's name, or the architecture where the system does not tell."""
    return cpuinfo("model name") or platform.machine()


def cores() -> int:
    """Those that this process can keep busy: by its affinity and by the quota of its cgroup, which may change."""
    own, quota = affinity(), quota_cores()
    return own if quota is None else min(own, quota)


def affinity() -> int:
    """Cores that this process may be scheduled on; in a container with a quota these are all of the host's."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Threads:
    """Of the CPU, for one inference.

    Attributes:
        count: how many there are to be, 1 or more.
        exact: no other number will do. Else a runtime may take its own and pin them to cores: one with a quota shares
            its cores with others, who would all be pinned to the first ones.
    """

    count: int
    exact: bool

    def shared(self, networks: int) -> "Threads":
        """For each of several networks that run side by side."""
        return Threads(max(1, self.count // networks), True)


def threads(wanted: int | None = None) -> Threads:
    """What somebody asked for, else as many as there are cores to keep busy."""
    if wanted is not None:
        return Threads(wanted, True)
    count = cores()
    return Threads(count, count < affinity())


def quota_cores(proc: Path = _PROC) -> int | None:
    """The smallest CPU quota of this process's cgroup and of those above it, in cores, rounded up; None without one.

    What is missing or cannot be understood limits nothing.

    Args:
        proc: what the kernel tells about this process.
    """
    limits = (_whole_cores(group, files) for group in cpu_groups(proc) for files in _LIMITS)
    return min((limit for limit in limits if limit is not None), default=None)


def cpu_groups(proc: Path = _PROC) -> Iterator[Path]:
    """Folders of the cgroups that this process is in, each followed by those above it, as far as they are mounted.

    Those of cgroup v2, and of v1's controller `cpu` (proc_pid_mountinfo(5), cgroups(7)). A mount may show a part of the
    tree; and where it shows a container's own group as its root, /proc/self/cgroup may name the way there from a root
    that is not to be seen: then that group is what is mounted.
    """
    own = {}
    for line in _lines(proc / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" or "cpu" in controllers.split(","):
            own["cgroup2" if number == "0" else "cgroup"] = group
    for line in _lines(proc / "mountinfo"):
        mount, _, kind = (part.split(" ") for part in line.partition(" - "))
        if len(mount) < 5 or len(kind) < 3 or kind[0] not in own:
            continue
        if kind[0] == "cgroup" and "cpu" not in kind[2].split(","):
            continue
        root, top = (_unescaped(word) for word in mount[3:5])
        below = f"{own[kind[0]]}/".removeprefix(f"{root.rstrip('/')}/")
        inside = [] if below.startswith("/") else [name for name in below.split("/") if name]
        folder = Path(top)
        if ".." not in inside:
            folder = folder.joinpath(*inside)
        yield folder
        yield from (above for above in folder.parents if above.is_relative_to(top))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _unescaped(word: str) -> str:
    r"""A path of mountinfo: a space in it is \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def _whole_cores(group: Path, files: tuple[str, ...]) -> int | None:
    """Cores, rounded up, of a quota and a period in microseconds, which stand in one file or in one each."""
    text = " ".join(line for name in files for line in _lines(group / name))
    found = re.fullmatch(r"(\d+) (\d+)", text)  # without a limit v2 has "max" for the first, v1 has -1
    if found is None or not (int(found[1]) and int(found[2])):
        return None
    return -(-int(found[1]) // int(found[2]))
