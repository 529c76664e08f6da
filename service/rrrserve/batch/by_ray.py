"""Images answered by engines on the machines of a Ray cluster: Ray Data hands files to actors, each with an engine.

The engine's files travel with the work, so that no machine needs to have them; images are read where they are answered,
so that each machine must see them under the same path or URI.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrrnet.errors import CheckFailedError, IncompatibleError
from rrrnet.installing import install_line
from rrrnet.output import say
from rrrserve.batch import by_engine
from rrrserve.batch.answers import Answered, Wanted
from rrrserve.batch.listing import File

LOCAL = "local"
_TASK_BATCHES = 4  # of the engine, in a task: what a machine that dies takes with it is done again
_MEASURED_SECONDS = 2.0
_ROWS_OF_A_BLOCK = 512


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        cores: of each machine that has some.
    """

    cores: tuple[int, ...]


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine for `LOCAL`.

    Raises:
        IncompatibleError: Ray is not installed.
        CheckFailedError: there is no such cluster.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise IncompatibleError(f"--ray needs Ray, which is not installed: {install_line('ray')}") from error
    # Its own words about tasks and its dashboard are for people who know Ray.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address == LOCAL:
        options["num_cpus"] = by_engine.cores()
    else:
        del options["include_dashboard"]
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        message = f"--ray {address}: no cluster answers there ({error})"
        raise CheckFailedError(f"{message}: start one with ray start --head, or give --ray local") from error
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        yield Cluster(tuple(int(node["Resources"].get("CPU", 0)) for node in nodes if node["Resources"].get("CPU")))
    finally:
        ray.shutdown()


def answers(cluster: Cluster, path: Path, files: Iterable[File], wanted: Wanted) -> Generator[list[Answered]]:
    """What becomes of the files, as machines get done with them."""
    import pyarrow
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    engine = ray.put(
        {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    )
    threads = _best_threads(cluster, engine, wanted)
    actors = sum(cores // threads for cores in cluster.cores)
    say(f"{len(cluster.cores)} machines, {sum(cluster.cores)} cores: {actors} engines of {threads} threads each")
    blocks = [pyarrow.Table.from_pylist([file._asdict() for file in block], _SCHEMA()) for block in _blocks(files)]
    found = ray.data.from_arrow(blocks).map_batches(
        _Actor,
        fn_constructor_args=(engine, wanted, threads),
        batch_size=_TASK_BATCHES * 8,
        num_cpus=threads,
        concurrency=(1, actors),
    )
    for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield [_unpacked(item) for item in batch.to_pylist()]
