"""`rrr repository`: engines to a Triton model repository."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rrrbuild.repository_document import DEFAULT_REPOSITORY
from rrrnet import output, tables
from rrrnet.errors import UsageError

if TYPE_CHECKING:
    from rrrbuild.repository_document import Repository


def repository(
    engines: Annotated[
        list[Path],
        typer.Argument(
            help="Folders that rrr build wrote, or a model's folder with several, of which the best that runs here is "
            "taken; the first is the default model."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The repository's folder.")] = DEFAULT_REPOSITORY,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A model's name, once for each engine in turn.", show_default="the engines' own names"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads for one inference.", show_default="the runtime decides")
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            help="Backends of the Triton that will serve it, like tensorrt,python.",
            show_default="those of this machine's tritonserver",
        ),
    ] = None,
    split_as: Annotated[
        str | None,
        typer.Option(
            metavar="process|ensemble",
            help="Engines of plan split: one process that runs the members side by side, or a Triton ensemble of a "
            "model for each.",
            show_default="ensemble where Triton has a native backend for the engine",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a Triton model repository from engines, for the tritonserver of this machine or another."""
    from rrrbuild.best_engine import best_engines
    from rrrbuild.repository import write_repository
    from rrrbuild.serving_check import obstacles
    from rrrserve.versions.running_services import take_up

    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}: allowed is 1 or more")
    taken, chosen = best_engines(engines, output.say)
    with output.Working(escape(f"writing {out}")):
        written = write_repository(
            taken,
            out,
            backends=_backends(backends),
            names=name or (),
            threads=threads,
            split_as=split_as,
            report=output.say,
        )
    found = obstacles(written)
    if as_json:
        models = [model.to_json() | {"obstacle": found.get(model.name)} for model in written.models]
        output.print_json({"path": str(written.path), "models": models, "chosen": [each.to_json() for each in chosen]})
    else:
        tables.print_table(_table(written))
        output.next_step(*(("rrr", "targets") if found else take_up(out)))
    for model_name, obstacle in found.items():
        line = f"{model_name} cannot run here: {obstacle}"
        output.print_line(line, to=output.messages if as_json else output.console)


def _table(written: "Repository") -> Table:
    """What it serves."""
    table = Table("model", "target", "backend", "members", "largest batch", title=escape(str(written.path)))
    for model in written.models:
        backend = f"{model.backend}, {len(model.steps)} steps" if model.steps else model.backend
        table.add_row(escape(model.name), model.target, backend, str(model.members), str(model.max_batch_size))
    return table


def _backends(given: str | None) -> frozenset[str]:
    """Those given, else those of this machine's tritonserver; the Python backend, if there is none."""
    if given is not None:
        return _checked(given)
    from rrrserve.triton.install import backends_here

    return backends_here(output.say)


def _checked(given: str) -> frozenset[str]:
    """A list like "tensorrt,python"."""
    from rrrbuild.repository_document import PYTHON_BACKEND
    from rrrbuild.targets import TARGETS

    known = {PYTHON_BACKEND, *(target.backend for target in TARGETS.values() if target.backend)}
    names = frozenset(name.strip() for name in given.split(","))
    if not names <= known:
        raise UsageError(f"--backends is {given!r}: allowed are {', '.join(sorted(known))}, with commas between them")
    return names
