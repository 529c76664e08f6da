"""`rrr tune`: measure how many instances, threads and batches serve a model best here, and write it down."""

import asyncio
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from rrrbuild.repository_document import DEFAULT_REPOSITORY
from rrrnet import output, sealed, tables
from rrrnet.errors import CheckFailedError, ImageError, UsageError
from rrrnet.processor import cores as usable_cores

if TYPE_CHECKING:
    from rrrbuild.repository_document import Repository, ServedModel
    from rrrserve.tune.choose import Candidate, Figures

_MAX_CONCURRENCY = 1024
_START_SECONDS = 5  # a service, roughly, for the estimate


def tune(
    repository: Annotated[Path, typer.Argument(help="A repository made by rrr repository.")] = DEFAULT_REPOSITORY,
    p99_ms: Annotated[
        float | None,
        typer.Option(
            "--p99-ms", min=0.001, help="Limit to the 99th percentile; the most answers a second within it win."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model to tune.", show_default="the first")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="What requests send.", show_default="a JPEG of the model's size")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.05, max=3600, help="For each candidate and concurrency in each round.")
    ] = 1.0,
    concurrency: Annotated[str, typer.Option(metavar="N,N,...", help="Requests under way.")] = "1,4,16",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Turns of each candidate.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose instances, threads and batching of a served model by measurement, and write them into its repository."""
    from rrrbuild.repository_document import DOCUMENT, read_repository
    from rrrserve.bench.clients.images import photo_like
    from rrrserve.process.interrupts import unless_interrupted
    from rrrserve.stamps.environment import describe
    from rrrserve.tune.choose import choose
    from rrrserve.tune.measure import TunePlan, apply, measure
    from rrrserve.versions.catalogue import default_model
    from rrrserve.versions.running_services import take_up

    levels = _levels(concurrency)
    if not all(math.isfinite(value) for value in (seconds, p99_ms or 1.0)):
        raise UsageError("--seconds and --p99-ms must be finite numbers")
    read = read_repository(repository)
    seal = sealed.sha256_of(read.path / DOCUMENT)
    tuned = _no_ensemble(default_model(read, model, called="--model"))
    sealed.check_target(read.path, document=DOCUMENT)
    present, tried, left_out = _candidates(read, tuned)
    body = photo_like(tuned.image_size) if image is None else _image_bytes(image, tuned)
    plan = TunePlan(levels, rounds, seconds, body)
    _until_interrupted()
    estimate_seconds = rounds * len(tried) * (_START_SECONDS + 1.25 * seconds * len(levels))
    output.say(f"{len(tried)} candidates, {rounds} rounds: about {estimate_seconds:.0f} s")
    with output.progress_bar() as bar:
        task = bar.add_task("measuring", total=rounds * len(tried), completed=-1, text="")
        try:
            figures, failed = asyncio.run(
                unless_interrupted(
                    measure(read, tuned, tried, plan, lambda text: bar.update(task, advance=1, text=text))
                )
            )
        except asyncio.CancelledError:
            output.say(f"stopped; {repository} is as it was")
            raise typer.Exit(130) from None
        bar.update(task, completed=rounds * len(tried), text="")
    _until_interrupted()
    failed |= left_out
    try:
        chosen = choose(figures, p99_ms)
    except CheckFailedError:
        _show(None, tuned, present, figures, failed, as_json=as_json)
        raise
    document = {
        "model": tuned.name,
        "p99_limit_ms": p99_ms,
        "chosen": chosen.to_json(),
        "before": vars(present),
        "seconds": seconds,
        "rounds": rounds,
        "image": {"path": str(image) if image else "generated JPEG", "size_bytes": len(body)},
        **describe(),
        "figures": [row.to_json() for row in figures],
        "failed": [{**vars(candidate), "reason": reason} for candidate, reason in failed.items()],
    }
    apply(read, tuned, chosen.candidate, seal, document)
    _show(chosen, tuned, present, figures, failed, as_json=as_json, document=document)
    if not as_json:
        output.next_step(*take_up(repository))


def _until_interrupted() -> None:
    """End with exit code 130 on SIGTERM and Ctrl-C, outside of the event loop: nothing was tuned."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(130))


def _levels(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= _MAX_CONCURRENCY for word in words):
        raise UsageError(
            f"--concurrency is {text!r}: expected whole numbers from 1 to {_MAX_CONCURRENCY}, with commas between them"
        )
    return tuple(sorted({int(word) for word in words}))


def _no_ensemble(model: "ServedModel") -> "ServedModel":
    if model.steps:
        raise UsageError(
            f"{model.name} is a Triton ensemble of {len(model.steps)} models, which rrr tune leaves as they are: "
            "name another --model, or write it as one process with rrr repository --split-as process"
        )
    return model


def _image_bytes(path: Path, model: "ServedModel") -> bytes:
    """The file, once it is known that the model takes it."""
    from rrrnet.images.preprocess import image_to_array

    data = path.read_bytes()
    try:
        image_to_array(data, model.preprocess)
    except ImageError as error:
        raise ImageError(error.code, f"--image {path}: {error}; choose another image") from error
    return data


def _candidates(
    repository: "Repository", model: "ServedModel"
) -> "tuple[Candidate, tuple[Candidate, ...], dict[Candidate, str]]":
    """Present settings of a model of this repository, what to try, and what is left out for want of memory."""
    from rrrbuild.targets import target_named
    from rrrbuild.triton_config import CONFIG, read_config
    from rrrserve.process.memory import free_bytes, instance_bytes
    from rrrserve.triton.install import check_libpython, find_tritonserver
    from rrrserve.tune.choose import candidates, present_settings, within_memory

    install = find_tritonserver()
    if model.backend == "python":
        check_libpython(install)
    cores, on_gpu = usable_cores(), target_named(model.target).on_gpu
    folder = repository.path / model.name
    present = present_settings(read_config(folder / CONFIG), model.backend, cores=cores, on_gpu=on_gpu)
    found = candidates(present, cores=cores, on_gpu=on_gpu, batches=model.max_batch_size > 1)
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    each = instance_bytes(files, image_size=model.image_size, max_batch=model.max_batch_size)
    return present, *within_memory(found, instance_bytes=each, free_bytes=free_bytes())


def _show(
    chosen: "Figures | None",
    model: "ServedModel",
    present: "Candidate",
    figures: "list[Figures]",
    failed: "dict[Candidate, str]",
    *,
    as_json: bool,
    document: dict[str, Any] | None = None,
) -> None:
    if as_json:
        output.print_json(document or {"model": model.name, "chosen": None, "figures": [f.to_json() for f in figures]})
        return
    numbers = ("at once", "p50 (ms)", "p99 (ms)", "answers/s")
    table = Table(Column("candidate", no_wrap=True), *numbers, "", title=escape(model.name))
    for row in figures:
        mark = "chosen" if row is chosen else "now" if row.candidate == present else ""
        cells = (f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", f"{row.throughput:.1f}")
        table.add_row(str(row.candidate), str(row.concurrency), *cells, mark)
    tables.print_table(table)
    for candidate, reason in failed.items():
        output.say(f"left out: {candidate}: {reason}")
    if chosen is not None:
        output.print_line(f"written: {chosen.candidate}")
