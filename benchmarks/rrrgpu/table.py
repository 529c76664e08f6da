"""The printed tables, and what is said below them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rrrgpu.cascade import CASCADE
from rrrgpu.order import BASELINE

# Largest difference of a probability at which it is still the same network: FP16 has 11 significant bits, BF16 8.
_TOLERANCE = {"float32": 1e-4, "float16": 0.1, "bfloat16": 0.5}
_RESAMPLES = 2000
HEADER = """| engine | network | plan | precision | px | batch | GPU ms (quartiles) | host ms | of peak | max error |
|---|---|---|---|---|---|---|---|---|---|"""


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    what = "| {engine} | {network} | {plan} | {precision} | {pixels} | {batch} |".format(**row)
    if "error" in row:
        return f"{what} {' '.join(row['error'].split())} | | | |"
    share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
    times = "{gpu_ms:.3f} ({gpu_ms_p25:.3f} to {gpu_ms_p75:.3f}) | {host_ms:.3f}".format(**row)
    return f"{what} {times} | {share} | {row['max_abs_error_probabilities']:.1e} |"


def cascade_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cascades, a line for each size and engine: mean times of a call, and ratios of them with 95 % intervals."""
    cases: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        size = tuple(row[key] for key in ("engine", "precision", "pixels", "batch"))
        kind = {BASELINE: BASELINE, "1": "1 member"}.get(row["network"], row["plan"])
        cases.setdefault(size, {})[kind] = row
    others = (BASELINE, "merged", "1 member")
    names = {BASELINE: "ResNet152", "merged": "all members", "1 member": "1 member", CASCADE: "cascade"}
    header = ["engine", "precision", "px", "batch", *(f"{name} (ms)" for name in names.values())]
    header += [*(f"{names[kind]} / cascade" for kind in others), "p99 to all members'", "max error"]
    lines = [header, ["---"] * len(header)]
    for size, found in cases.items():
        ratios = [_ratio(found.get(kind), found.get(CASCADE)) for kind in others]
        timed = [row for row in (found.get("merged"), found.get(CASCADE)) if row and "p99_ms" in row]
        tail = f"{timed[1]['p99_ms'] / timed[0]['p99_ms']:.2f}" if len(timed) == 2 else ""
        error = found.get(CASCADE, {}).get("max_abs_error_probabilities")
        cells = [*map(str, size), *(_mean(found.get(kind)) for kind in names), *ratios, tail]
        lines.append([*cells, "" if error is None else f"{error:.1e}"])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _mean(row: Mapping[str, Any] | None) -> str:
    if row is None or "error" in row:
        return "left out" if row is None else " ".join(row["error"].split())
    return f"{np.mean(row['times_ms']):.3f}"


def _ratio(above: Mapping[str, Any] | None, below: Mapping[str, Any] | None) -> str:
    """Of the mean times of two that took turns; the interval is of resampled blocks."""
    if above is None or below is None or not above.keys() & below.keys() >= {"times_ms"}:
        return ""
    over, under = np.array(above["times_ms"]), np.array(below["times_ms"])
    drawn = np.random.default_rng(0).integers(0, len(over), (_RESAMPLES, len(over)))
    low, high = np.percentile(over[drawn].mean(axis=1) / under[drawn].mean(axis=1), [2.5, 97.5])
    return f"{over.mean() / under.mean():.2f}x ({low:.2f} to {high:.2f})"


def summary(document: dict[str, Any], out: Path) -> list[str]:
    """How many cases were timed, failed and were left out; then what was left out, a line for each size and engine."""
    rows, left_out = [*document["rows"], *document["cascades"]], document["left_out"]
    failed = sum("error" in row for row in rows)
    counts = f"{len(rows) - failed} cases timed, {failed} ended in an error, {len(left_out)} left out"
    sizes: dict[str, list[str]] = {}
    for row in left_out:
        size = "{engine}, {precision}, {pixels} px, batch {batch}".format(**row)
        sizes.setdefault(size, []).append("{network} {plan}".format(**row))
    named = [f"left out of {size}: {', '.join(variants)}" for size, variants in sizes.items()]
    return [f"{counts}; written to {out}", *named]


def problems(document: dict[str, Any]) -> list[str]:
    """Why the run did not succeed; an error in a case is no reason where others were timed."""
    timed = [row for row in [*document["rows"], *document["cascades"]] if "error" not in row]
    wrong = [row for row in timed if not row["max_abs_error_probabilities"] <= _TOLERANCE[row["precision"]]]
    found = [f"a probability differs from float64's by more than allowed: {row}" for row in wrong]
    if document["unusable"]:
        found.append(f"the GPU became unusable, and the run ended there: {document['unusable']}")
    if not timed:
        found.append("nothing was timed: every case ended in an error or was left out")
    return found
