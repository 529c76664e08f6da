"""`rrr audit`: what answers give away about the images that a network was trained on."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rrrbuild.audit.audit import audit as audit_model
from rrrbuild.commands.first_step import to_repository
from rrrbuild.manifest import MANIFEST
from rrrnet import output, tables
from rrrnet.proportions import Interval


def audit(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT|ENGINE", help="A checkpoint or an engine folder.")],
    data: Annotated[Path | None, typer.Option(help="Data folder; default: the one it was trained on.")] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint trained on another part of the same data (--seed); may be given repeatedly."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how well attackers tell training images from others by the answers alone."""
    document = audit_model(model, data, reference or ())
    if as_json:
        output.print_json(document)
        return
    images = document["images"]
    title = (
        f"{document['name']} ({document['target']}): {images['train']} training images against "
        f"{images['val'] + images['test']} held out"
    )
    tables.print_table(_table(title, "attack", document["attacks"]))
    tables.print_table(_table("what an answer gives away, by the loss", "answer", document["answers"]))
    output.print_line("\n".join(meaning(document)))
    output.next_step(*(to_repository(model) if (model / MANIFEST).exists() else ("rrr", "build", model)))


def _table(title: str, what: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(what, "pairs told apart", "single images", "privacy", title=escape(title))
    for row in rows:
        table.add_row(row[what], *(str(Interval(**row[key])) for key in ("pairs", "single_images", "privacy")))
    return table


def meaning(document: Mapping[str, Any]) -> list[str]:
    """What the figures say, in sentences."""
    loss, accuracy = document["attacks"][0], document["accuracy"]
    told_apart = Interval(**loss["pairs"])
    if told_apart.low > 0.5:
        said = (
            f"of a training image and a held out one of its class, the lower loss tells which is which in "
            f"{told_apart.value:.0%} of pairs; guessing does in 50%: answers give away who was trained on"
        )
    else:
        said = (
            f"the loss tells a training image from a held out one of its class in {told_apart.value:.0%} of pairs, "
            "guessing in 50%: these attacks found nothing, which is no proof that there is nothing to find"
        )
    return [
        *(f"note: {note}" for note in document["notes"]),
        f"privacy {Interval(**document['privacy'])}, utility {Interval(**document['utility'])}; 1 is best, 0 worst",
        f"accuracy: {accuracy['train']:.3f} on training images, {accuracy['held_out']:.3f} on held out ones",
        said,
        f"in brackets: 95% intervals; those of pairs are as wide as of {document['pairs']} pairs that share no image",
    ]
