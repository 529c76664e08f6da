"""Nearest neighbours of test images by embedding and by pixels, and what embeddings cost an engine.

.venv/bin/python benchmarks/method/embed.py CHECKPOINT ...   some minutes each; benchmarks/cascade.py --train makes one
.venv/bin/python benchmarks/method/embed.py --tables         the tables of docs/embed.md; nothing is measured

Each checkpoint becomes two engines of a target, with --embed and without, by the same plan: they are timed in turns.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from rrrbench.environment import RESULTS, ResultFile
from rrrbench.neighbours import nearest_alike, pixels_of
from rrrbuild import plan_runner
from rrrbuild.build import build_engine
from rrrbuild.engine import load_engine
from rrrbuild.heldout import held_out_images
from rrrbuild.manifest import BatchRange
from rrrbuild.measure import in_turns
from rrrbuild.targets import TARGETS
from rrrbuild.trust import Trust
from rrrnet.checkpoint import read_checkpoint

BATCH = BatchRange(1, 8, 32)
_LIMIT = 2000
_PLAN = "merged"


def measure(path: Path, target: str) -> dict[str, Any]:
    """One checkpoint: neighbours on its test images, and milliseconds with and without embeddings."""
    checkpoint = read_checkpoint(path)
    held_out = held_out_images(checkpoint, None, limit=_LIMIT)
    assert held_out.labels is not None
    with tempfile.TemporaryDirectory() as scratch:
        engines = {}
        for name, embed in (("without", False), ("with", True)):
            out, trust = Path(scratch) / name, Trust(cascade=False)
            build_engine(path, target, plan=_PLAN, batch=BATCH, out=out, trust=trust, embed=embed)
            engines[name] = load_engine(out)
        embeddings = engines["with"].embed(list(held_out.images))
        times_ms = {}
        for size in (BATCH.min, BATCH.opt):
            calls = {name: partial(engine.runner, held_out.images[:size]) for name, engine in engines.items()}
            times_ms[str(size)] = {name: row["median"] for name, row in in_turns(calls).items()}
        found = plan_runner.embed(engines["with"].runner, held_out.images[:1])
        verified = engines["with"].manifest.verified
        assert verified is not False
        return {
            "images": len(held_out.images),
            "classes": len(checkpoint.labels),
            "members": checkpoint.architecture.members,
            "dim": found.shape[1],
            "nearest_alike": {
                "embedding": nearest_alike(embeddings, held_out.labels),
                "pixels": nearest_alike(pixels_of(held_out.images), held_out.labels),
                "chance": float(np.mean([(held_out.labels == label).mean() for label in held_out.labels])),
            },
            "verified": verified["embedding"],
            "median_ms": times_ms,
        }


def tables(document: dict[str, Any]) -> str:
    """What docs/embed.md shows, and the times; take these from a quiet machine (`load_average` of each case tells)."""
    cases = document.get("neighbours", [])
    lines = ["| checkpoint, target | images | by embedding | by pixels | chance | least cosine |", "| --- " * 6 + "|"]
    for case in cases:
        shares = [f"{case['nearest_alike'][name]:.1%}" for name in ("embedding", "pixels", "chance")]
        cosine = f"{case['verified']['min_cosine']:.4f}"
        cells = [f"{case['checkpoint']}, {case['target']}", str(case["images"]), *shares, cosine]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| checkpoint, target | batch | ms with | without | load |", "| --- " * 5 + "|"]
    for case in cases:
        for size, times in case["median_ms"].items():
            name, load = f"{case['checkpoint']}, {case['target']}", case["load_average"]
            lines.append(f"| {name} | {size} | {times['with']:.2f} | {times['without']:.2f} | {load} |")
    return "\n".join(lines)


def main() -> None:
    """Measure into the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=["openvino-fp32"])
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--save", type=Path, default=RESULTS / "embed.json")
    options = parser.parse_args()
    result = ResultFile(options.save)
    if not options.tables:
        for path in options.checkpoints:
            for target in options.target:
                result.measure(
                    "neighbours", {"checkpoint": path.name, "target": target}, partial(measure, path, target)
                )
    print(tables(result.document))


if __name__ == "__main__":
    main()
