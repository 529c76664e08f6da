"""`rrr evaluate`: accuracy, NLL and calibration of a checkpoint or an engine, each member and the ensemble."""

from pathlib import Path
from typing import Annotated

import typer

from rrrbuild.cascade_runner import AUTO, EFFORTS
from rrrbuild.commands.first_step import to_repository
from rrrbuild.evaluation import evaluate as evaluate_model
from rrrbuild.evaluation import write_predictions
from rrrbuild.manifest import MANIFEST
from rrrnet import output, tables
from rrrnet.checkpoint import local_checkpoint
from rrrnet.commands.score_tables import answer_lines, class_lines, scores_table
from rrrnet.files import check_writable
from rrrnet.hub.reference import named


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT|ENGINE", help="A checkpoint (or hf://OWNER/NAME) or an engine folder.")
    ],
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
    if predictions is not None:
        check_writable(predictions, option="--predictions")
    model = local_checkpoint(model, output.say)
    evaluation = evaluate_model(model, data, split, effort)
    if predictions is not None:
        write_predictions(evaluation.predictions, predictions)
    document = evaluation.document
    if as_json:
        output.print_json(document)
    else:
        title = f"{document['name']} ({document['target']}): {document['images']} {document['split']} images"
        tables.print_table(scores_table(title, document))
        output.print_line("\n".join([*answer_lines(document), *class_lines(document)]))
        output.next_step(*(to_repository(model) if (model / MANIFEST).exists() else ("rrr", "build", named(model))))
