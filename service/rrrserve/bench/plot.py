"""Plots of bench results: latency against the load, and the tail of each run's distribution.

`rrr bench --plot` draws all that a result holds, `rrr report` (rrrserve.report.figures) the percentiles in it.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from rrrserve.bench.figures import load_text, merged

COLORS = ("#0f6d74", "#d97b29", "#6e5fa8", "#4f8f3a", "#b8487a", "#5b6b7a")
_LOADS = {
    "closed": ("concurrency", "requests under way", "Latency, closed loop"),
    "open": ("rate_per_second", "requests due a second", "Latency from the intended time, open loop"),
}
_STYLES = {"p50_ms": "-", "p95_ms": "--", "p99_ms": ":"}
_NINES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
_DPI = 150

Run = Mapping[str, Any]  # as the result document has it


class Tail(NamedTuple):
    """Latencies in milliseconds, and the percent of the requests that were faster than each."""

    label: str
    color: str
    style: str
    percents: Sequence[float]
    latencies_ms: Sequence[float]


def draw(document: dict[str, Any], kind: str) -> bytes:
    """The picture of a result document; what was not answered has no curve.

    Args:
        document: from `runner.run`.
        kind: `png` or `svg`.
    """
    runs = [run for run in document["runs"] if run["ok"]]
    series: dict[str, list[Run]] = {}
    for run in runs:
        target = f", {run['target']}" if run["target"] else ""
        series.setdefault(f"{run['model']} ({run['level']}{target})", []).append(run)
    modes = [mode for mode in _LOADS if any(run["mode"] == mode for run in runs)]
    with rc_context({"axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(5.2 * (len(modes) + 1), 4.8), layout="constrained")
        axes = figure.subplots(1, len(modes) + 1, squeeze=False)[0]
        for axis, mode in zip(axes, modes, strict=False):
            draw_load(
                axis, mode, {name: [run for run in found if run["mode"] == mode] for name, found in series.items()}
            )
            axis.set_title(_LOADS[mode][2])
        colored = zip(series.values(), cycle(COLORS), strict=False)
        draw_tails(axes[-1], [tail for found, color in colored for tail in _tails(found, color)])
        axes[-1].set_title("Tails")
        for axis in axes:
            if axis.lines:
                axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=_DPI)
    return buffer.getvalue()


def draw_load(axis: Any, mode: str, series: Mapping[str, Sequence[Run]]) -> None:
    """Percentiles against concurrency or rate: a colour for each series, a style for each percentile."""
    key, title, _ = _LOADS[mode]
    for (label, runs), color in zip(series.items(), cycle(COLORS), strict=False):
        rows = sorted(runs, key=lambda run: float(run[key]))
        for name, style in _STYLES.items():
            values = [np.nan if row[name] is None else row[name] for row in rows]
            words = f"{label}, {name.removesuffix('_ms')}"
            axis.plot([row[key] for row in rows], values, style, marker="o", markersize=4, color=color, label=words)
    loads = sorted({run[key] for runs in series.values() for run in runs})
    axis.set_xscale("log")
    axis.set_xticks(loads, [f"{load:g}" for load in loads])
    arrivals = sorted({run["arrivals"] for runs in series.values() for run in runs if run.get("arrivals")})
    axis.set_xlabel(f"{title} ({', '.join(arrivals)})" if arrivals else title)
    _finish(axis)


def draw_tails(axis: Any, tails: Iterable[Tail]) -> None:
    """Latency against 1 / (1 - quantile), as HdrHistogram plots it: each further nine takes the same width."""
    longest = 99.0
    for tail in tails:
        places = [100 / (100 - percent) for percent in tail.percents]
        marker = "o" if len(places) < 10 else ""
        axis.plot(places, tail.latencies_ms, tail.style, marker=marker, color=tail.color, label=tail.label)
        longest = max(longest, tail.percents[-1])
    axis.set_xscale("log")
    axis.set_xticks([100 / (100 - percent) for percent in _NINES], [f"{percent:g} %" for percent in _NINES])
    axis.set_xlim(1, 100 / (100 - longest) * 1.03)
    axis.set_xlabel("share of the requests that were faster")
    _finish(axis)


def plain_log(axis: Any, *, fine_below: float = 1000) -> None:
    """A logarithmic axis, whose limits stand, with round numbers that are written out.

    Below a ratio of `fine_below` between its ends it has 2 and 5 beside the powers of ten.
    """
    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high < fine_below * low else (1,)
    axis.set_major_locator(MaxNLocator(5) if high < 8 * low else LogLocator(subs=steps, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _tails(runs: Sequence[Run], color: str) -> Iterable[Tail]:
    for run, style in zip(runs, cycle(("-", "--", ":", "-.")), strict=False):
        histogram = merged([turn["histogram"] for turn in run["rounds"]])
        # Halfway between one in `ok` and none the longest comes.
        exponents = np.linspace(0.0, np.log10(2 * run["ok"]), 100)
        percents = [100 * (1 - 10**-exponent) for exponent in exponents.tolist()]
        values = histogram.get_percentile_to_value_dict(percents)
        yield Tail(
            f"{run['model']}, {load_text(run)}", color, style, percents, [values[key] / 1000 for key in percents]
        )


def _finish(axis: Any) -> None:
    axis.set_yscale("log")
    plain_log(axis.yaxis)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylabel("latency (ms)")
