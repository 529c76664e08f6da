"""How many threads torch has, and how they wait for each other."""

import os

from rrrnet.processor import cores


def configure_threads() -> None:
    """Import torch with no more threads than there are cores to keep busy, which sleep while they wait for others.

    The environment may say otherwise of the second. It must be said before torch is imported, when OpenMP reads it: GNU
    OpenMP spins for milliseconds at the end of every parallel loop. Beside other busy processes the spinning
    threads take the core that the thread they wait for needs (docs/internals/training.md has measurements).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    if torch.get_num_threads() > cores():  # it counts by affinity
        torch.set_num_threads(cores())
