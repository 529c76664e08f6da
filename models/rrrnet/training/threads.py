"""How torch's threads wait for each other: to be said before torch is imported, when OpenMP reads it."""

import os


def wait_asleep() -> None:
    """Let threads that wait for others sleep instead of spinning, unless the environment says otherwise.

    GNU OpenMP spins for milliseconds at the end of every parallel loop. Beside other busy processes the spinning
    threads take the core that the thread they wait for needs (docs/internals/training.md has measurements).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
