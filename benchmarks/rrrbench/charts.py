"""The plots of docs/internals/performance.md and of the README, drawn from result files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrrbench.names import BASELINE, BASELINE_TITLE, DEMO_BASELINE, DEMO_ENSEMBLE, ENSEMBLE
from rrrbench.service_tables import best_throughput
from rrrbench.tables import case_ratio, median, shares
from rrrbench.turns import Interval, median_interval

Document = Mapping[str, Any]
_COLORS = ("#2a6f97", "#b3442e", "#5a8f4c", "#8a5fa8", "#c58a1d", "#4d4d4d", "#3aa6a0", "#d16ba5")
_DPI = 110
OURS, THEIRS = "#2a6f97", "#b3442e"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _colors(document: Document, section: str) -> dict[str, str]:
    targets = list(dict.fromkeys(case["target"] for case in document[section]))
    return dict(zip(targets, _COLORS, strict=False))


def _bars(axis: Any, labels: list[str], found: list[Interval], *, colors: list[str], unit: str, digits: int) -> None:
    """Horizontal bars from top to bottom, each with its interval and its number."""
    positions = range(len(found), 0, -1)
    axis.barh(positions, [item.value for item in found], 0.7, color=colors)
    for position, item in zip(positions, found, strict=True):
        axis.plot([item.low, item.high], [position, position], color="black", linewidth=1)
        axis.annotate(f" {item.value:.{digits}f}{unit}", (item.high, position), va="center", fontsize=8)
    axis.set(yticks=list(positions), yticklabels=labels)
    axis.tick_params(axis="y", labelsize=8)
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)


def draw_ratios(document: Document, path: Path) -> None:
    """ResNet152 over 8 members, and each network's share of the measured peak."""
    cases = document["ratios"]
    figure = _figure(10, max(3.0, 0.24 * len(cases) + 1))
    left, right = figure.subplots(1, 2)
    colors = _colors(document, "ratios")
    labels = [f"{case['target']}, {case['pixels']} px, batch {case['batch']}" for case in cases]
    found = [case_ratio(case, BASELINE, ENSEMBLE) for case in cases]
    _bars(left, labels, found, colors=[colors[case["target"]] for case in cases], unit="x", digits=1)
    left.axvline(6, color="black", linestyle=":", linewidth=1)
    left.set(xlabel=f"latency of {BASELINE_TITLE} / latency of 8 members (dotted: 6x)", title="How many times faster")
    rows = [(case["target"], name, share) for case in document["peak"] for name, share in shares(case).items()]
    titles = {BASELINE: BASELINE_TITLE, ENSEMBLE: "8 members"}
    _bars(
        right,
        [f"{target}, {titles[name]}" for target, name, _ in rows],
        [Interval(*(100 * value for value in share)) for *_, share in rows],
        colors=[colors.get(target, _COLORS[-1]) for target, *_ in rows],
        unit=" %",
        digits=0,
    )
    right.set(xlabel="% of a matrix product's rate, same rounds", title="Share of the machine's peak")
    figure.savefig(path, dpi=_DPI)


def draw_scaling(document: Document, path: Path) -> None:
    """Latency against members and against the batch size, both axes logarithmic."""
    figure = _figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    colors = _colors(document, "members")
    for case in document["members"]:
        counts = [int(name.removeprefix("members-")) for name in case["times_ms"]]
        medians = [median(times) for times in case["times_ms"].values()]
        style = "-" if case["batch"] == 1 else "--"
        label = f"{case['target']}, batch {case['batch']}"
        left.plot(counts, medians, style, marker="o", markersize=4, color=colors[case["target"]], label=label)
    _log_axes(left, counts, "members (at the same parameters)")
    left.set_title("Latency against members")
    for target, color in colors.items():
        for name, style in ((ENSEMBLE, "-"), (BASELINE, "--")):
            cases = sorted(
                (case["batch"], median(case["times_ms"][name]))
                for case in document["batch"]
                if case["target"] == target and name in case["times_ms"]
            )
            label = f"{target}, {'8 members' if name == ENSEMBLE else BASELINE_TITLE}"
            right.plot(*zip(*cases, strict=True), style, marker="o", markersize=4, color=color, label=label)
    _log_axes(right, sorted({case["batch"] for case in document["batch"]}), "batch size (images)")
    right.set_title("Latency against the batch size")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=7, ncols=2)
    figure.savefig(path, dpi=_DPI)


def _log_axes(axis: Any, ticks: list[int], label: str) -> None:
    """Powers of two along x, plain numbers along y."""
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=label, ylabel="latency (ms)")
    axis.grid(alpha=0.3, which="both")


def draw_load(document: Document, path: Path) -> None:
    """Latency against requests under way, and throughput against p99."""
    figure = _figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    for case, color in zip(document["concurrency"], _COLORS, strict=False):
        counts = [int(name) for name in case["http"]]
        for percent, style in ((50, "-"), (95, "--"), (99, ":")):
            values = [row[f"p{percent}_ms"] for row in case["http"].values()]
            label = f"{case['target']}, p{percent}"
            left.plot(counts, values, style, marker="o", markersize=4, color=color, label=label)
        p99 = [row["p99_ms"] for row in case["http"].values()]
        throughput = [median(row["throughput_by_round"]) for row in case["http"].values()]
        right.plot(p99, throughput, "-", marker="o", markersize=4, color=color, label=f"{case['target']} over HTTP")
        for count, x, y in zip(counts, p99, throughput, strict=True):
            right.annotate(f"{count}", (x, y), textcoords="offset points", xytext=(4, -10), fontsize=8)
        best = max(median(rates) for rates in case["engine_images_per_second"].values())
        right.axhline(
            best, color=color, linestyle="--", linewidth=1, label=f"{case['target']}, engine alone at its best"
        )
    _log_axes(left, counts, "requests under way")
    left.set_title("Latency over HTTP")
    right.set_xscale("log")
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter("")
    right.set(xlabel="p99 (ms); numbers: requests under way", ylabel="answers a second", ylim=(0, None))
    right.set_title("Throughput against p99")
    right.grid(alpha=0.3, which="both")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=_DPI)


def draw_peers(document: Document, path: Path) -> None:
    """p50 with p99 marks of one request at a time, and the best throughput."""
    (case,) = document["peers"][-1:]
    names = list(case["rows"])
    colors = [OURS if name.startswith("rrr serve") else THEIRS for name in names]
    figure = _figure(10, 0.36 * len(names) + 1.2)
    left, right = figure.subplots(1, 2, sharey=True)
    one = [row["concurrency-1"] for row in case["rows"].values()]
    p50_to_p99 = [Interval(row["p50_ms"], row["p50_ms"], row["p99_ms"]) for row in one]
    _bars(left, names, p50_to_p99, colors=colors, unit=" ms", digits=1)
    left.set(xscale="log", xlim=(1, None), title="Latency, JPEG in, JSON out")
    left.set_xlabel("one request at a time (ms): bar and number p50, line to p99")
    left.xaxis.set_major_formatter("{x:g}")
    rates = [median_interval(best_throughput(row)) for row in case["rows"].values()]
    _bars(right, names, rates, colors=colors, unit="", digits=0)
    right.set(xlabel="answers a second at the best concurrency", title="Throughput")
    figure.savefig(path, dpi=_DPI)


def draw_demo(result: Document, path: Path) -> None:
    """Bars of p50 with p95 marks, engine and HTTP, both models."""
    figure = _figure(8, 2.6)
    axis = figure.subplots()
    colors = {DEMO_ENSEMBLE: OURS, DEMO_BASELINE: THEIRS}
    names = {DEMO_ENSEMBLE: "RRR-Net, 8 members", DEMO_BASELINE: BASELINE_TITLE}
    for row, (key, title) in enumerate((("http", "over HTTP"), ("engine", "at the engine"))):
        for offset, model in ((0.2, DEMO_ENSEMBLE), (-0.2, DEMO_BASELINE)):
            p50, p95 = (result[key][model][quantile] for quantile in ("p50_ms", "p95_ms"))
            axis.barh(row + offset, p50, 0.36, color=colors[model], label=names[model] if row == 0 else None)
            axis.plot([p95, p95], [row + offset - 0.18, row + offset + 0.18], color="black", linewidth=1)
            axis.annotate(f" {p50:.1f} ms", (p95, row + offset), va="center", fontsize=9)
        axis.annotate(f"{title}: {result[key]['speed_up']:.1f}x", (0, row + 0.45), fontsize=9, fontweight="bold")
    axis.set(yticks=[], xlabel="latency of one request (ms): bar p50, line p95", ylim=(-0.5, 1.7))
    axis.margins(x=0.12)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(loc="upper right", frameon=False, fontsize=9)
    figure.savefig(path, dpi=140)
