"""`rrr evaluate`: accuracy, NLL and calibration of a checkpoint or an engine, each member and the ensemble."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rrrbuild.evaluation import SPLITS, open_model, predict, write_predictions
from rrrnet import output
from rrrnet.errors import UsageError
from rrrnet.metrics import score


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT|ENGINE", help="A checkpoint or an engine folder.")],
    data: Annotated[Path | None, typer.Option(help="Data folder; default: the one it was trained on.")] = None,
    split: Annotated[str, typer.Option(help="test, val, train or all.")] = "test",
    predictions: Annotated[
        Path | None, typer.Option(help="Also write every image's member probabilities to this .npz file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a checkpoint or an engine on real images."""
    if split not in SPLITS:
        raise UsageError(f"--split {split}: allowed are {', '.join(SPLITS)}")
    subject = open_model(model)
    if predictions is not None and not predictions.parent.is_dir():
        raise UsageError(f"--predictions {predictions}: there is no folder {predictions.parent}")
    found = predict(subject, data, split)
    scores = score(found.probabilities, found.labels)
    if predictions is not None:
        write_predictions(found, predictions)
    document = {
        "name": subject.source.name,
        "target": subject.target,
        "data": str(found.root),
        "split": split,
        "data_matches": found.data_matches,
        "left_out_by_kind": dict(Counter(lost.kind for lost in found.left_out)),
        **scores,
    }
    if as_json:
        output.print_json(document)
    else:
        output.console.print(_table(document))


def _table(document: dict[str, Any]) -> Table:
    title = f"{document['name']} ({document['target']}): {document['images']} {document['split']} images"
    table = Table("", "accuracy", "NLL", "ECE", title=title)
    members = document["members"]
    rows = [("ensemble" if len(members) > 1 else "network", document)]
    rows += [(f"member {index}", row) for index, row in enumerate(members)] if len(members) > 1 else []
    for name, row in rows:
        table.add_row(name, f"{row['accuracy']:.3f}", f"{row['nll']:.3f}", f"{row['ece']:.3f}")
    return table
