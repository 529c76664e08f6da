"""What the answers of checkpoints give away about their training images: the table of docs/audit.md.

    .venv/bin/python benchmarks/method/audit.py artifacts/models/untrained artifacts/models/quick
    .venv/bin/python benchmarks/method/audit.py           the table from the file again; nothing is run

Each checkpoint is asked about all images that it remembers; rows of checkpoints of other names stay. How to train those
that the page shows is told there.
"""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rrrbench.environment import RESULTS, ROOT, ResultFile
from rrrbench.pages import write_between
from rrrbench.tables import markdown
from rrrbuild.audit.audit import audit
from rrrnet.checkpoint import read_checkpoint
from rrrnet.proportions import Interval

SCRIPT = "benchmarks/method/audit.py"


def measured(path: Path) -> dict[str, Any]:
    """One row of the result file, without places of this machine."""
    training = read_checkpoint(path).training
    found = {key: value for key, value in audit(path).items() if key not in ("name", "data")}
    return {**found, "recipe": training["recipe"]["name"], "epochs": training["epochs_done"]}


def tables(document: Mapping[str, Any]) -> str:
    """Of all checkpoints the attack by the loss, and of each what forms of answers give away."""
    rows = [
        [
            *(f"`{case['name']}`", f"{case['recipe']}, {case['epochs']}", str(case["images"]["train"])),
            f"{case['accuracy']['train']:.3f}, {case['accuracy']['held_out']:.3f}",
            *(str(Interval(**case["attacks"][0][key])) for key in ("pairs", "single_images")),
            *(str(Interval(**case[key])) for key in ("privacy", "utility")),
        ]
        for case in document["audit"]
    ]
    header = ["checkpoint", "recipe, epochs", "training images", "accuracy on them, held out"]
    first = markdown([*header, "pairs told apart", "single images", "privacy", "utility"], rows)
    cases = document["audit"]
    answers = {name: None for case in cases for name in (row["answer"] for row in case["answers"])}
    found = [{row["answer"]: f"{row['pairs']['value']:.3f}" for row in case["answers"]} for case in cases]
    lines = [[name, *(each.get(name, "") for each in found)] for name in answers]
    second = markdown(["pairs told apart by the loss", *(f"`{case['name']}`" for case in cases)], lines)
    return f"{first}\n\n{second}"


def main() -> None:
    """Audit the checkpoints of the command line, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "audit.json", help="result file")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "audit.md")
    options = parser.parse_args()
    result = ResultFile(options.out)
    for path in options.checkpoints:
        result.measure("audit", {"name": path.name}, partial(measured, path))
    if "audit" in result.document:
        write_between(options.page, "audit", SCRIPT, tables(result.document))
        print(f"written: {options.out}, {options.page}")
    else:
        print("nothing was run: name checkpoints")


if __name__ == "__main__":
    main()
