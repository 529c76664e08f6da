"""The printed table, and what is said below it."""

from pathlib import Path
from typing import Any

# Largest difference of a probability at which it is still the same network: FP16 has 11 significant bits, BF16 8.
_TOLERANCE = {"float32": 1e-4, "float16": 0.1, "bfloat16": 0.5}
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


def summary(document: dict[str, Any], out: Path) -> list[str]:
    """How many cases were timed, failed and were left out; then what was left out, a line for each size and engine."""
    rows, left_out = document["rows"], document["left_out"]
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
    timed = [row for row in document["rows"] if "error" not in row]
    wrong = [row for row in timed if not row["max_abs_error_probabilities"] <= _TOLERANCE[row["precision"]]]
    found = [f"a probability differs from float64's by more than allowed: {row}" for row in wrong]
    if document["unusable"]:
        found.append(f"the GPU became unusable, and the run ended there: {document['unusable']}")
    if not timed:
        found.append("nothing was timed: every case ended in an error or was left out")
    return found
