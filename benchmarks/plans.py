"""Plans against each other: one 8-member network, expressed in every way, timed in turns on this machine.

.venv/bin/python benchmarks/plans.py
.venv/bin/python benchmarks/plans.py --table     # the table of docs/internals/engines.md; nothing is timed

The weights are random, since they do not change the latency. Every variant (plan, and the multiple that channel counts
are zero-padded to) answers the same images. In a round each has its turn: three calls, of which the last two count.
`member_ms` holds the members' own times in plan `split`. The file is written after each case, and cases of other
targets and sizes that it holds already are kept. `load_average` tells what else the machine did.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from rrrbench.turns import ratio
from rrrbuild import lazy, machine
from rrrbuild.cutting import cut
from rrrbuild.engine import Runner, load_runner
from rrrbuild.folding import FoldedNetwork, Layer, Layers
from rrrbuild.graph import build_graph
from rrrbuild.heldout import generated_images
from rrrbuild.job import CompileJob
from rrrbuild.manifest import INPUT, MODEL, OUTPUT, BatchRange
from rrrbuild.measure import one_turn, summary
from rrrbuild.targets import Target, target_named
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import Architecture, convolutions, ensemble

RESULT = Path(__file__).parent / "results" / "plans.json"
TARGETS = ("openvino-fp32", "openvino-bf16", "onnxruntime-fp32")
VARIANTS = (("sequential", 1), ("sequential", 16), ("merged", 1), ("merged", 16), ("split", 16))
WARM_UP_CALLS = 3
MAX_BATCH = 32
CASE = ("target", "pixels", "batch")


def random_network(architecture: Architecture) -> FoldedNetwork:
    """Weights of a spread that keeps activations near 1, so that no arithmetic meets denormals."""
    random = np.random.default_rng(0)
    stem: Layers = {}
    members: list[Layers] = [{} for _ in range(architecture.members)]
    for part, conv in convolutions(architecture):
        for layers in [stem] if part == "stem" else members:
            kernel = (conv.kernel, conv.kernel) if conv.batch_norm else ()
            spread = (2 / (conv.in_channels * conv.kernel**2)) ** 0.5
            weight = random.normal(0, spread, (conv.out_channels, conv.in_channels, *kernel)).astype(np.float32)
            bias = random.normal(0, 0.1, conv.out_channels).astype(np.float32)
            layers[conv.name] = Layer(conv, weight, bias)
    return FoldedNetwork(architecture, stem, tuple(members))


def load(network: FoldedNetwork, preprocess: Preprocess, target: Target, plan: str, align: int) -> Runner:
    """Export and compile for `target` in a folder that is gone afterwards; the runtimes have read it by then."""
    half = target.precision == "fp16"
    graph = "merged" if plan == "merged" else "sequential"
    model = build_graph(network, preprocess, plan=graph, half=half, align=align).SerializeToString()
    members, classes = network.architecture.members, network.architecture.num_classes
    document = {
        "plan": plan,
        "precision": target.precision,
        "batch": {"min": 1, "opt": MAX_BATCH, "max": MAX_BATCH},
        "inputs": [{"name": INPUT}],
        "outputs": [{"name": OUTPUT, "dtype": "float32", "shape": [-1, members, classes]}],
    }
    with tempfile.TemporaryDirectory() as folder:
        for part, onnx_model in (cut(model) if plan == "split" else {MODEL: model}).items():
            job = CompileJob(onnx_model, Path(folder), target, BatchRange(1, 8, MAX_BATCH), part)
            lazy.compiler(target)(job)
        return load_runner(Path(folder), target, document, threads=None)


def measure(runners: Mapping[str, Runner], preprocess: Preprocess, batch: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each variant, and how much faster it is than plain `sequential` (median of rounds' ratios)."""
    images = generated_images(preprocess, batch)
    times_ms: dict[str, list[float]] = {name: [] for name in runners}
    member_ms: dict[str, list[list[float]]] = {name: [] for name in runners}
    for runner in runners.values():
        for _ in range(WARM_UP_CALLS):
            runner(images)
    for _ in range(rounds):
        for name, runner in runners.items():
            times_ms[name] += one_turn(partial(runner, images))
            if seconds := getattr(runner, "member_seconds", None):
                member_ms[name].append([1000 * second for second in seconds])
    by_round = {name: np.reshape(times, (rounds, -1)).mean(axis=1).tolist() for name, times in times_ms.items()}
    first = next(iter(by_round.values()))
    result = {}
    for name, times in times_ms.items():
        speed_up, low, high = ratio(first, by_round[name])
        result[name] = {
            **summary(times),
            "speed_up": round(speed_up, 3),
            "interval_95": [round(low, 3), round(high, 3)],
        }
        if member_ms[name]:
            result[name]["member_ms"] = np.median(member_ms[name], axis=0).round(3).tolist()
    return result


def table(document: Mapping[str, Any]) -> str:
    """The result file as a Markdown table: median ms (minimum), the smallest median of each row in bold.

    A case is marked `*` where any variant's median is 1.5 times its minimum: other processes took the cores meanwhile.
    """
    names = document["variants"]
    lines = ["| target | px | batch | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for case in document["cases"]:
        rows = case["variants"]
        best = min(names, key=lambda name: rows[name]["median"])
        cells = [f"{rows[name]['median']:.2f} ({rows[name]['min']:.2f})" for name in names]
        cells[names.index(best)] = f"**{cells[names.index(best)]}**"
        mark = " *" if any(row["median"] > 1.5 * row["min"] for row in rows.values()) else ""
        lines.append(f"| `{case['target']}` | {case['pixels']} | {case['batch']}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--pixels", type=int, nargs="+", default=[64, 128, 224])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--target", nargs="+", default=list(TARGETS), help="targets that run on this machine")
    parser.add_argument(
        "--rounds", type=int, default=11, help="turns of each variant at each size, of two calls that count"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="only print the table of --out")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.out.read_text())))
        return
    architecture = ensemble(options.classes, options.members)
    network = random_network(architecture)
    document: dict[str, Any] = {
        "members": options.members,
        "classes": options.classes,
        "widths": architecture.widths,
        "rounds": options.rounds,
        "variants": [f"{plan}/{align}" for plan, align in VARIANTS],
        "machine": machine.describe(),
        "versions": {name: machine.package_version(name) for name in ("openvino", "onnxruntime")},
        "cases": json.loads(options.out.read_text())["cases"] if options.out.is_file() else [],
    }
    options.out.parent.mkdir(exist_ok=True)
    for name in options.target:
        target = target_named(name)
        for pixels in options.pixels:
            preprocess = Preprocess(pixels)
            runners = {f"{plan}/{align}": load(network, preprocess, target, plan, align) for plan, align in VARIANTS}
            for batch in options.batch:
                rows = measure(runners, preprocess, batch, options.rounds)
                case = {"target": name, "pixels": pixels, "batch": batch, "load_average": os.getloadavg()[0]}
                kept = [old for old in document["cases"] if any(old[key] != case[key] for key in CASE)]
                document["cases"] = sorted([*kept, case | {"variants": rows}], key=itemgetter(*CASE))
                options.out.write_text(json.dumps(document, indent=1) + "\n")
                medians = ", ".join(f"{variant} {row['median']:.2f}" for variant, row in rows.items())
                print(f"{name}, {pixels} px, batch {batch}: {medians}", flush=True)
    print(table(document))


if __name__ == "__main__":
    main()
