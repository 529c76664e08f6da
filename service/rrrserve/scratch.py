"""Private temporary folders whose names tell their owner, so that what a killed process left can be removed."""

import os
import re
import shutil
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the kernel's own place for POSIX shared memory
_PREFIX = "rrr-serve"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-")


def private_folder() -> Path:
    """A new folder that only this user can read. Shared memory of its owner begins with the folder's name too."""
    sweep()
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{os.getpid()}-"))


def remove(folder: Path) -> None:
    """Remove a private folder and the shared memory that bears its name."""
    for region in SHARED_MEMORY.glob(f"{folder.name}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove folders and shared memory whose owner no longer runs."""
    for place in (Path(tempfile.gettempdir()), SHARED_MEMORY):
        for path in place.glob(f"{_PREFIX}-*"):
            owner = _NAME.match(path.name)
            if owner and not Path(f"/proc/{owner.group(1)}").exists():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
