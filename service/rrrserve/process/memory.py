"""How much memory there is, and how much one instance of a model may take."""

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
# Limit, use, and the part of the use that is file cache which the kernel gives back: cgroup v2, then v1.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
# Upper bounds of what was measured (docs/internals/tuning.md). A runtime keeps weights as read, and once more as it
# wants them.
_PROCESS_BYTES = 100 * 2**20
_COPIES_OF_FILES = 3
_ACTIVATION_BYTES_PER_PIXEL = 256


def instance_bytes(file_bytes: int, *, image_size: int, max_batch: int) -> int:
    """More than one instance took of any network and target that was measured, after batches of the largest size.

    Args:
        file_bytes: of the model's files.
        image_size: height and width of its input in pixels.
        max_batch: the largest batch.
    """
    activations = _ACTIVATION_BYTES_PER_PIXEL * image_size**2 * max_batch
    return _PROCESS_BYTES + _COPIES_OF_FILES * file_bytes + activations


def free_bytes(cgroups: Path = CGROUPS) -> int:
    """Memory that can be had without swapping, within this container's limit.

    Args:
        cgroups: where the kernel tells the limits of this container.
    """
    free: int = psutil.virtual_memory().available
    for limit_name, used_name, cache_key in _CGROUP_FILES:
        limit = cgroups / limit_name
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            used = cgroups / used_name
            rows = dict(line.split() for line in used.with_name("memory.stat").read_text().splitlines())
            free = min(free, int(text) - int(used.read_text()) + int(rows[cache_key]))
    return max(0, free)
