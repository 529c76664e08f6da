"""Where a measurement was made: the machine and the versions of what took part."""

from functools import cache
from typing import Any

from rrrbuild import machine
from rrrnet import __version__
from rrrserve.commands.doctor_checks import versions
from rrrserve.config.settings import available_cores


@cache
def describe() -> dict[str, Any]:
    """`machine` (CPU, its features, GPU, usable cores) and `versions` of rrr and its packages, JSON-ready.

    Nothing is imported to find out. It is looked up once: it cannot change under a running process.
    """
    return {
        "machine": {**machine.describe(), "cores": available_cores()},
        "versions": {"rrr": __version__, **versions()},
    }
