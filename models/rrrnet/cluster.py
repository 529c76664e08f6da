"""A Ray cluster, or Ray on this machine alone: connecting, and what is said where that fails."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from rrrnet.errors import CheckFailedError, IncompatibleError
from rrrnet.installing import install_line
from rrrnet.processor import cores

LOCAL = "local"


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to: the cores of each machine that has some for us."""

    cores: tuple[int, ...]


def check_installed() -> None:
    """Say what is missing before anything is done.

    Raises:
        IncompatibleError: Ray is not installed.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise IncompatibleError(f"--ray needs Ray, which is not installed: {install_line('ray')}")


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine for `LOCAL`.

    Raises:
        CheckFailedError: there is no such cluster, it has no cores, or what runs there fails.
    """
    # Keeps what Ray's core says to itself off the terminal, of this process and its children.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    # Its own words are for people who know it.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"num_cpus": cores(), "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **options)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process on the spot
    except (OSError, ValueError, RuntimeError) as error:
        message = f"--ray {address}: no cluster answers there ({error})"
        raise CheckFailedError(f"{message}: ray start --head starts one, and --ray local needs none") from error
    try:
        counts = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        if not any(counts):
            raise CheckFailedError(
                f"--ray {address}: the machines of this cluster offer 0 CPU cores: "
                "ray start --address HOST:PORT --num-cpus N adds one that has some"
            )
        yield Cluster(tuple(filter(None, counts)))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error.__cause__ or error
        raise CheckFailedError(f"--ray {address}: {str(cause).strip().splitlines()[-1]}") from error
    finally:
        ray.shutdown()
