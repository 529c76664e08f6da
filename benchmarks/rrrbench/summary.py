"""The few figures of README.md and docs/performance.md; docs/internals/performance.md has all."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rrrbench.environment import machine_text
from rrrbench.names import BASELINE, BASELINE_TITLE, DEMO_BASELINE, DEMO_ENSEMBLE, ENSEMBLE
from rrrbench.service_tables import best_throughput
from rrrbench.tables import case_ratio, markdown, median

Document = Mapping[str, Any]


def speed_summary(engine: Document) -> str:
    """Engines at batch 1 of the largest size, PyTorch eager beside the fastest of them, and the machine."""
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
    unlike = f"{BASELINE_TITLE} in PyTorch eager, FP32; members in `{best}`"
    rows.append([unlike, *cells, case_ratio(case, "torch-eager", best).text(1, "x")])
    table = markdown([f"{pixels} pixels, batch 1, p50", BASELINE_TITLE, "8 members", "ratio (95 % interval)"], rows)
    return f"{table}\n\nOn {machine_text(engine['environment']['ratios']['machine'])}."


def servers_summary(peers: Document) -> str:
    """The servers, one request at a time and many, and the machine."""
    rows, level = [], ""
    for name, row in peers["peers"][0]["rows"].items():
        first, level = [found for found in row if found.startswith("concurrency-")][:2]
        alone, loaded = row[first], row[level]
        figures = [alone["p50_ms"], alone["p99_ms"], loaded["p50_ms"], loaded["p99_ms"], median(best_throughput(row))]
        rows.append([name, *(f"{figure:.1f}" for figure in figures)])
    level = level.removeprefix("concurrency-")
    header = ["JPEG in, JSON out", "p50 (ms)", "p99", f"p50 at {level} requests", f"p99 at {level}", "best answers/s"]
    return f"{markdown(header, rows)}\n\nOn {machine_text(peers['environment']['peers']['machine'])}."


def demo_summary(result: Document) -> str:
    """Both models of the demo, and how they were measured."""
    ensemble, baseline = result["models"][DEMO_ENSEMBLE], result["models"][DEMO_BASELINE]
    scores = ensemble["scores"]
    members = [member["accuracy"] for member in scores["members"]]
    rows: list[tuple[str, str, str, str]] = []
    for key, title in (("engine", "engine"), ("http", "HTTP, JPEG in, JSON out")):
        row = result[key]
        low, high = row["interval"]
        ratio = f"**{row['speed_up']:.1f}x** ({low:.1f} to {high:.1f})"
        rows.append(
            (f"{title}, p50", f"{row[DEMO_ENSEMBLE]['p50_ms']:.2f} ms", f"{row[DEMO_BASELINE]['p50_ms']:.2f} ms", ratio)
        )
        rows.append(
            (f"{title}, p95", f"{row[DEMO_ENSEMBLE]['p95_ms']:.2f} ms", f"{row[DEMO_BASELINE]['p95_ms']:.2f} ms", "")
        )
    for key, title, unit, suffix in (
        ("parameters", "parameters", 1e6, "M"),
        ("macs", f"multiply-accumulates, {result['image_size']} pixels", 1e6, "M"),
        ("engine_bytes", "engine on disk", 1e6, "MB"),
    ):
        small, large = ensemble[key] / unit, baseline[key] / unit
        rows.append((title, f"{small:.1f} {suffix}", f"{large:.1f} {suffix}", f"{large / small:.1f}x"))
    accuracy = f"{100 * scores['accuracy']:.1f} % (members: {100 * np.mean(members):.1f} % on average)"
    rows.append((f"accuracy on {scores['images']} test images", accuracy, "not trained", ""))
    table = markdown(["", "RRR-Net, 8 members", BASELINE_TITLE, "ratio (95 % interval)"], rows)
    requests = f"`{result['target']}`, batch 1, {result['rounds']} requests to each model in turns"
    note = f"{requests}, on {result['machine']['cpu']}."
    return f"{table}\n\n{note}"
