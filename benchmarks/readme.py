"""Write the demo's figures into README.md and draw its picture, both from one result file.

.venv/bin/python benchmarks/demo.py --save benchmarks/results/demo.json
.venv/bin/python benchmarks/readme.py benchmarks/results/demo.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "demo.png"
BEGIN, END = "<!-- demo figures: written by benchmarks/readme.py -->", "<!-- end of demo figures -->"
ENSEMBLE, BASELINE = "glyphs-ensemble8", "glyphs-resnet152"


def figures(result: dict[str, Any]) -> str:
    """The README's table, as Markdown."""
    ensemble, baseline = result["models"][ENSEMBLE], result["models"][BASELINE]
    scores = ensemble["scores"]
    members = [member["accuracy"] for member in scores["members"]]
    rows = [("", "RRR-Net, 8 members", "ResNet152", "ratio (95 % interval)"), ("---", "---", "---", "---")]
    for key, title in (("engine", "engine"), ("http", "HTTP, JPEG in, JSON out")):
        row = result[key]
        low, high = row["interval"]
        ratio = f"**{row['speed_up']:.1f}x** ({low:.1f} to {high:.1f})"
        rows.append((f"{title}, p50", f"{row[ENSEMBLE]['p50_ms']:.2f} ms", f"{row[BASELINE]['p50_ms']:.2f} ms", ratio))
        rows.append((f"{title}, p95", f"{row[ENSEMBLE]['p95_ms']:.2f} ms", f"{row[BASELINE]['p95_ms']:.2f} ms", ""))
    for key, title, unit, suffix in (
        ("parameters", "parameters", 1e6, "M"),
        ("macs", f"multiply-accumulates, {result['image_size']} pixels", 1e6, "M"),
        ("engine_bytes", "engine on disk", 1e6, "MB"),
    ):
        small, large = ensemble[key] / unit, baseline[key] / unit
        rows.append((title, f"{small:.1f} {suffix}", f"{large:.1f} {suffix}", f"{large / small:.1f}x"))
    accuracy = f"{100 * scores['accuracy']:.1f} % (members: {100 * np.mean(members):.1f} % on average)"
    rows.append((f"accuracy on {scores['images']} test images", accuracy, "not trained", ""))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    cpu = result["machine"]["cpu"].split(":")[0]
    note = f"`{result['target']}`, batch 1, {result['rounds']} requests to each model in turns, on {cpu}."
    return f"{table}\n\n{note}"


def draw(result: dict[str, Any], path: Path) -> None:
    """Bars of p50 with p95 marks, engine and HTTP, both models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axis = figure.subplots()
    colors = {ENSEMBLE: "#2a6f97", BASELINE: "#b3442e"}
    names = {ENSEMBLE: "RRR-Net, 8 members", BASELINE: "ResNet152"}
    for row, (key, title) in enumerate((("http", "over HTTP"), ("engine", "at the engine"))):
        for offset, model in ((0.2, ENSEMBLE), (-0.2, BASELINE)):
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


def main() -> None:
    """Rewrite README's figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="what benchmarks/demo.py --save wrote")
    result = json.loads(parser.parse_args().result.read_text())
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{figures(result)}\n{END}{after}")
    draw(result, PICTURE)


if __name__ == "__main__":
    main()
