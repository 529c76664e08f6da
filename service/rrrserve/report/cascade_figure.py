"""The trade-off of a cascade: what is lost and what is saved, by the share of images that few members answer."""

from collections.abc import Mapping
from typing import Any

from rrrbuild.confidence.thresholds import aimed_at
from rrrserve.bench.plot import COLORS
from rrrserve.report.drawing import INK, SOFT, WIDTH, Figure, picture


def trade_off(engine: Mapping[str, Any], index: int) -> Figure | None:
    """Accuracy lost and expected time of an image over the share decided early; the point that was chosen is marked."""
    found = engine["cascade"]
    if found is None:
        return None
    points, costs = found["curve"], found["cost_ms"]["expected"]
    shares = [100 * point["share_early"] for point in points]
    chosen = 100 * found["share_early"]
    aim, allowed = aimed_at(found["max_drop_points"]), found["max_drop_points"]
    times = ", ".join(f"batch {size} {cost:.2f} ms" for size, cost in costs.items())
    told = (
        f"Trade-off of the cascade of {engine['target']}: {chosen:.1f} % of images decided early lose "
        f"{found['drop_points']:.2f} points of accuracy, at most {found['drop_bound_points']:.2f}; expected {times}"
    )
    with picture(WIDTH, 380, told) as drawn:
        above, below = drawn.canvas.subplots(2, 1, sharex=True)
        for key, color, style in (("drop_points", COLORS[0], "-"), ("drop_bound_points", COLORS[1], "--")):
            above.plot(shares, [point[key] for point in points], style, color=color)
            above.plot([chosen], [found[key]], "D", color=color, markersize=9)
        above.axhline(aim, color=SOFT, linewidth=1.4, linestyle=":")
        beside = above.get_yaxis_transform()  # right of the axes, where no curve runs
        above.text(1, aim, " aimed at", transform=beside, color=SOFT, fontsize=11, va="center")
        above.set_ylabel("points lost")
        for size, color in zip(costs, COLORS[2:], strict=False):
            below.plot(shares, [point["expected_ms"][size] / int(size) for point in points], color=color)
            below.plot([chosen], [costs[size] / int(size)], "D", color=color, markersize=9)
        below.set(xlabel="share of images decided early, %", ylabel="expected ms per image", ylim=(0, None))
        for axis in (above, below):
            axis.axvline(chosen, color=INK, linewidth=1)
    names = ["points lost, estimate", "upper bound (95 %)", *(f"time at batch {size}" for size in costs)]
    return Figure(
        f"cascade-{index}",
        f"Cascade of {engine['target']}",
        drawn.svg,
        f"Diamonds: what was chosen, {found['k']} of {len(found['order'])} members first and tau {found['tau']:.3f}. "
        f"Dotted: {aim:g} points, the estimate that is aimed at so that other images lose at most {allowed:g}.",
        [(f"f{at}", name) for at, name in enumerate(names)],
    )
