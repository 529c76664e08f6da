"""`rrr sweep`: methods over data sets and seeds, and one table."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rrrnet import output, tables
from rrrnet.cluster import LOCAL, check_installed, connected
from rrrnet.errors import CheckFailedError, UsageError
from rrrnet.files import write_atomically
from rrrnet.processor import cores as available_cores
from rrrnet.stopping import stop_requested
from rrrnet.training.recipes import METHODS
from rrrnet.training.threads import configure_threads

if TYPE_CHECKING:
    from rrrnet.sweep.plan import Plan
    from rrrnet.sweep.runners import Runner

_STOPPING = "stopping; what was measured is kept"
_SPEED_SECONDS = 3600.0  # cells differ, so what is left is told from many of them


def sweep(
    data: Annotated[list[Path], typer.Argument(help="Data sets, each a folder that rrr train --data takes.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; what it has already is not trained again.")],
    methods: Annotated[str, typer.Option(help="Of rrr train --method, with commas between.")] = ",".join(METHODS),
    seeds: Annotated[int, typer.Option(help="Seeds of each method on each data set: 0, 1, ...")] = 3,
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet, none, or a file, as for rrr train.",
            show_default="imagenet, or none where the hub cannot be reached",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="resnet50, resnet101 or resnet152, as for rrr train.", show_default="of the weights"),
    ] = None,
    minutes_per_cell: Annotated[
        float | None,
        typer.Option(help="Train each for about so long; size and epochs follow, as of rrr train --minutes."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images; default: the recipe's.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the input in pixels.")] = None,
    recipe: Annotated[str, typer.Option(help="paper or quick, as for rrr train.")] = "quick",
    members: Annotated[int, typer.Option(help="Branches of the ensemble.")] = 8,
    slices: Annotated[
        str,
        typer.Option(help="Of ensembles, first or matched as for rrr train; columns of matched ones end so."),
    ] = "first",
    batch_size: Annotated[int | None, typer.Option(help="Images in a step; default: the recipe's.")] = None,
    lr: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD=VALUE[,VALUE...]",
            help="Peak learning rate of a method; of several, the first seed's validation images choose for each data "
            "set. May be repeated.",
            show_default="the recipe's",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Train reduced and ensemble by this method's answers too; their columns end in -taught."),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cores: Annotated[
        int | None,
        typer.Option(help="Of each cell; as many cells run at once as fit.", show_default="all of a machine"),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="local|ADDRESS", help="Run the cells as tasks of a Ray cluster.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every checkpoint, in OUT/models.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Train methods on data sets with several seeds and compare them: the paper's protocol.

    Each training is a cell with a file of its own. Ctrl-C keeps what was measured; the same command goes on.
    """
    configure_threads()
    from rrrnet.sweep.cells import Folder
    from rrrnet.sweep.plan import Plan, read_lrs
    from rrrnet.sweep.run import run

    if ray is not None:
        check_installed()
    training = {
        **_settled(data[0], out, weights, backbone),
        "minutes": minutes_per_cell,
        "epochs": epochs,
        "size": size,
        "recipe": recipe,
        "members": members,
        "batch_size": batch_size,
        "precision": precision,
        "device": device,
    }
    plan = Plan(
        data=tuple(path.absolute() for path in data),
        folder=Folder(out.absolute()),
        methods=tuple(dict.fromkeys(methods.split(","))),
        seeds=seeds,
        training={name: value for name, value in training.items() if value is not None},
        lrs=read_lrs(lr or []),
        teacher=teacher,
        slices=slices,
        keep=keep,
    )
    most = available_cores()
    if cores is not None and not 1 <= cores <= most and ray is None:
        raise UsageError(f"--cores {cores}: allowed are 1 to {most}, those of this machine")
    waiting = _waiting(plan)
    complete = True
    if waiting:
        with stop_requested(_STOPPING) as requested, _runner(ray, cores) as runner, _bar(len(waiting)) as show:
            requested.running = True
            complete = run(plan, waiting, runner, stop=lambda: requested.stop, show=show, say=output.say)
    _finish(plan, complete=complete, as_json=as_json)


def _settled(data: Path, out: Path, weights: str | None, backbone: str | None) -> dict[str, Any]:
    """The weights of all cells and their backbone, found here once and not in each of them."""
    from rrrnet.hub.reference import check_is_here
    from rrrnet.training.options import Options
    from rrrnet.training.settle import settle_weights

    if weights is not None:
        check_is_here(weights)
    given = "imagenet" if weights is None else weights
    if given not in ("imagenet", "none"):
        given = str(Path(given).absolute())  # child processes and other machines have folders of their own
    options = Options(data=data, out=out, weights=given, weights_given=weights is not None, backbone=backbone)
    found = settle_weights(options, output.say)
    return {"weights": found.weights, "backbone": found.backbone}


def _waiting(plan: "Plan") -> list[Any]:
    """The cells that are left, said aloud."""
    from rrrnet.sweep.cells import check_settings

    measured, cells = plan.folder.results(), plan.cells()
    check_settings(measured, plan.shared_settings(), {cell: plan.own_settings(cell) for cell in cells})
    waiting = plan.to_run(measured)
    known = sum(cell in measured for cell in cells)
    output.say(f"{len(cells)} cells: {known} are measured already, {len(waiting)} to train")
    failed = plan.folder.failures()
    if again := [cell for cell in waiting if cell in failed]:
        output.say(f"{len(again)} of these failed before and are tried again, the first is {again[0]}")
    if taught := [cell for cell in waiting if cell in measured]:
        output.say(f"{len(taught)} of these are trained again to teach, since their checkpoints were not kept")
    return waiting


@contextmanager
def _runner(address: str | None, cores: int | None) -> "Iterator[Runner]":
    from rrrnet.sweep.runners import Processes, RayTasks

    if address is None:
        threads = cores or available_cores()
        slots = available_cores() // threads
        output.say(f"{_count(slots, 'cell')} at once, of {_count(threads, 'core')} each")
        yield Processes(slots, threads)
        return
    with connected(address) as cluster:
        threads = cores or min(cluster.cores)
        if threads > max(cluster.cores):
            raise CheckFailedError(f"--cores {threads}: the largest machine of the cluster has {max(cluster.cores)}")
        runner = RayTasks(cluster.cores, threads)
        where = "this machine" if address == LOCAL else f"{len(cluster.cores)} machines"
        output.say(f"Ray on {where}: {_count(runner.slots, 'cell')} at once, of {_count(threads, 'core')} each")
        yield runner


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


@contextmanager
def _bar(count: int) -> Iterator[Any]:
    with output.progress_bar(speed_over_seconds=_SPEED_SECONDS) as bar:
        task = bar.add_task("cells", total=count, text="")
        yield lambda done, text: bar.update(task, completed=done, text=escape(text))


def _finish(plan: "Plan", *, complete: bool, as_json: bool) -> None:
    """Write and print the table of all that the folder has; exit with 130 if it was stopped, with 1 if cells failed.

    Failed cells that are not asked for now are told in sweep.json alone.
    """
    from rrrnet.sweep import markdown, plot
    from rrrnet.sweep.cells import Cell
    from rrrnet.sweep.table import summarise

    folder, results = plan.folder, plan.folder.results()
    failures = folder.failures()
    lost = [str(cell) for cell in plan.to_run(results) if cell in failures]
    if results:
        failed = {str(cell): document["reason"] for cell, document in failures.items()}
        summary = {**summarise(results, order=METHODS), "settings": plan.shared_settings(), "failed": failed}
        write_atomically(
            folder.path / "sweep.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()
        )
        write_atomically(folder.path / "sweep.md", f"{markdown.tables(summary)}\n".encode())
        drawn = plot.draw(summary, folder.path / "sweep.svg")
        if as_json:
            output.print_json(summary)
        else:
            for title, (header, rows) in {
                "accuracy in %, mean (seeds; 95 % interval)": markdown.accuracy_table(summary),
                "over all data sets": markdown.methods_table(summary),
                "difference of accuracy in points (pairs; 95 % interval)": markdown.differences_table(summary),
            }.items():
                if rows:
                    tables.print_table(_table(title, header, rows))
            names = ["sweep.json", "sweep.md", *(["sweep.svg"] if drawn else [])]
            output.print_line(f"written to {folder.path}: {', '.join(names)}")
    if lost:
        output.say(f"{_count(len(lost), 'cell')} failed; the same command tries again: {', '.join(lost)}")
    if not complete:
        output.say("stopped: the same command goes on with what is left")
        raise typer.Exit(130)
    if lost:
        raise typer.Exit(CheckFailedError.exit_code)
    if not as_json:
        data = plan.data[0]
        best = Cell(data.name, min(summary["methods"], key=lambda row: row["rank"] or 0)["method"], 0)
        words = ["--method", best.trained_by, "--weights", plan.training["weights"]]
        words += ["--slices", "matched"] if best.matched else []
        output.next_step("rrr", "train", "--data", data, *words, "--out", f"artifacts/models/{data.name}")


def _table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    table = Table(*(escape(name) for name in header), title=title)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
