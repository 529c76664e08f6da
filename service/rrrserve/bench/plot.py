"""Plots of a result document: latency against the load, and the tail of each run's distribution."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rrrserve.bench.figures import merged

matplotlib.use("Agg")
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_STYLES = {"p50_ms": "-", "p95_ms": "--", "p99_ms": ":"}
_NINES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
_DPI = 150


def draw(document: dict[str, Any], kind: str) -> bytes:
    """The picture of a result document; what was not answered has no curve.

    Args:
        document: from `runner.run`.
        kind: `png` or `svg`.
    """
    runs = [run for run in document["runs"] if run["ok"]]
    modes = [(mode, key) for mode, key in (("closed", "concurrency"), ("open", "rate_per_second"))]
    modes = [(mode, key) for mode, key in modes if any(run["mode"] == mode for run in runs)]
    figure = Figure(figsize=(5.2 * (len(modes) + 1), 4.8), layout="constrained")
    axes = figure.subplots(1, len(modes) + 1, squeeze=False)[0]
    subjects = list(dict.fromkeys(_subject(run) for run in runs))
    colors = {subject: _COLORS[index % len(_COLORS)] for index, subject in enumerate(subjects)}
    for axis, (mode, key) in zip(axes, modes, strict=False):
        _draw_load(axis, [run for run in runs if run["mode"] == mode], key, colors)
    _draw_tails(axes[-1], runs, colors)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI)
    return buffer.getvalue()


def _subject(run: dict[str, Any]) -> str:
    target = f", {run['target']}" if run["target"] else ""
    return f"{run['model']} ({run['level']}{target})"


def _draw_load(axis: Any, runs: list[dict[str, Any]], key: str, colors: dict[str, str]) -> None:
    """Percentiles against concurrency or rate."""
    for subject, color in colors.items():
        rows = sorted((run for run in runs if _subject(run) == subject), key=lambda run: float(run[key]))
        for name, style in _STYLES.items():
            values = [row[name] for row in rows]
            label = f"{subject}, {name.removesuffix('_ms')}"
            axis.plot([row[key] for row in rows], values, style, marker="o", markersize=4, color=color, label=label)
    loads = sorted({run[key] for run in runs})
    axis.set_yscale("log")
    if key == "concurrency":
        axis.set_xscale("log", base=2)
        axis.set(xlabel="requests under way", title="Latency, closed loop")
    else:
        arrivals = ", ".join(sorted({run["arrivals"] for run in runs}))
        axis.set(xlabel=f"requests due a second ({arrivals})", title="Latency from the intended time, open loop")
    axis.set_xticks(loads, [f"{load:g}" for load in loads])
    _finish(axis)


def _draw_tails(axis: Any, runs: list[dict[str, Any]], colors: dict[str, str]) -> None:
    """Latency against 1 / (1 - quantile), as HdrHistogram plots it: each further nine takes the same width."""
    styles = ("-", "--", ":", "-.")
    seen: dict[str, int] = {}
    for run in runs:
        subject = _subject(run)
        style = styles[seen.setdefault(subject, 0) % len(styles)]
        seen[subject] += 1
        histogram = merged([turn["histogram"] for turn in run["rounds"]])
        # Halfway between one in `ok` and none the longest comes.
        exponents = np.linspace(0.0, np.log10(2 * run["ok"]), 100)
        percents = [100 * (1 - 10**-exponent) for exponent in exponents.tolist()]
        values = histogram.get_percentile_to_value_dict(percents)
        load = f"{run['concurrency']} at once" if run["mode"] == "closed" else f"{run['rate_per_second']:g}/s"
        axis.plot(
            10**exponents,
            [values[percent] / 1000 for percent in percents],
            style,
            color=colors[subject],
            linewidth=1.3,
            label=f"{run['model']}, {load}",
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks([100 / (100 - percent) for percent in _NINES], [f"{percent:g} %" for percent in _NINES])
    axis.set(xlabel="share of the requests that were faster", title="Tails")
    axis.set_xlim(1, max([100, *(2 * run["ok"] for run in runs)]))
    _finish(axis)


def _finish(axis: Any) -> None:
    """Milliseconds upwards in plain numbers, the legend below."""
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="y", which="minor", labelsize=6)
    axis.set_ylabel("latency (ms)")
    axis.grid(alpha=0.3, which="both")
    if axis.lines:
        axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
