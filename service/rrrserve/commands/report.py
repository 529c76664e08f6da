"""`rrr report`: all that is known about a model on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrrnet import output
from rrrnet.errors import UsageError
from rrrnet.files import check_writable, shown, write_atomically

if TYPE_CHECKING:
    from rrrserve.report.sources import Sources
    from rrrserve.report.trust import Answers


def report(
    model: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="A model's name, checkpoint, engine or repository.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="The page.", show_default="none")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE.md", help="The same without drawings.")] = None,
    repository: Annotated[
        Path | None, typer.Option(metavar="REPO", help="What serves it.", show_default="the one beside its artifacts")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="DIR", show_default="found by the name")] = None,
    engine: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="May be repeated.", show_default="found by the name")
    ] = None,
    bench: Annotated[list[Path] | None, typer.Option(metavar="FILE.json", help="Of rrr bench --out.")] = None,
    verdicts: Annotated[list[Path] | None, typer.Option(metavar="FILE.json", help="Of rrr verify --json.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Of rrr evaluate --predictions, for the calibration.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Predict its test split now, instead of --predictions.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a page about a model: network, accuracy, calibration, engines, latency, claims, environment."""
    from rrrbuild.machine import require
    from rrrserve.report import collect
    from rrrserve.report.claims import claims_section
    from rrrserve.report.inputs import read_bench, read_verdicts
    from rrrserve.report.sources import find_sources
    from rrrserve.report.training import training_section
    from rrrserve.report.write import to_html, to_markdown

    if out is None and markdown is None and not as_json:
        raise UsageError("nowhere to write: give --out FILE.html, --markdown FILE.md or --json")
    if predictions is not None and data is not None:
        raise UsageError("give --predictions or --data, not both")
    for file, option in ((out, "--out"), (markdown, "--markdown")):
        if file is not None:
            check_writable(file, option=option)
    if out is not None:
        require("matplotlib", "report")
    benches = {shown(path.absolute()): read_bench(path) for path in bench or ()}
    runs = {shown(path.absolute()): read_verdicts(path) for path in verdicts or ()}
    sources = find_sources(model, repository=repository, checkpoint=checkpoint, engines=engine or ())
    answers = _answers(sources, predictions, data)
    document: dict[str, Any] = {
        "format": 1,
        "kind": "rrr-report",
        "name": sources.name,
        "model": collect.model_section(sources),
        "training": training_section(sources.checkpoint),
        "accuracy": collect.accuracy_section(sources.checkpoint, answers),
        "calibration": collect.calibration_section(sources, answers),
        "calibration_source": answers.source if answers else "",
        "mistakes": collect.mistakes_section(sources, answers),
        "engines": [collect.engine_section(item, sources) for item in sources.engines],
        "served": None
        if sources.repository is None or sources.served is None
        else {
            "path": shown(sources.repository.path),
            "name": sources.served.name,
            "target": sources.served.target,
            "backend": sources.served.backend,
        },
        "bench": collect.bench_section(benches, sources.names),
        "claims": claims_section(sources, runs),
        "environment": collect.environment_section(),
    }
    document["missing"] = collect.missing_section(document, sources.damaged)
    for file, write in ((out, to_html), (markdown, to_markdown)):
        if file is not None:
            write_atomically(file, write(document).encode())
            output.say(f"written: {file}")
    if as_json:
        output.print_json(document)
    elif out is not None:
        output.next_step("python3", "-m", "webbrowser", out.absolute().as_uri())
    else:
        output.next_step("less", markdown)


def _answers(sources: "Sources", file: Path | None, data: Path | None) -> "Answers | None":
    """Predictions of --predictions, or those that --data asks for; None without either."""
    from rrrbuild.evaluation import open_model, predict
    from rrrserve.report.inputs import files_of_predictions, read_predictions, words_of_predictions
    from rrrserve.report.trust import Answers

    shape = (sources.checkpoint or sources.engines[0]).architecture
    if file is not None:
        probabilities, labels = read_predictions(file, members=shape.members, classes=shape.num_classes)
        effort, target = words_of_predictions(file)
        records = [engine.confidence for engine in sources.engines if engine.target == target]
        files = files_of_predictions(file, len(labels))
        record = records[0] if records else None
        return Answers(probabilities, labels, files, f"predictions in {file.name}", effort, record)
    if data is None:
        return None
    subject = open_model(_predictor(sources))
    found = predict(subject, data, "test")
    source = f"{subject.target}, test split of {found.root.name}"
    return Answers(found.probabilities, found.labels, found.paths, source, found.effort, subject.confidence)


def _predictor(sources: "Sources") -> Path:
    """The engine that is fastest here, else the checkpoint."""
    from rrrserve.report.collect import engine_section

    rows = [(engine_section(item, sources), item.path) for item in sources.engines]
    usable = [(row["fastest"][0]["median"], path) for row, path in rows if row["runs_here"] and row["fastest"]]
    if usable:
        return min(usable)[1]
    if sources.checkpoint is not None:
        return sources.checkpoint.path
    raise UsageError("no engine of this model runs here and there is no checkpoint: give --predictions FILE.npz")
