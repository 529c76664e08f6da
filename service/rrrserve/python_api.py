"""What `rrrserve` exports for Python beside its clients (docs/python.md): the functions of its commands.

Imported when one of its names is first used.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from rrrbuild.repository_document import DEFAULT_REPOSITORY, Repository
from rrrnet import output
from rrrnet.errors import CheckFailedError
from rrrnet.python_api import needing
from rrrserve.versions.running_services import running_services

AnyPath: TypeAlias = str | os.PathLike[str]
_POLL_SECONDS = 0.05


@needing("build")
def write_repository(
    engines: AnyPath | Sequence[AnyPath],
    out: AnyPath = DEFAULT_REPOSITORY,
    *,
    names: Sequence[str] = (),
    threads: int | None = None,
    backends: Collection[str] | None = None,
    split_as: str | None = None,
    say: Callable[[str], None] = output.say,
) -> Repository:
    """Write a Triton model repository from engines, as `rrr repository` does.

    Args:
        engines: one or several folders that `rrrbuild.build_engine` wrote, or a model's folder with several, of which
            the best that runs here is taken; the first is the default model.
        out: the repository's folder.
        names: the models' names, one for each engine; by default the engines' own.
        threads: CPU threads for one inference; None leaves the choice to the runtime.
        backends: of the Triton that will serve it; None takes those of this machine's.
        split_as: engines of plan `split` as "process" or "ensemble"; see `rrr repository --help`.
        say: is told what was chosen; by default it is written to standard error.

    Raises:
        UsageError: two models of one name, a name that is not allowed, or no engines.
        ArtifactError: an engine is damaged.
        IncompatibleError: no engine of a model's folder runs here, or no backend fits.
    """
    from rrrbuild import repository
    from rrrbuild.best_engine import best_engines
    from rrrserve.triton.install import backends_here

    given = [engines] if isinstance(engines, str | os.PathLike) else engines
    taken, _ = best_engines([Path(folder) for folder in given], say)
    return repository.write_repository(
        taken,
        Path(out),
        backends=backends_here(say) if backends is None else frozenset(backends),
        names=names,
        threads=threads,
        split_as=split_as,
        report=say,
    )


@contextmanager
def serve(repository: AnyPath = DEFAULT_REPOSITORY, *options: str, port: int = 0) -> Iterator[str]:
    """Run `rrr serve` beside this process while the block runs; gives its URL once every model answers.

    What it says goes to this process's standard error. A service that shall outlast the process is started by
    `rrr serve` itself.

    Args:
        repository: the folder that `write_repository` wrote.
        options: further flags, such as "--workers", "1"; without --drain it stops at once.
        port: 0 takes a free one.

    Raises:
        CheckFailedError: it ended before it was ready; what it said tells why.
    """
    main = "import sys; from rrrserve.cli import main; main()"
    command = [sys.executable, "-c", main, "serve", str(repository), "--port", str(port), "--drain", "0", *options]
    with subprocess.Popen(command) as process:
        try:
            while not (found := [service.url for service in running_services() if service.pid == process.pid]):
                if process.poll() is not None:
                    raise CheckFailedError(f"rrr serve ended with {process.returncode} before it was ready: see above")
                time.sleep(_POLL_SECONDS)
            yield found[0]
        finally:
            process.terminate()
