"""How many processors there are to use."""

import os


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))
