"""`rrr evaluate`: accuracy, NLL and calibration of a checkpoint or an engine, each member and the ensemble."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from rrrbuild.cascade_runner import AUTO, EFFORTS
from rrrbuild.commands.first_step import to_repository
from rrrbuild.engine import check_effort
from rrrbuild.evaluation import SPLITS, answer_scores, open_model, predict, write_predictions
from rrrbuild.manifest import MANIFEST
from rrrnet import output, tables
from rrrnet.commands.score_tables import answer_lines, class_lines, scores_table
from rrrnet.errors import UsageError
from rrrnet.files import check_writable
from rrrnet.training.metrics import by_class


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT|ENGINE", help="A checkpoint or an engine folder.")],
    data: Annotated[Path | None, typer.Option(help="Data folder; default: the one it was trained on.")] = None,
    split: Annotated[str, typer.Option(help="test, val, train or all.")] = "test",
    effort: Annotated[
        str, typer.Option(help=f"Which members of a cascade are asked: {', '.join(EFFORTS)}; without one all are.")
    ] = AUTO,
    predictions: Annotated[
        Path | None, typer.Option(help="Also write every image's member probabilities to this .npz file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a checkpoint or an engine on real images."""
    if split not in SPLITS:
        raise UsageError(f"--split {split}: allowed are {', '.join(SPLITS)}")
    check_effort(effort)
    subject = open_model(model)
    if predictions is not None:
        check_writable(predictions, option="--predictions")
    found = predict(subject, data, split, effort)
    scores = answer_scores(found.probabilities, found.labels, subject.confidence, found.effort)
    scores |= by_class(found.probabilities, found.labels, subject.source.labels)
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
        title = f"{document['name']} ({document['target']}): {document['images']} {document['split']} images"
        tables.print_table(scores_table(title, scores))
        output.print_line("\n".join([*answer_lines(scores), *class_lines(scores)]))
        output.next_step(*(to_repository(model) if (model / MANIFEST).exists() else ("rrr", "build", model)))
