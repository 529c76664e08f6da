"""Pictures of latency: an engine's plans by batch size, all engines side by side, and bench results under load."""

from collections.abc import Mapping, Sequence
from typing import Any

from rrrserve.report.figures import Figure
from rrrserve.report.svg import Chart, Scale, room, short

# Percentiles of a bench result, and the share of requests beyond each: the tail's axis is logarithmic in it.
_TAIL = (("p50_ms", 0.5), ("p90_ms", 0.1), ("p95_ms", 0.05), ("p99_ms", 0.01), ("p999_ms", 0.001))
_SERIES = 6


def engines(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """One image through each engine: median and 95th percentile of the plan that is used."""
    timed = [row for row in rows if row["fastest"]]
    if len(timed) < 2:
        return None
    timed = sorted(timed, key=lambda row: float(row["fastest"][0]["median"]))
    told = "; ".join(f"{row['target']} {row['fastest'][0]['median']:.2f} ms" for row in timed)
    chart = Chart(f"Median latency of one image: {told}", height=70 + 34 * len(timed), left=134)
    x = room([row["fastest"][0]["p95"] for row in timed], chart.left, chart.right - 26, zero=True)
    chart.x_axis(x, f"milliseconds, batch {timed[0]['fastest'][0]['batch']}")
    for index, row in enumerate(timed):
        y, first = chart.top + 8 + 34 * index, row["fastest"][0]
        chart.text((chart.left - 8, y + 14), short(row["target"], 19), "t", "end")
        chart.bar(chart.left, y, x(first["median"]) - chart.left, 19, "f0 soft", f"median {first['median']:.3f} ms")
        chart.line((x(first["p25"]), y + 9.5), (x(first["p95"]), y + 9.5), "whisker")
        chart.text((x(first["p95"]) + 5, y + 14), f"{first['median']:.2f}", "tick")
    return Figure(
        "engine-latency",
        "One image, engine by engine",
        chart.markup(),
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
    chart = Chart(f"Latency by plan of {engine['target']}. {told}")
    tallest = [row["p75"] / int(size) for rows in found.values() for size, row in rows.items()]
    y = room(tallest, chart.bottom, chart.top, zero=True)
    chart.y_axis(y, "ms per image")
    group = (chart.right - chart.left) / len(sizes)
    width = min(34.0, 0.78 * group / len(found))
    for place, size in enumerate(sizes):
        middle = chart.left + group * (place + 0.5)
        chart.text((middle, chart.bottom + 16), f"batch {size}", "tick", "middle")
        for number, (plan, rows) in enumerate(found.items()):
            row = rows.get(str(size))
            if row is None:
                continue
            left = middle + width * (number - len(found) / 2)
            used = plan == engine["plan_by_batch"].get(str(size), engine["plan"])
            tip = f"{plan}, batch {size}: median {row['median']:.3f} ms, 95th percentile {row['p95']:.3f} ms"
            top = y(row["median"] / size)
            chart.bar(
                left + 1, top, width - 2, chart.bottom - top, f"f{number % _SERIES} {'' if used else 'soft'}", tip
            )
            center = left + width / 2
            chart.line((center, y(row["p25"] / size)), (center, y(row["p75"] / size)), "whisker")
    chart.line((chart.left, chart.bottom), (chart.right, chart.bottom), "axis")
    return Figure(
        f"plans-{index}",
        f"Plans of {engine['target']}",
        chart.markup(),
        "Median and quartiles, plans called in turns when the engine was built. Full colour: the plan that is used.",
        [(f"f{number % _SERIES}", plan) for number, plan in enumerate(found)],
    )


def load(group: Mapping[str, Any], key: str) -> Figure | None:
    """Latency under load: p50 and p99 of each model over concurrency or rate."""
    series = {name: [run for run in runs if run["p50_ms"]] for name, runs in group["series"].items()}
    series = {name: runs for name, runs in series.items() if runs}
    if not series:
        return None
    lines = [(name, runs, percentile) for name, runs in series.items() for percentile in ("p50_ms", "p99_ms")]
    told = "; ".join(
        f"{name} at {run['load']:g}: p50 {run['p50_ms']:.2f} ms, p99 {run['p99_ms'] or 0:.2f} ms"
        for name, runs in series.items()
        for run in runs
    )
    chart = Chart(f"Latency under load. {told}", height=330)
    loads = sorted({run["load"] for runs in series.values() for run in runs})
    values = [run[percentile] for _, runs, percentile in lines for run in runs if run[percentile]]
    y = room(values, chart.bottom, chart.top, log=True)
    x = Scale(loads[0] / 1.1, loads[-1] * 1.1, chart.left + 8, chart.right - 8, log=True)
    chart.y_axis(y, "milliseconds (log)")
    chart.x_axis(x, group["load_name"], ticks=loads if len(loads) <= 8 else ())
    for index, (name, runs, percentile) in enumerate(lines):
        color = index // 2 % _SERIES
        places = [(x(run["load"]), y(run[percentile])) for run in runs if run[percentile]]
        chart.path(places, f"s{color} {'line' if percentile == 'p50_ms' else 'dashed'}")
        for run, place in zip([run for run in runs if run[percentile]], places, strict=True):
            tip = f"{name}, {percentile.removesuffix('_ms')} at {run['load']:g}: {run[percentile]:.2f} ms"
            chart.dot(place, f"f{color}", tip, 3.5 if percentile == "p50_ms" else 2.5)
    return Figure(
        f"load-{key}",
        f"Under load: {group['title']}",
        chart.markup(),
        "Solid: median. Dashed: 99th percentile.",
        [(f"f{index % _SERIES}", name) for index, name in enumerate(series)],
    )


def tail(group: Mapping[str, Any], key: str) -> Figure | None:
    """The slow requests at the highest load: latency by percentile."""
    series = {name: max(runs, key=lambda run: float(run["load"])) for name, runs in group["series"].items() if runs}
    points = {
        # A percentile beyond the slowest request would be that request's time under another name.
        name: [
            (share, run[percentile], percentile)
            for percentile, share in _TAIL
            if run[percentile] and run["ok"] * share >= 1
        ]
        for name, run in series.items()
    }
    points = {name: found for name, found in points.items() if len(found) > 1}
    if not points:
        return None
    told = "; ".join(
        f"{name}: " + ", ".join(f"{percentile.removesuffix('_ms')} {value:.2f} ms" for _, value, percentile in found)
        for name, found in points.items()
    )
    chart = Chart(f"Tail of latency. {told}", height=330)
    y = room([value for found in points.values() for _, value, _ in found], chart.bottom, chart.top, log=True)
    x = Scale(0.6, 0.0009, chart.left, chart.right - 6, log=True)
    chart.y_axis(y, "milliseconds (log)")
    for percentile, share in _TAIL:
        chart.line((x(share), chart.top), (x(share), chart.bottom), "grid")
        label = "p99.9" if percentile == "p999_ms" else percentile.removesuffix("_ms")
        chart.text((x(share), chart.bottom + 16), label, "tick", "middle")
    chart.line((chart.left, chart.bottom), (chart.right, chart.bottom), "axis")
    chart.text(((chart.left + chart.right) / 2, chart.bottom + 36), "percentile of requests", "t", "middle")
    for index, (name, found) in enumerate(points.items()):
        places = [(x(share), y(value)) for share, value, _ in found]
        chart.path(places, f"s{index % _SERIES} line")
        for place, (_, value, percentile) in zip(places, found, strict=True):
            chart.dot(place, f"f{index % _SERIES}", f"{name}, {percentile.removesuffix('_ms')}: {value:.2f} ms")
    loads = ", ".join(f"{name} at {series[name]['load']:g}" for name in points)
    return Figure(
        f"tail-{key}",
        f"The tail: {group['title']}",
        chart.markup(),
        f"At the highest load measured ({loads}), as far as the number of requests carries.",
        [(f"f{index % _SERIES}", name) for index, name in enumerate(points)],
    )
