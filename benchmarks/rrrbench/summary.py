"""The README's figures of speed: a few lines of the result files that docs/performance.md shows in full."""

from collections.abc import Mapping
from typing import Any

from rrrbench.names import BASELINE, ENSEMBLE
from rrrbench.service_tables import best_throughput
from rrrbench.tables import case_ratio, markdown, median

Document = Mapping[str, Any]


def speed_summary(engine: Document, peers: Document) -> str:
    """Engines at batch 1 of the largest size, PyTorch eager beside the fastest of them, and the servers."""
    return f"{_engines(engine)}\n\n{_servers(peers)}"


def _engines(engine: Document) -> str:
    pixels = max(case["pixels"] for case in engine["ratios"])
    rows = []
    for case in engine["ratios"]:
        if (case["pixels"], case["batch"]) == (pixels, 1):
            cells = [f"{median(case['times_ms'][name]):.1f} ms" for name in (BASELINE, ENSEMBLE)]
            rows.append([f"engine, `{case['target']}`", *cells, case_ratio(case, BASELINE, ENSEMBLE).text(1, "x")])
    (case,) = engine["eager"]
    times = case["times_ms"]
    best = min((name for name in times if not name.startswith("torch-eager")), key=lambda name: median(times[name]))
    cells = [f"{median(times[name]):.1f} ms" for name in ("torch-eager", best)]
    rows.append([f"PyTorch eager; `{best}`", *cells, case_ratio(case, "torch-eager", best).text(1, "x")])
    return markdown([f"{pixels} pixels, batch 1, p50", "ResNet152", "8 members", "ratio (95 % interval)"], rows)


def _servers(peers: Document) -> str:
    rows, level = [], ""
    for name, row in peers["peers"][0]["rows"].items():
        first, level = [found for found in row if found.startswith("concurrency-")][:2]
        alone, loaded = row[first], row[level]
        figures = [alone["p50_ms"], alone["p99_ms"], loaded["p50_ms"], loaded["p99_ms"], median(best_throughput(row))]
        rows.append([name, *(f"{figure:.1f}" for figure in figures)])
    level = level.removeprefix("concurrency-")
    header = ["JPEG in, JSON out", "p50 (ms)", "p99", f"p50 at {level} requests", f"p99 at {level}", "best answers/s"]
    return markdown(header, rows)
