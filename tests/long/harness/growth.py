"""What a running service holds at rest, and whether it grows: memory by process, descriptors, threads, files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness.service import KINDS, is_of_kind, regions

MOST_GROWTH_MB, MOST_BYTES_PER_REQUEST, MOST_DRIFT = 20.0, 500.0, 2
_PARENT, _OTHER, _FILES = "parent", "other", "files"
# Of the proportional set size all but Pss_File: pages of libraries, whose share falls and rises when somebody else's
# processes load the same ones and end, by 14 MB as was measured. What a service writes to files is counted by itself.
_OWN = ("Pss_Anon", "Pss_Shmem", "SwapPss")
_BLOCK_BYTES = 512  # of st_blocks


@dataclass(frozen=True)
class Census:
    """One look at a service.

    Attributes:
        requests: answered until then.
        memory_mb: by kind of process, pages that processes share counted once, less the pages of files; and the room
            that temporary files take. 10^6 bytes.
        pss_mb: proportional set size of all processes, pages of libraries included, 10^6 bytes.
        descriptors: open files, sockets and pipes of all processes.
        threads: of all processes.
        shared_memory: regions under /dev/shm.
        files: in the temporary folders.
        processes: their identifiers.
    """

    requests: int
    memory_mb: Mapping[str, float]
    pss_mb: float
    descriptors: int
    threads: int
    shared_memory: int
    files: int
    processes: tuple[int, ...]

    @property
    def total_mb(self) -> float:
        """Memory of all processes and temporary files, 10^6 bytes."""
        return sum(self.memory_mb.values())

    def as_row(self) -> dict[str, Any]:
        """JSON-ready, without what tells nothing on another machine."""
        row = asdict(self)
        return {**row, "processes": len(self.processes), "total_mb": self.total_mb}


def take_census(pid: int, requests: int, folders: Sequence[Path]) -> Census:
    """Count.

    Args:
        pid: of the service's parent.
        requests: answered until now.
        folders: where it may leave temporary files.
    """
    parent = psutil.Process(pid)
    files = [Path(where, name) for folder in folders for where, _, names in os.walk(folder) for name in names]
    memory = {_FILES: sum(path.stat().st_blocks for path in files) * _BLOCK_BYTES / 1e6}
    descriptors = threads = 0
    pss = 0.0
    everybody = [parent, *parent.children(recursive=True)]
    for process in everybody:
        kind = _PARENT if process.pid == pid else _kind(process)
        pages = _pages_mb(process.pid)
        memory[kind] = memory.get(kind, 0.0) + sum(pages[name] for name in _OWN)
        pss += pages["Pss"]
        descriptors += process.num_fds()
        threads += process.num_threads()
    return Census(
        requests,
        memory,
        pss,
        descriptors,
        threads,
        regions(pid),
        len(files),
        tuple(sorted(process.pid for process in everybody)),
    )


def _pages_mb(pid: int) -> dict[str, float]:
    """The kernel's sums over a process's memory, 10^6 bytes."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) * 1024 / 1e6 for name, value in (row.split(":") for row in rows)}


def _kind(process: psutil.Process) -> str:
    return next((kind for kind in KINDS if is_of_kind(process, kind)), _OTHER)


def growth_mb(censuses: Sequence[Census]) -> float:
    """Memory at the end less memory at the beginning, 10^6 bytes."""
    return censuses[-1].total_mb - censuses[0].total_mb


def bytes_per_request(censuses: Sequence[Census]) -> float:
    """Slope of the memory over the last half of the requests.

    The median of the slopes between all pairs (Theil and Sen): a large body that waits for the garbage collector at one
    count and not at another, 9 MB, does not bend it.
    """
    middle = (censuses[0].requests + censuses[-1].requests) / 2
    half = [census for census in censuses if census.requests >= middle]
    one, other = np.triu_indices(len(half), 1)
    memory_mb, requests = np.array([(census.total_mb, census.requests) for census in half]).T
    return float(np.median((memory_mb[other] - memory_mb[one]) / (requests[other] - requests[one]))) * 1e6


def misses(censuses: Sequence[Census]) -> list[str]:
    """The bounds that a service did not keep.

    Args:
        censuses: at rest, the first after the warm-up; at least three.
    """
    first, last = censuses[0], censuses[-1]
    grown, slope = growth_mb(censuses), bytes_per_request(censuses)
    checks = {
        f"memory grew by {grown:.1f} MB, more than {MOST_GROWTH_MB:g}": grown <= MOST_GROWTH_MB,
        f"memory grew by {slope:.0f} bytes a request in the last half, more than {MOST_BYTES_PER_REQUEST:g}": (
            slope <= MOST_BYTES_PER_REQUEST
        ),
        "a process ended or began": first.processes == last.processes,
    }
    for name in ("descriptors", "threads", "shared_memory", "files"):
        before, after = getattr(first, name), getattr(last, name)
        checks[f"{name} at the end {after}, at the beginning {before}"] = abs(after - before) <= MOST_DRIFT
    return [what for what, holds in checks.items() if not holds]
