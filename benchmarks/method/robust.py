"""Robustness of checkpoints, by `rrr robust`'s own functions, and the tables of docs/robust.md.

.venv/bin/python benchmarks/method/robust.py CHECKPOINT ...                 all sections; some minutes each on 2 cores
.venv/bin/python benchmarks/method/robust.py CHECKPOINT --only corruptions
.venv/bin/python benchmarks/method/robust.py --tables                       nothing is measured
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rrrbench.environment import RESULTS, ResultFile
from rrrnet.checkpoint import read_checkpoint
from rrrnet.robust.factors import ends
from rrrnet.robust.measure import images_of, measure
from rrrnet.robust.questions import DEFAULT_IMAGES, SECTIONS, Questions


def run(path: Path, result: ResultFile, *, only: tuple[str, ...], images: int) -> None:
    """One checkpoint, each section a case of its own."""
    checkpoint = read_checkpoint(path)
    chosen = images_of(checkpoint, None)
    for section in only:
        questions = Questions(only=(section,), images=images)

        def call(questions: Questions = questions, section: str = section) -> dict[str, Any]:
            found = measure(
                checkpoint, chosen, questions, step=lambda text, _: print(f"  {text}", flush=True), check=lambda: None
            )
            return {"members": checkpoint.architecture.members, "found": found[section]}

        print(f"{path.name}: {section}", flush=True)
        result.measure(section, {"checkpoint": path.name}, call)


def tables(document: dict[str, Any]) -> str:
    """What docs/robust.md shows."""
    lines = [
        "| checkpoint | corruption | mean over severities | at severity 5 | without |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in document.get("corruptions", []):
        clean, *rows = case["found"]
        for name in dict.fromkeys(row["corruption"] for row in rows):
            found = [row["accuracy"] for row in rows if row["corruption"] == name]
            figures = (sum(found) / len(found), found[-1], clean["accuracy"])
            lines.append(f"| {case['checkpoint']} | {name} | {' | '.join(f'{value:.1%}' for value in figures)} |")
    lines += ["", "| checkpoint | largest change | accuracy | members, mean |", "| --- | --- | --- | --- |"]
    for case in document.get("attack", []):
        for row in case["found"]:
            mean = sum(row["members"]) / len(row["members"])
            lines.append(f"| {case['checkpoint']} | {row['eps']:g}/255 | {row['accuracy']:.1%} | {mean:.1%} |")
    lines += ["", "| checkpoint | stage | rise of the loss, attacked | clean |", "| --- | --- | --- | --- |"]
    for case in document.get("sensitivity", []):
        modules = case["found"]["modules"]
        for stage in dict.fromkeys(row["stage"] for row in modules):
            rows = [row for row in modules if row["stage"] == stage]
            means = [sum(row[key] for row in rows) / len(rows) for key in ("rise_attacked", "rise_clean")]
            of = "" if rows[0]["member"] is None else ", mean of members"
            lines.append(f"| {case['checkpoint']} | {stage}{of} | {means[0]:+.3f} | {means[1]:+.3f} |")
    lines += ["", "| checkpoint | factor | least accurate | most accurate | apart |", "| --- " * 5 + "|"]
    for case in document.get("factors", []):
        for column in case["found"]["columns"]:
            worst, best = (
                f"{row['accuracy']:.1%} ({row['value']}, {row['images']} images)" for row in ends(column["groups"])
            )
            apart = "yes" if column["differs"] else "no"
            lines.append(f"| {case['checkpoint']} | {column['column']} | {worst} | {best} | {apart} |")
    return "\n".join(lines)


def main() -> None:
    """Measure into the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--images", type=int, default=DEFAULT_IMAGES)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--save", type=Path, default=RESULTS / "robust.json")
    options = parser.parse_args()
    result = ResultFile(options.save)
    if not options.tables:
        for path in options.checkpoints:
            run(path, result, only=tuple(options.only), images=options.images)
    print(tables(result.document))


if __name__ == "__main__":
    main()
