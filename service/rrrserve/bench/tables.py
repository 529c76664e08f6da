"""A result document as a table for people and as CSV: a row for each run."""

import csv
import io
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from rrrserve.bench.figures import load_text, told

_COLUMNS = (
    *(
        "model",
        "level",
        "target",
        "members",
        "where",
        "batch",
        "effort",
        "mode",
        "concurrency",
        "rate_per_second",
        "arrivals",
    ),
    *("ok", "errors", "wall_seconds", "throughput", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms"),
    *("max_ms", "late_p99_ms"),
)
_SHOWN = ("p50_ms", "p90_ms", "p99_ms", "max_ms")  # as many as fit 80 columns; the files hold them all


def to_csv(document: dict[str, Any]) -> str:
    """The runs, errors as one number. What a run does not have is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run in document["runs"]:
        writer.writerow({**run, "errors": sum(run["errors"].values())})
    return buffer.getvalue()


def runs_table(document: dict[str, Any]) -> Table:
    """The runs."""
    titles = (name.removesuffix("_ms") for name in _SHOWN)
    numbers = (Column(name, justify="right") for name in ("answers/s", *titles))
    table = Table("model", "level", Column("load", no_wrap=True), *numbers, "errors", title="latencies in ms")
    for run in document["runs"]:
        latencies = ("-" if run[name] is None else f"{run[name]:.2f}" for name in _SHOWN)
        table.add_row(
            escape(run["model"]),
            run["level"],
            load_text(run),
            f"{run['throughput']:.1f}",
            *latencies,
            escape(told(run["errors"])) or "-",
        )
    return table


def rates_table(document: dict[str, Any]) -> Table:
    """The highest rates that kept the limit."""
    table = Table("model", "level", "p99 within (ms)", "highest rate", "its p99 (ms)", "tried: rate, p99 (ms)")
    for found in document["highest_rate"]:
        best = found["rate_per_second"] is not None
        tried = (
            f"{trial['rate_per_second']:g}/s "
            + ("no answer" if trial["p99_ms"] is None else f"{trial['p99_ms']:.1f}")
            + (f" ({trial['errors']} errors)" if trial["errors"] else "")
            for trial in found["tried"]
        )
        table.add_row(
            escape(found["model"]),
            found["level"],
            f"{found['p99_ms_limit']:g}",
            f"{found['rate_per_second']:g}/s" if best else "none",
            f"{found['p99_ms']:.2f}" if best else "-",
            ", ".join(tried),
        )
    return table
