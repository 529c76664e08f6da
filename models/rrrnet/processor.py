"""What the system says of its CPU."""

import os
import platform
from functools import cache
from pathlib import Path


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
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
