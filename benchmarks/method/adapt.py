"""Accuracy of checkpoints at several image sizes, as they were and tuned there: the table of docs/adapt.md.

    .venv/bin/python benchmarks/method/adapt.py artifacts/models/quick --size 64 --size 96 --size 128
    .venv/bin/python benchmarks/method/adapt.py           the table from the file again; nothing is run

Adapted checkpoints are left in --cache. Figures of checkpoints of other names stay.
"""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rrrbench.environment import RESULTS, ROOT, ResultFile
from rrrbench.networks import CACHE
from rrrbench.pages import write_between
from rrrbench.tables import markdown
from rrrnet import output
from rrrnet.checkpoint import read_checkpoint
from rrrnet.training.adapt import AdaptOptions, adapt
from rrrnet.training.bar import training_bar
from rrrnet.training.recipes import ADAPT_EPOCHS

SCRIPT = "benchmarks/method/adapt.py"


def measured(path: Path, sizes: tuple[int, ...], epochs: int, cache: Path) -> dict[str, Any]:
    """One case of the result file, without places of this machine."""
    out = cache / "adapt" / path.name
    out.parent.mkdir(parents=True, exist_ok=True)
    options = AdaptOptions(path, out, sizes, epochs=epochs, overwrite=True, command=SCRIPT)
    with training_bar(reads_images=True) as (started, report):
        found = adapt(options, report=report, stop=lambda: False, say=output.say, started=started)
    rows = [{key: value for key, value in one.to_json().items() if key != "path"} for one in found]
    return {"trained_at": read_checkpoint(path).preprocess.size, "epochs": epochs, "sizes": rows}


def table(document: Mapping[str, Any]) -> str:
    """A row for each checkpoint and size."""
    rows = [
        [
            *(f"`{case['name']}`", str(case["trained_at"]), str(one["size"]), f"{one['macs'] / 1e6:.1f}"),
            f"{one['milliseconds']:.1f}",
            *(_shown(one[when][part]) for part in ("val", "test") for when in ("before", "after")),
            "tuned" if one["tuned"] else "as they were",
        ]
        for case in document["adapt"]
        for one in case["sizes"]
    ]
    header = ["checkpoint", "trained at", "pixels", "MACs (M)", "PyTorch (ms)"]
    accuracies = ["validation, as it was", "tuned", "test, as it was", "tuned"]
    return markdown([*header, *accuracies, "weights taken"], rows)


def _shown(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.3f}"


def main() -> None:
    """Adapt the checkpoints of the command line, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--size", type=int, action="append", help="repeatable; without: 64, 96 and 128")
    parser.add_argument("--epochs", type=int, default=ADAPT_EPOCHS)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where adapted checkpoints are left")
    parser.add_argument("--out", type=Path, default=RESULTS / "adapt.json", help="result file")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "adapt.md")
    options = parser.parse_args()
    sizes, result = tuple(options.size or (64, 96, 128)), ResultFile(options.out)
    for path in options.checkpoints:
        key = {"name": path.name}
        result.measure("adapt", key, partial(measured, path, sizes, options.epochs, options.cache))
    if "adapt" in result.document:
        write_between(options.page, "adapt", SCRIPT, table(result.document))
        print(f"written: {options.out}, {options.page}")
    else:
        print("nothing was run: name checkpoints")


if __name__ == "__main__":
    main()
