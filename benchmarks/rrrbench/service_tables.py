"""Result files of the service and of its peers as Markdown tables, and the bars they are held to."""

from collections.abc import Mapping
from typing import Any

from rrrbench.names import BASELINE, BASELINE_TITLE, ENSEMBLE
from rrrbench.tables import bar_row, markdown, median
from rrrbench.turns import Interval, median_interval, ratio

Case = Mapping[str, Any]
OURS = "rrr serve"
_TITLES = {ENSEMBLE: "8 members", BASELINE: BASELINE_TITLE}


def latency_table(document: Case) -> str:
    """One request at a time, over HTTP and at the engine."""
    rows = []
    for case in document["latency"]:
        for name, row in case["rows"].items():
            cells = [f"{row[place][f'p{percent}_ms']:.2f}" for place in ("http", "engine") for percent in (50, 95, 99)]
            rows.append([_TITLES[name], f"`{case['target']}`", *cells, overhead_ms(row).text(2)])
    header = ["", "target", *(f"{place} p{percent}" for place in ("HTTP", "engine") for percent in (50, 95, 99))]
    return markdown([*header, "HTTP p50 - engine p50 (ms)"], rows)


def overhead_ms(row: Case) -> Interval:
    """What HTTP adds to the engine's median, by round."""
    pairs = zip(row["http"]["p50_ms_by_round"], row["engine"]["p50_ms_by_round"], strict=True)
    return median_interval([over_http - direct for over_http, direct in pairs])


def concurrency_table(document: Case) -> str:
    """Latency and throughput by requests under way."""
    rows = []
    for case in document["concurrency"]:
        for concurrency, found in case["http"].items():
            cells = [f"{found[f'p{percent}_ms']:.1f}" for percent in (50, 95, 99)]
            throughput = median_interval(found["throughput_by_round"]).text(0)
            rows.append([concurrency, *cells, throughput, str(found["requests"])])
    return markdown(["requests under way", "p50 (ms)", "p95", "p99", "answers/s", "requests"], rows)


def throughput_share(case: Case) -> tuple[str, str, Interval]:
    """The best concurrency, the engine's best batch size, and the ratio of their throughputs by round."""
    served = {concurrency: found["throughput_by_round"] for concurrency, found in case["http"].items()}
    engine = case["engine_images_per_second"]
    best_served, best_engine = (max(found, key=lambda name: median(found[name])) for found in (served, engine))
    return best_served, best_engine, ratio(served[best_served], engine[best_engine])


def engine_rates_table(document: Case) -> str:
    """The engine's own images a second by batch size."""
    rows = []
    for case in document["concurrency"]:
        rates = case["engine_images_per_second"]
        best_served, best_engine, share = throughput_share(case)
        cells = [f"{median(values):.0f}" for values in rates.values()]
        text = f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"
        rows.append([f"`{case['target']}`", *cells, f"{text}, at {best_served} requests and batch {best_engine}"])
    sizes = list(document["concurrency"][0]["engine_images_per_second"])
    return markdown(["engine, images/s", *(f"batch {size}" for size in sizes), "HTTP's share of the best"], rows)


def start_table(document: Case) -> str:
    """Start time and memory with ensemble and ResNet152 loaded."""
    rows = [
        [
            f"`{case['target']}`",
            median_interval(case["start_seconds"]).text(1),
            median_interval(case["memory_mb"]).text(0),
        ]
        for case in document["start"]
    ]
    return markdown(
        [f"ensemble and {BASELINE_TITLE} loaded", "start until /readyz (s)", "memory of all processes (MB)"], rows
    )


def service_tables(document: Case) -> dict[str, str]:
    """All tables for which the file has figures, by title."""
    tables = {
        "latency": [("One request at a time", latency_table)],
        "concurrency": [("Under load", concurrency_table), ("Against the engine", engine_rates_table)],
        "start": [("Start and memory", start_table)],
    }
    return {
        title: table(document) for section, named in tables.items() if document.get(section) for title, table in named
    }


def service_bars(document: Case) -> str:
    """What is aimed at and what was measured."""
    rows = []
    for case in document.get("latency", []):
        found = overhead_ms(case["rows"][ENSEMBLE])
        rows.append(bar_row(f"HTTP p50 - engine p50 (ms), {case['target']}", found, 4.0, at_least=False))
    for case in document.get("concurrency", []):
        share = throughput_share(case)[2]
        rows.append(bar_row(f"HTTP throughput / engine's best, {case['target']}", share, 0.8, at_least=True))
    for case in document.get("start", []):
        start, memory = median_interval(case["start_seconds"]), median_interval(case["memory_mb"])
        rows.append(bar_row("start until /readyz (s)", start, 10.0, at_least=False))
        rows.append(bar_row("memory of all processes (MB)", memory, 1200.0, at_least=False))
    return markdown(["bar", "limit", "measured", ""], rows)


def levels(row: Case) -> list[str]:
    """Keys of a row's figures at so many requests under way."""
    return [name for name in row if name.startswith("concurrency-")]


def best_throughput(row: Case) -> list[float]:
    """Answers a second by round at a contender's best concurrency."""
    by_round = [[found["throughput"] for found in row[name]["rounds"]] for name in levels(row)]
    return max(by_round, key=median)


def _by_round(row: Case, level: str, percent: int) -> list[float]:
    return [found[f"p{percent}_ms"] for found in row[level]["rounds"]]


def peers_table(document: Case) -> str:
    """Each contender at one request, at eight (or the next), and at its best."""
    lines = []
    for case in document["peers"]:
        first = next(iter(case["rows"].values()))
        shown = levels(first)[:2]
        rows = []
        for name, row in case["rows"].items():
            cells = [f"{row[level][f'p{percent}_ms']:.1f}" for level in shown for percent in (50, 99)]
            over = (
                ""
                if row is first
                else ratio(*(_by_round(each, "concurrency-1", 50) for each in (row, first))).text(1, "x")
            )
            rows.append([name, *cells, f"{median(best_throughput(row)):.1f}", over])
        titles = [f"p{percent} at {level.removeprefix('concurrency-')} (ms)" for level in shown for percent in (50, 99)]
        lines.append(markdown(["", *titles, "best answers/s", "p50 at 1 over ours"], rows))
    return "\n\n".join(lines)


def peers_bars(document: Case) -> str:
    """Whether our first row beats every peer, and by how much PyTorch eager over HTTP."""
    rows = []
    for case in document.get("peers", []):
        first = next(iter(case["rows"].values()))
        for name, row in case["rows"].items():
            if name.startswith(OURS):
                continue
            p50 = ratio(*(_by_round(each, "concurrency-1", 50) for each in (row, first)))
            rows.append(
                bar_row(f"p50 at 1: {name} / ours", p50, 15.0 if name.endswith(BASELINE) else 1.0, at_least=True)
            )
            for level in levels(row)[:2]:
                p99 = ratio(*(_by_round(each, level, 99) for each in (row, first)))
                title = f"p99 at {level.removeprefix('concurrency-')}: {name} / ours"
                rows.append(bar_row(title, p99, 1.0, at_least=True))
            rates = ratio(best_throughput(first), best_throughput(row))
            rows.append(bar_row(f"throughput: ours / {name}", rates, 1.0, at_least=True))
    return markdown(["bar", "limit", "measured", ""], rows)
