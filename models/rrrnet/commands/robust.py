"""`rrr robust`: a checkpoint under corruptions and attacks, its weak spots, and accuracy by factor."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rrrnet import output, tables
from rrrnet.checkpoint import read_checkpoint
from rrrnet.robust.factors import ends
from rrrnet.robust.questions import DEFAULT_EPS, DEFAULT_IMAGES, DEFAULT_STEPS, SECTIONS, Questions, eps_of
from rrrnet.stopping import stop_requested
from rrrnet.training.threads import configure_threads

_EPS = ",".join(f"{radius:g}" for radius in DEFAULT_EPS)
_STOPPING = "stopping: what was measured is told (again: stop now and lose it)"


def robust(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that rrr train wrote.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data folder; of one that the split does not know all images are taken.",
            show_default="the one it was trained on",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Some of factors, corruptions, attack, sensitivity, with commas.", show_default="all"),
    ] = None,
    images: Annotated[
        int, typer.Option(help="The most test images to corrupt and attack; factors look at all.")
    ] = DEFAULT_IMAGES,
    eps: Annotated[str, typer.Option(help="Largest changes of a pixel by an attack, of 255, ascending.")] = _EPS,
    steps: Annotated[int, typer.Option(help="Gradient steps of an attack.")] = DEFAULT_STEPS,
    seed: Annotated[int, typer.Option(help="Decides noise and random starts.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure accuracy under corruptions, under attack and by factor, and which module the answer hangs on.

    Test images only. Ctrl-C ends with what was measured so far.
    """
    read = read_checkpoint(checkpoint)
    configure_threads()
    from rrrnet.robust.measure import images_of, measure, pieces
    from rrrnet.training.devices import find_device

    sections = SECTIONS if only is None else tuple(word.strip() for word in only.split(","))
    questions = Questions(sections, images, eps_of(eps), steps, seed, find_device(device))
    with output.progress_bar() as bar, stop_requested(_STOPPING) as requested:
        task = bar.add_task(read.name, total=None, text="reading images")
        chosen = images_of(read, data)
        bar.update(task, total=pieces(read, questions))

        def step(text: str, done: int) -> None:
            requested.running = True
            bar.update(task, completed=done, text=escape(text))

        found = measure(read, chosen, questions, step=step, check=requested.check)
        if found["complete"]:
            bar.update(task, completed=pieces(read, questions), text="")
    document = {"name": read.name, "path": str(checkpoint), "data": str(chosen.root), "seed": seed, **found}
    if as_json:
        output.print_json(document)
    else:
        _show(document)
    if not found["complete"]:
        output.say("stopped: this is what was measured; the same command with --only NAME measures a part")
        raise typer.Exit(130)
    if not as_json:
        output.next_step("rrr", "build", checkpoint)


def _show(document: dict[str, Any]) -> None:
    """A table for each section that has rows, and below it what it means."""
    shows: dict[str, Callable[[Any], None]] = {
        "factors": _show_factors,
        "corruptions": _show_corruptions,
        "attack": _show_attack,
        "sensitivity": _show_sensitivity,
    }
    for section, show in shows.items():
        found = document.get(section)
        if found and (section != "sensitivity" or found["modules"]):
            show(found)


def _show_factors(found: dict[str, Any]) -> None:
    if found["columns"]:
        title = f"accuracy by factor, {found['images']} test images"
        table = Table("factor", "value", "images", "accuracy", "95 % interval", title=title)
        for column in found["columns"]:
            for group in column["groups"]:
                table.add_row(escape(column["column"]), escape(group["value"]), str(group["images"]), *_figures(group))
        tables.print_table(table)
    lines = []
    for column in found["columns"]:
        low, high = ends(column["groups"])
        apart = "the intervals are apart" if column["differs"] else "which these images do not tell apart"
        lines.append(
            f"{column['column']}: {low['accuracy']:.1%} ({low['value']}) to {high['accuracy']:.1%} ({high['value']}), "
            f"{apart}"
        )
    lines += [f"{name} tells nothing: {reason}" for name, reason in found["left_out"].items()]
    output.print_line("\n".join(lines or ["labels.csv has no columns beside the class: no factors to tell by"]))


def _show_corruptions(rows: Sequence[dict[str, Any]]) -> None:
    clean, *others = rows
    table = Table(
        "corruption",
        *(f"severity {row}" for row in range(1, 6)),
        "mean",
        title=f"accuracy under corruptions, {clean['images']} test images",
    )
    means = {}
    for name in dict.fromkeys(row["corruption"] for row in others):
        found = [row["accuracy"] for row in others if row["corruption"] == name]
        means[name] = sum(found) / len(found)
        cells = [f"{value:.1%}" for value in found] + [""] * (5 - len(found))
        table.add_row(name, *cells, f"{means[name]:.1%}")
    tables.print_table(table)
    line = f"without: {clean['accuracy']:.1%}"
    if means:
        worst = min(means, key=means.__getitem__)
        line += f"; {worst} costs most, {100 * (clean['accuracy'] - means[worst]):.1f} points on average"
    output.print_line(line)


def _show_attack(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(
        "largest change",
        "accuracy",
        "95 % interval",
        "members, mean",
        title=f"accuracy under attack (PGD on the ensemble), {rows[0]['images']} test images",
    )
    for row in rows:
        mean = sum(row["members"]) / len(row["members"])
        table.add_row("none" if row["eps"] == 0 else f"{row['eps']:g}/255", *_figures(row), f"{mean:.1%}")
    tables.print_table(table)
    if len(rows) > 1:
        first = rows[1]
        output.print_line(
            f"changes of at most {first['eps']:g}/255, made by one who has the network, take accuracy from "
            f"{rows[0]['accuracy']:.1%} to {first['accuracy']:.1%}"
        )


def _show_sensitivity(found: dict[str, Any]) -> None:
    rows = found["modules"]
    title = (
        f"MRS-style sensitivity: rise of the loss (nats) when a module's weights move by {found['radius']:.0%} of "
        f"their norm, {found['images']} test images, attack of {found['eps']:g}/255"
    )
    table = Table("module", "of", "attacked", "clean", title=title)
    for row in rows:
        of = "the stem" if row["member"] is None else f"member {row['member']}"
        table.add_row(row["stage"], of, f"{row['rise_attacked']:+.3f}", f"{row['rise_clean']:+.3f}")
    tables.print_table(table)
    top = max(rows, key=lambda row: float(row["rise_attacked"]))
    of = "of the stem, which all members share" if top["member"] is None else f"of member {top['member']}"
    output.print_line(f"the answer hangs most on {top['stage']} {of} (+{top['rise_attacked']:.3f} nats)")
    members: dict[int, float] = {}
    for row in rows:
        if row["member"] is not None:
            members[row["member"]] = members.get(row["member"], 0.0) + row["rise_attacked"]
    if len(members) > 1:
        ranked = sorted(members, key=members.__getitem__)
        output.print_line(
            f"of the members it hangs least on member {ranked[0]} ({members[ranked[0]]:+.3f} nats over its modules), "
            f"most on member {ranked[-1]} ({members[ranked[-1]]:+.3f})"
        )


def _figures(row: dict[str, Any]) -> tuple[str, str]:
    low, high = row["interval"]
    return f"{row['accuracy']:.1%}", f"{low:.1%} to {high:.1%}"
