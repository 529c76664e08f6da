"""`rrr repository`: engines to a Triton model repository."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rrrbuild.repository_document import DEFAULT_REPOSITORY
from rrrbuild.samples import MOST_SAMPLES
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
        typer.Option(
            help="A model's name, or NAME@VERSION, once for each engine in turn.", show_default="the engines' own names"
        ),
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
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_SAMPLES,
            metavar="N",
            help="Put N test images of the first engine's data set into it, for the page of rrr serve.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where these are; default: the data set that the engine remembers.")
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
    if data is not None and samples is None:
        raise UsageError("--data is where --samples N takes its images from: give both, or none")
    taken, chosen = best_engines(engines, output.say)
    with output.Working(escape(f"writing {out}")):
        written = write_repository(
            taken,
            out,
            backends=_backends(backends),
            names=name or (),
            threads=threads,
            split_as=split_as,
            samples=() if samples is None else _test_images(taken[0], data, samples),
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


def _test_images(engine: Path, data: Path | None, count: int) -> list[tuple[Path, str]]:
    """Files and labels of at most `count` images that the engine's model was not trained on, spread over its classes.

    Raises:
        UsageError: it is not known which those are.
        ArtifactError: the data set has a class that the model does not know.
    """
    from rrrbuild.manifest import read_engine
    from rrrnet.checkpoint import SPLIT
    from rrrnet.data.dataset import even_places, read_split
    from rrrserve.judge.labelled import Recorded, labelled_images

    manifest = read_engine(engine)
    parts = read_split(engine / SPLIT) if SPLIT in manifest.files else None
    if parts is None and data is None:
        raise UsageError(
            f"--samples {count}: {engine} does not tell which images its model was trained on: give others with "
            "--data DIR"
        )
    found = labelled_images(data, Recorded(parts, manifest.data), manifest.labels, "all")
    places = even_places(len(found.paths), count)
    output.say(f"{len(places)} samples of {found.used}")
    return [(found.paths[place], found.labels[place]) for place in places]


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
