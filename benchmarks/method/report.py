"""The tables of docs/method.md, from folders of `rrr sweep`; nothing is measured.

    .venv/bin/python benchmarks/method/report.py artifacts/sweep artifacts/sweep-scratch --pretrained FILE.json
    .venv/bin/python benchmarks/method/report.py    # only writes the page again

What the folders hold goes into benchmarks/results/method.json, each under its own name beside those of earlier calls;
from that file the page is written and the plots are drawn.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rrrbench.environment import RESULTS, ROOT, rounded
from rrrbench.method_claims import judgements
from rrrnet.sweep import markdown, plot
from rrrnet.sweep.cells import Folder
from rrrnet.sweep.table import summarise
from rrrnet.training.recipes import METHODS

RESULT, PAGE = RESULTS / "method.json", ROOT / "docs" / "method.md"
BEGIN = "<!-- method figures: written by benchmarks/method/report.py -->"
END = "<!-- end of method figures -->"
NOTHING = "Nothing has been run yet: there are no figures."
_KEPT = ("accuracy", "correct", "images", "nll", "seconds", "lr", "epochs", "size", "val_accuracy", "command")
Document = Mapping[str, Any]


def collect(folder: Path) -> dict[str, Any]:
    """What a folder of `rrr sweep` says, JSON-ready: each cell and what they say together."""
    results = Folder(folder).results()
    if not results:
        raise SystemExit(f"{folder} holds no result of rrr sweep: there is no file in {folder / 'cells'}")
    first = next(iter(results.values()))
    failed = {str(cell): document["reason"] for cell, document in Folder(folder).failures().items()}
    return {
        "cells": {str(cell): _kept(document) for cell, document in results.items()},
        "failed": failed,
        "machines": sorted(
            {f"{each['machine']['cpu']}, {each['machine']['threads']} threads" for each in results.values()}
        ),
        "versions": first["versions"],
        "dates": sorted({document["date"] for document in results.values()}),
        "settings": {name: value for name, value in first["settings"].items() if name not in ("lr", "teacher")},
        "weights": sorted({document["weights"] for document in results.values()}),
        "summary": summarise(results, order=METHODS),
    }


def _kept(document: Document) -> dict[str, Any]:
    """The figures, and the command without places of this machine."""
    words = (Path(word).name if Path(word).is_absolute() else word for word in shlex.split(document["command"]))
    return {name: document[name] for name in _KEPT} | {"command": shlex.join(words)}


def text_of(document: Document) -> str:
    """What stands between the marks."""
    sweeps: Document = document.get("sweeps", {})
    blocks = [_pretrained(document.get("pretrained", {}))] if document.get("pretrained") else []
    for name, sweep in sweeps.items():
        blocks += [f"### {name}", _how(sweep), markdown.tables(sweep["summary"])]
        if sweep["summary"]["ranks"]["critical_difference"] is not None:
            blocks.append(f"![Average ranks of {name}]({picture(name)})")
        if judged := list(judgements(sweep["summary"])):
            blocks += ["What that says of the paper's sentences:", _rows(judged)]
    return "\n\n".join(blocks) or NOTHING


def picture(name: str) -> str:
    """The file of a sweep's plot, beside the page."""
    return f"method_{name}.svg"


def _how(sweep: Document) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in sweep["settings"].items())
    lines = [
        f"* {len(sweep['cells'])} trainings, {', '.join(sweep['dates'])}; {'; '.join(sweep['machines'])}",
        f"* start: {'; '.join(sweep['weights'])}",
        f"* settings: {settings}",
        f"* versions: {', '.join(f'{name} {value}' for name, value in sweep['versions'].items())}",
    ]
    lines += [f"* failed: {cell}: {reason}" for cell, reason in sweep["failed"].items()]
    return "\n".join(lines)


def _pretrained(files: Document) -> str:
    rows = ["| weights | images seen | classes | minutes | held-out accuracy | CPU |", "|---|---|---|---|---|---|"]
    for name, made in files.items():
        right = f"{made['val_correct']} of {made['val_images']}" if "val_correct" in made else ""
        minutes = f"{made['seconds'] / 60:.0f}" if "seconds" in made else ""
        cpu = made["environment"]["machine"]["cpu"]
        seen, classes = made.get("images_seen", ""), made.get("classes", "")
        rows.append(f"| {name}: {made['what']} | {seen} | {classes} | {minutes} | {right} | {cpu} |")
    commands = [f"* {name}: `{made['environment']['command']}`" for name, made in files.items()]
    return "\n".join(["### Pre-trained weights\n", *rows, "", *commands])


def _rows(judged: Sequence[tuple[str, str, str]]) -> str:
    rows = [f"| {sentence} | {measured} | {verdict} |" for sentence, measured, verdict in judged]
    return "\n".join(["| the paper says | measured here | |", "|---|---|---|", *rows])


def write_page(page: Path, text: str) -> None:
    """Replace what stands between the marks."""
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main(words: Sequence[str] | None = None) -> None:
    """Collect the folders, write the result file, the page and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", type=Path, help="folders of rrr sweep; their names are kept")
    parser.add_argument("--pretrained", action="append", default=[], type=Path, help="a JSON file of pretrain.py")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page; plots go beside it")
    options = parser.parse_args(words)
    document: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    sweeps = {path.resolve().name: collect(path) for path in options.sweeps}
    pretrained = {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in options.pretrained}
    document["sweeps"] = document.get("sweeps", {}) | rounded(sweeps)
    document["pretrained"] = document.get("pretrained", {}) | rounded(pretrained)
    if options.sweeps or options.pretrained:
        options.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    text = text_of(document)
    print(text)
    write_page(options.page, text)
    for name, sweep in document["sweeps"].items():
        plot.draw(sweep["summary"], options.page.with_name(picture(name)))


if __name__ == "__main__":
    main()
