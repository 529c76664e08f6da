"""Images answered by engines on the machines of a Ray cluster: Ray Data hands files to actors, each with an engine.

The engine's files travel with the work, so that no machine needs to have them; images are read where they are answered,
so that each machine must see them under the same path or URI.
"""

import itertools
import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from rrrnet.cluster import Cluster, connected
from rrrnet.output import say
from rrrserve.batch.answers import Answered, Wanted
from rrrserve.batch.by_engine import LocalEngine
from rrrserve.batch.by_engine import answers as local_answers
from rrrserve.batch.listing import File

_FILES_AT_ONCE = 100_000  # known to Ray, which keeps all of them in memory
_FILES_OF_A_TASK = 128  # what a machine that dies takes with it is asked about again
_MEASURED_SECONDS = 2.0


def answers(address: str, path: Path, files: Iterable[File], wanted: Wanted) -> Generator[list[Answered]]:
    """What becomes of the files, as machines get done with them.

    Args:
        address: of a cluster, or `LOCAL`.
        path: the engine's folder, here.
        files: their number does not matter.
        wanted: what is asked.

    Raises:
        CheckFailedError: there is no such cluster, or an engine fails there.
    """
    # Ray writes to standard output what it has to say of machines that die.
    with redirect_stdout(sys.stderr), connected(address) as cluster:
        yield from _answers(cluster, path, files, wanted)


def _answers(cluster: Cluster, path: Path, files: Iterable[File], wanted: Wanted) -> Iterator[list[Answered]]:
    import pyarrow
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # only now, for it sets its own when it is imported
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    contents = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    engine = ray.put(contents)
    threads = _best_threads(cluster, engine, wanted)
    actors = max(1, sum(count // threads for count in cluster.cores))
    say(f"{len(cluster.cores)} machines, {sum(cluster.cores)} cores: {actors} engines of {threads} threads each")
    schema = pyarrow.schema(
        [("path", "string"), ("truth", "string"), ("named", pyarrow.bool_()), ("problem", "string")]
    )
    waiting = iter(files)
    while some := list(itertools.islice(waiting, _FILES_AT_ONCE)):
        blocks = (some[start : start + _FILES_OF_A_TASK] for start in range(0, len(some), _FILES_OF_A_TASK))
        tables = [pyarrow.Table.from_pylist([file._asdict() for file in block], schema) for block in blocks]
        found = ray.data.from_arrow(tables).map_batches(
            _Actor,
            # In a list: Ray would put the files themselves into each actor's arguments, and warn of it.
            fn_constructor_args=([engine], wanted, threads),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        )
        for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield [_unpacked(item) for item in batch.to_pylist()]


class _Actor:
    """One engine on one machine."""

    def __init__(self, engine: list[Any], wanted: Wanted, threads: int) -> None:
        self._engine, self._threads = _loaded(engine[0], wanted, threads), threads

    def __call__(self, files: Any) -> Any:
        """A table of files -> a table of what became of them."""
        import pyarrow

        asked = (File(**values) for values in files.to_pylist())
        found = itertools.chain.from_iterable(local_answers(self._engine, asked, self._threads))
        return pyarrow.Table.from_pylist([_packed(item) for item in found], pyarrow.schema(_packing()))


def _packing() -> list[tuple[str, Any]]:
    return [("path", "string"), ("row", "string"), ("scores", "binary"), ("members", "int32")]


def _packed(item: Answered) -> dict[str, Any]:
    scores = item.scores
    return {
        "path": item.path,
        "row": None if item.row is None else json.dumps(item.row),
        "scores": None if scores is None else scores.tobytes(),
        "members": None if scores is None else len(scores),
    }


def _unpacked(item: Mapping[str, Any]) -> Answered:
    row, scores = item["row"], item["scores"]
    return Answered(
        item["path"],
        None if row is None else json.loads(row),
        None if scores is None else np.frombuffer(scores, np.float32).reshape(item["members"], -1),
    )


def _loaded(engine: Any, wanted: Wanted, threads: int) -> LocalEngine:
    """The engine whose files are in Ray's store, loaded here."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        for name, content in ray.get(engine).items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return LocalEngine(Path(folder), wanted, threads)


def _best_threads(cluster: Cluster, engine: Any, wanted: Wanted) -> int:
    """Threads of each engine with which the smallest machine, full of such engines, answers most images a second."""
    import ray

    most = min(cluster.cores)
    sizes = sorted({1 << power for power in range(most.bit_length())} | {most})
    if len(sizes) == 1:
        return sizes[0]
    measure = ray.remote(num_cpus=most)(_images_per_second)
    # One after the other: together they would measure one another.
    found = {size: ray.get(measure.remote([engine], wanted, size, most // size)) for size in sizes}
    return max(found, key=lambda size: found[size])


def _images_per_second(engine: list[Any], wanted: Wanted, threads: int, engines: int) -> float:
    """Of so many engines at once in this process, each with so many threads."""
    loaded = [_loaded(engine[0], wanted, threads) for _ in range(engines)]
    counts = [0] * engines
    end = time.monotonic() + _MEASURED_SECONDS

    def work(number: int) -> None:
        images = loaded[number].example()
        while time.monotonic() < end:
            loaded[number].infer(images)
            counts[number] += len(images)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(engines)]
    start = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.monotonic() - start)
