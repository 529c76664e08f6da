"""Run the cells that are left, as many at once as there is room for, each when those that it waits for are done."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rrrnet.errors import RRRError
from rrrnet.sweep.cells import Cell, changed, images_of
from rrrnet.sweep.plan import Plan
from rrrnet.sweep.runners import Event, Runner
from rrrnet.sweep.training import Request, Result

_POLL_SECONDS = 0.5
Show = Callable[[float, str], None]


def run(
    plan: Plan, cells: list[Cell], runner: Runner, *, stop: Callable[[], bool], show: Show, say: Callable[[str], None]
) -> bool:
    """Train the cells; each leaves a file as soon as it is done.

    Args:
        plan: of the sweep.
        cells: to train, those that others wait for before these.
        runner: trains them.
        stop: asked twice a second; true ends what runs and keeps what was measured.
        show: told how many cells are done, parts of cells included, and what runs.
        say: told how each cell ended.

    Returns:
        Whether it got to the end; cells may have failed all the same, as all do whose data set has changed since others
        of its cells were measured.

    Raises:
        ArtifactError: cells of one data set were measured on different images before.
    """
    settings, asked, images = plan.shared_settings(), set(cells), images_of(plan.folder.results())
    waiting, shares, done, failed = list(cells), dict[Cell, float](), 0, set[Cell]()
    other_images: dict[str, Cell] = {}  # data sets that have changed, each with the cell that showed it
    try:
        while waiting or shares:
            for cell in list(waiting):
                needed = [need for need in plan.needs(cell) if need in asked]
                if reason := _hopeless(cell, needed, failed, other_images):
                    waiting.remove(cell)
                    failed.add(cell)
                    done += 1
                    _keep(plan, cell, Result(None, reason), settings, say)
                elif len(shares) < runner.slots and not any(need in waiting or need in shares for need in needed):
                    waiting.remove(cell)
                    try:
                        request = _request(plan, cell, settings)
                    except RRRError as error:  # what it needs has vanished meanwhile
                        failed.add(cell)
                        done += 1
                        _keep(plan, cell, Result(None, str(error)), settings, say)
                    else:
                        shares[cell] = 0.0
                        runner.start(cell, request)
            for event in runner.poll(_POLL_SECONDS):
                if event.result is None:
                    shares[event.cell] = event.share
                else:
                    del shares[event.cell]
                    shutil.rmtree(_stage(plan, event.cell), ignore_errors=True)  # a process that crashed leaves it
                    done += 1
                    result = event.result
                    if result.document and not _same_images(event.cell, result.document, images):
                        other_images.setdefault(event.cell.dataset, event.cell)
                        shutil.rmtree(plan.folder.model(event.cell), ignore_errors=True)  # it teaches no other
                        result = Result(None, changed(event.cell), result.said)
                    if result.document is None:
                        failed.add(event.cell)
                    _keep(plan, event.cell, result, settings, say)
                show(done + sum(shares.values()), _text(event))
            if stop():
                return False
        return True
    finally:
        runner.stop()
        for cell in shares:
            shutil.rmtree(_stage(plan, cell), ignore_errors=True)


def _hopeless(cell: Cell, needed: list[Cell], failed: set[Cell], other_images: Mapping[str, Cell]) -> str:
    """Why a cell need not be tried; empty if it has to be."""
    if first := other_images.get(cell.dataset):
        return f"its images have changed, as {first} told"
    return next((f"it needs {need}, which failed" for need in needed if need in failed), "")


def _same_images(cell: Cell, document: Mapping[str, Any], images: dict[str, str]) -> bool:
    """Whether a cell saw the images of its data set's others; the first one's are put into `images`."""
    digest: str = document["data_sha256"]
    return images.setdefault(cell.dataset, digest) == digest


def _text(event: Event) -> str:
    return f"{event.cell} {event.text}".strip()


def _request(plan: Plan, cell: Cell, settings: dict[str, Any]) -> Request:
    """What a cell is trained with; of several learning rates only the first seed tries all."""
    lrs = plan.lrs_of(cell)
    if plan.chooses(cell) and (needed := [need for need in plan.needs(cell) if need.method == cell.method]):
        lrs = (plan.folder.results()[needed[0]]["lr"],)
    model, stage = plan.folder.model(cell), _stage(plan, cell)
    outs = [stage / str(number) / model.name for number in range(len(lrs))]
    return Request(
        options=tuple(plan.options(cell, lr, out) for lr, out in zip(lrs, outs, strict=True)),
        out=model if plan.keeps(cell) else None,
        stage=stage,
        settings=settings | plan.own_settings(cell),
    )


def _stage(plan: Plan, cell: Cell) -> Path:
    """Where a cell's checkpoints are written; the last folder's name becomes the model's."""
    model = plan.folder.model(cell)
    return model.with_name(f".{model.name}")


def _keep(plan: Plan, cell: Cell, result: Result, settings: dict[str, Any], say: Callable[[str], None]) -> None:
    """Write the file of a cell, and say how it ended."""
    if result.document is None:
        failure = {"reason": result.reason, "said": list(result.said), "settings": settings | plan.own_settings(cell)}
        plan.folder.write_failure(cell, failure)
        say(f"{cell} failed: {result.reason}")
        return
    found = result.document
    plan.folder.write(cell, {**found, "said": list(result.said)})
    say(f"{cell}: {found['correct']} of {found['images']} right ({found['accuracy']:.3f}), {found['seconds']:.0f} s")
