"""The pictures of a report, drawn with matplotlib: members, calibration, engines, latency, claims."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup
from matplotlib.patches import Rectangle

from rrrserve.bench.plot import COLORS, Tail, draw_load, draw_tails, plain_log
from rrrserve.report.cascade_figure import trade_off
from rrrserve.report.drawing import HEIGHT, INK, LINE, SOFT, VERDICTS, WIDTH, Figure, picture

_WRITTEN_OUT = 12  # classes up to which the cells of the confusion matrix hold their numbers
_LONGEST_NAME = 16
_LEAST_ERROR = 1e-8  # of a logarithmic axis
# Percentiles of a bench result.
_TAIL = {"p50_ms": 50.0, "p90_ms": 90.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}


def figures_of(document: Mapping[str, Any]) -> dict[str, list[Figure]]:
    """The drawings of each section, in order."""
    engines = document["engines"]
    scores, found = document["accuracy"], document["calibration"]
    groups = [
        (f"{index}-{place}", group)
        for index, bench in enumerate(document["bench"])
        for place, group in enumerate(bench["groups"])
    ]
    sections: dict[str, list[Figure | None]] = {
        "accuracy": [members(scores[-1])] if scores and len(scores[-1]["members"]) > 1 else [],
        "mistakes": [] if document["mistakes"] is None else [confusion(document["mistakes"])],
        "calibration": [] if found is None else [*_reliabilities(found, scores[-1]), coverage(found)],
        "engines": [errors(engines), engine_latency(engines)],
        "cascades": [trade_off(engine, index) for index, engine in enumerate(engines)],
        "plans": [plans(engine, index) for index, engine in enumerate(engines)],
        "bench": [draw(group, key) for key, group in groups for draw in (load, tail)],
    }
    return {name: [figure for figure in drawn if figure is not None] for name, drawn in sections.items()}


def members(scores: Mapping[str, Any]) -> Figure:
    """The members and their ensemble by accuracy, NLL and calibration error, each on a scale of its own."""
    metrics = {
        "accuracy": ("accuracy, %", 100.0),
        "nll": ("negative log-likelihood", 1.0),
        "ece": ("ECE, points", 100.0),
    }
    told = ", ".join(f"{name} {factor * scores[key]:.4g}" for key, (name, factor) in metrics.items())
    with picture(WIDTH, 270, f"Ensemble: {told}; and its {len(scores['members'])} members") as drawn:
        axes = drawn.canvas.subplots(3, 1)
        for axis, (key, (name, factor)) in zip(axes, metrics.items(), strict=True):
            values = [factor * member[key] for member in scores["members"] if member[key] is not None]
            axis.plot(values, [0] * len(values), "o", color=COLORS[1], markersize=9, alpha=0.7)
            axis.plot([factor * scores[key]], [0], "D", color=COLORS[0], markersize=10)
            axis.set_title(name, loc="left", fontsize=12)
            axis.set_ylim(-1, 1)
            axis.set_yticks([])
            axis.margins(x=0.08)
            axis.spines["left"].set_visible(False)
    return Figure(
        "members",
        "The ensemble and its members",
        drawn.svg,
        "Accuracy: right is better. NLL and calibration error: left is better.",
        (("f0", "ensemble"), ("f1", "members")),
    )


def confusion(found: Mapping[str, Any]) -> Figure:
    """Which class is taken for which: a square for each pair, the darker the larger its share of the row."""
    counts, names = found["matrix"]["counts"], [_short(name) for name in found["matrix"]["labels"]]
    pairs = [f"{row['label']} taken for {row['predicted']} {row['count']} times" for row in found["confusions"]]
    told = "; ".join([f"Mean recall {100 * found['balanced_accuracy']:.1f} %", *pairs])
    images = {row["label"]: row["images"] for row in found["per_class"]}
    of_rows = [images[label] for label in found["matrix"]["labels"]]
    size, small = len(names), len(names) <= _WRITTEN_OUT
    width, height = (WIDTH, max(240, 40 * size + 80)) if small else (640, 18 * size + 140)
    with picture(width, min(width, height), told) as drawn:
        axis = drawn.canvas.subplots()
        for row, (cells, of_row) in enumerate(zip(counts, of_rows, strict=True)):
            for column, count in enumerate(cells):
                if not count:
                    continue
                color, share = COLORS[0 if row == column else 1], count / of_row
                square = Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=color, alpha=0.15 + 0.85 * share)
                axis.add_patch(square)
                if small:
                    axis.text(column, row, str(count), ha="center", va="center", fontsize=11)
        axis.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="answered", ylabel="is")
        fontsize = 11 if small else 9
        axis.set_xticks(range(size), names, rotation=90, fontsize=fontsize)
        axis.set_yticks(range(size), names, fontsize=fontsize)
        axis.grid(visible=False)
    of = "" if size == len(found["per_class"]) else f" The {size} of {len(found['per_class'])} classes missed most."
    caption = f"A row for each class: where its images went.{of}"
    legend = (("f0", "right"), ("f1", "wrong"))
    return Figure("confusion", "What is taken for what", drawn.svg, caption, legend, wide=not small)


def _short(name: str) -> str:
    """A name without its middle where it is long: names of one kind mostly differ at their end."""
    if len(name) <= _LONGEST_NAME:
        return name
    kept = (_LONGEST_NAME - 1) // 2
    return f"{name[: _LONGEST_NAME - 1 - kept]}\N{HORIZONTAL ELLIPSIS}{name[-kept:]}"


def _reliabilities(found: Mapping[str, Any], scores: Mapping[str, Any]) -> list[Figure]:
    """Of what is answered; and, where that is calibrated, of the mean as it is before it."""
    after = reliability(found["bins"], scores["ece"])
    if found["bins_uncalibrated"] is None:
        return [after]
    before = reliability(found["bins_uncalibrated"], scores["uncalibrated"]["ece"])
    return [
        replace(before, key="reliability-before", title="Reliability before calibration"),
        replace(after, title="Reliability of what is answered"),
    ]


def reliability(bins: Sequence[Mapping[str, Any]], ece: float) -> Figure:
    """Accuracy against confidence, with the number of images below."""
    full = [row for row in bins if row["images"]]
    told = "; ".join(
        f"{row['images']} images of confidence {row['confidence']:.2f}: accuracy {row['accuracy']:.2f}" for row in full
    )
    with picture(WIDTH, 340, f"Accuracy by confidence. {told}") as drawn:
        above, below = drawn.canvas.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        lefts = [100 * row["low"] + 0.3 for row in full]
        width = 100 * (full[0]["high"] - full[0]["low"]) - 0.6
        accuracies = [100 * row["accuracy"] for row in full]
        gaps = [100 * (row["confidence"] - row["accuracy"]) for row in full]
        above.bar(lefts, accuracies, width, align="edge", color=COLORS[0], alpha=0.45)
        above.bar(lefts, gaps, width, accuracies, align="edge", color=COLORS[1], alpha=0.38)
        above.hlines(accuracies, lefts, [left + width for left in lefts], color=COLORS[0], linewidth=2.5)
        above.plot([0, 100], [0, 100], "--", color=SOFT, linewidth=1.4)
        above.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy, %")
        below.bar(lefts, [row["images"] for row in full], width, align="edge", color=COLORS[2], alpha=0.45)
        below.set(xlabel="confidence, %", ylabel="images")
    return Figure(
        "reliability",
        "Reliability",
        drawn.svg,
        "On the dashed line, a confidence of 80 % is right 80 % of the time. "
        f"Mean gap (ECE, 15 bins): {100 * ece:.1f} points.",
        (("f0", "accuracy (thick line)"), ("gap", "gap between it and the confidence"), ("f2 soft", "images")),
    )


def coverage(found: Mapping[str, Any]) -> Figure:
    """Accuracy when only the surest images are answered."""
    shares, curves = found["shares"], found["coverage"]
    told = "; ".join(f"by {name}: " + ", ".join(f"{value:.3f}" for value in curve) for name, curve in curves.items())
    told = f"Accuracy on the surest {', '.join(f'{share:.0%}' for share in shares)} of images, {told}"
    with picture(WIDTH, 340, told) as drawn:
        axis = drawn.canvas.subplots()
        for curve, color in zip(curves.values(), COLORS, strict=False):
            axis.plot([100 * share for share in shares], [100 * value for value in curve], "o-", color=color)
        axis.set(xlabel="share of images answered, %", ylabel="accuracy, %")
    return Figure(
        "coverage",
        "Answering only when sure",
        drawn.svg,
        "Images ranked by how sure the network is. A curve that rises to the left means that doubt is a usable signal.",
        _legend([f"by {name}" for name in curves]),
    )


def errors(engines: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Each verified engine's largest and mean error of a probability, and what its target allows."""
    rows = {engine["target"]: engine["verified"] for engine in engines if engine["verified"]}
    if not rows:
        return None
    told = "; ".join(
        f"{target}: largest {found['max_abs_error']:.2g}, mean {found['mean_abs_error']:.2g}, "
        f"allowed {found['tolerance']['max_abs_error']:g}"
        for target, found in rows.items()
    )
    with picture(WIDTH, 78 + 40 * len(rows), f"Errors of probabilities against PyTorch. {told}") as drawn:
        axis = drawn.canvas.subplots()
        for row, found in enumerate(rows.values()):
            mean, largest = (max(found[key], _LEAST_ERROR) for key in ("mean_abs_error", "max_abs_error"))
            axis.plot([mean, largest], [row, row], color=COLORS[0])
            axis.plot([mean], [row], "o", [largest], [row], "o", markersize=9)
            axis.lines[-2].set_color(COLORS[1])
            axis.lines[-1].set_color(COLORS[0])
            axis.vlines(found["tolerance"]["max_abs_error"], row - 0.3, row + 0.3, color=INK, linewidth=2)
        axis.set_xscale("log")
        plain_log(axis.xaxis, fine_below=30)  # numbers beside each other need more room than above each other
        axis.set_xlabel("difference of a probability (log)")
        _named_rows(axis, list(rows))
    return Figure(
        "errors",
        "Engines against PyTorch",
        drawn.svg,
        "Left of its mark an engine is within what its target allows.",
        (("f0", "largest"), ("f1", "mean"), ("bound", "allowed (largest)")),
    )


def engine_latency(engines: Sequence[Mapping[str, Any]]) -> Figure | None:
    """One image through each engine: median and 95th percentile of the plan that is used."""
    rows = {engine["target"]: engine["fastest"][0] for engine in engines if engine["fastest"]}
    if len(rows) < 2:
        return None
    rows = dict(sorted(rows.items(), key=lambda item: float(item[1]["median"])))
    told = "; ".join(f"{target} {row['median']:.2f} ms" for target, row in rows.items())
    with picture(WIDTH, 70 + 34 * len(rows), f"Median latency of one image: {told}") as drawn:
        axis = drawn.canvas.subplots()
        for place, row in enumerate(rows.values()):
            axis.barh(place, row["median"], 0.6, color=COLORS[0], alpha=0.45)
            axis.hlines(place, row["p25"], row["p95"], color=INK, linewidth=1.4)
            axis.annotate(f"{row['median']:.2f}", (row["p95"], place), (4, 0), textcoords="offset points", va="center")
        axis.margins(x=0.12)
        axis.set_xlabel(f"milliseconds, batch {next(iter(rows.values()))['batch']}")
        _named_rows(axis, list(rows))
    return Figure(
        "engine-latency",
        "One image, engine by engine",
        drawn.svg,
        "Bar and number: median of the plan that is used; line: quartile to 95th percentile. "
        "Measured when each was built.",
    )


def plans(engine: Mapping[str, Any], index: int) -> Figure | None:
    """An engine's plans: milliseconds an image at each batch size."""
    found = engine["latency_ms"]
    if not found:
        return None
    sizes = sorted({int(size) for plan in found.values() for size in plan})
    told = "; ".join(
        f"{plan}: " + ", ".join(f"batch {size} {row['median']:.2f} ms" for size, row in rows.items())
        for plan, rows in found.items()
    )
    width = min(0.3, 0.8 / len(found))
    with picture(WIDTH, HEIGHT, f"Latency by plan of {engine['target']}. {told}") as drawn:
        axis = drawn.canvas.subplots()
        for at, (plan, rows) in enumerate(found.items()):
            for size, row in ((int(key), row) for key, row in rows.items()):
                used = plan == engine["plan_by_batch"].get(str(size), engine["plan"])
                place = sizes.index(size) + width * (at - (len(found) - 1) / 2)
                color = COLORS[at % len(COLORS)]
                axis.bar(place, row["median"] / size, 0.9 * width, color=color, alpha=1.0 if used else 0.45)
                axis.vlines(place, row["p25"] / size, row["p75"] / size, color=INK, linewidth=1.4)
        axis.set_xticks(range(len(sizes)), [f"batch {size}" for size in sizes])
        axis.grid(visible=False, axis="x")
        axis.set(xlim=(-0.6, len(sizes) - 0.4), ylabel="ms per image")
    return Figure(
        f"plans-{index}",
        f"Plans of {engine['target']}",
        drawn.svg,
        "Median and quartiles, plans called in turns when the engine was built. Full colour: the plan that is used.",
        _legend(list(found)),
    )


def load(group: Mapping[str, Any], key: str) -> Figure | None:
    """Latency under load: percentiles of each model over concurrency or rate."""
    series = {name: [run for run in runs if run["p50_ms"]] for name, runs in group["series"].items()}
    series = {name: runs for name, runs in series.items() if runs}
    if not series:
        return None
    told = "; ".join(
        f"{name} at {run['load']:g}: p50 {run['p50_ms']:.2f} ms, p99 {run['p99_ms'] or 0:.2f} ms"
        for name, runs in series.items()
        for run in runs
    )
    with picture(WIDTH, 330, f"Latency under load. {told}") as drawn:
        draw_load(drawn.canvas.subplots(), group["mode"], series)
    caption = "Solid: median. Dashed: 95th percentile. Dotted: 99th percentile."
    return Figure(f"load-{key}", f"Under load: {group['title']}", drawn.svg, caption, _legend(list(series)))


def tail(group: Mapping[str, Any], key: str) -> Figure | None:
    """The slow requests at the highest load: latency by percentile."""
    series = {name: max(runs, key=lambda run: float(run["load"])) for name, runs in group["series"].items() if runs}
    points = {
        # A percentile beyond the slowest request would be that request's time under another name.
        name: {part: run[part] for part, percent in _TAIL.items() if run[part] and run["ok"] * (100 - percent) >= 99.99}
        for name, run in series.items()
    }
    points = {name: found for name, found in points.items() if len(found) > 1}
    if not points:
        return None
    told = "; ".join(
        f"{name}: " + ", ".join(f"{part.removesuffix('_ms')} {value:.2f} ms" for part, value in found.items())
        for name, found in points.items()
    )
    with picture(WIDTH, 330, f"Tail of latency. {told}") as drawn:
        draw_tails(
            drawn.canvas.subplots(),
            [
                Tail(name, COLORS[at % len(COLORS)], "-", [_TAIL[part] for part in found], list(found.values()))
                for at, (name, found) in enumerate(points.items())
            ],
        )
    loads = ", ".join(f"{name} at {series[name]['load']:g}" for name in points)
    return Figure(
        f"tail-{key}",
        f"The tail: {group['title']}",
        drawn.svg,
        f"At the highest load measured ({loads}), as far as the number of requests carries.",
        _legend(list(points)),
    )


def claim_interval(claim: Mapping[str, Any]) -> Markup | None:
    """A claim's estimate and interval beside its bound, small enough for a table's cell."""
    if claim["estimate"] is None:
        return None
    low, high = claim["interval"] or (claim["estimate"], claim["estimate"])
    color = VERDICTS.get(claim["verdict"], INK)
    told = f"{claim['measured']}" + "".join(
        f", {key.replace('_', ' ')} {value:g}" for key, value in claim["bound"].items()
    )
    with picture(160, 30, told) as drawn:
        axis = drawn.canvas.subplots()
        axis.axis("off")
        axis.axhline(0, color=LINE, linewidth=1)
        axis.vlines(list(claim["bound"].values()), -1, 1, color=INK)
        axis.plot([low, high], [0, 0], color=color, linewidth=4, alpha=0.55)
        axis.plot([claim["estimate"]], [0], "o", color=color, markersize=9)
        axis.margins(x=0.1, y=0.1)
    return drawn.svg


def _legend(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"f{index % len(COLORS)}", name) for index, name in enumerate(names)]


def _named_rows(axis: Any, names: Sequence[str]) -> None:
    """A row for each name, from above."""
    shown = [name if len(name) <= 19 else f"{name[:18]}…" for name in names]
    axis.set_yticks(range(len(names)), shown)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(visible=False, axis="y")
    axis.set_ylim(len(names) - 0.4, -0.6)
