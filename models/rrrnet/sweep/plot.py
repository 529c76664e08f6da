"""The critical-difference diagram of a sweep (Demsar, JMLR 7, 2006, figure 1): average ranks on a line.

A bar joins methods whose ranks differ by less than the critical difference.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_INCHES_WIDE, _INCHES_A_ROW = 7.0, 0.32
_ROWS_ABOVE = 2.4  # of the axis and the critical difference


def groups(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last index of each largest run of ascending `ranks` that spans less than `critical`."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(index for index in range(first, len(ranks)) if ranks[index] - ranks[first] < critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def draw(summary: dict[str, Any], path: Path) -> bool:
    """Write the picture, SVG by the name's ending; False where there are no ranks to compare."""
    critical = summary["ranks"]["critical_difference"]
    if critical is None:
        return False
    from matplotlib.figure import Figure

    rows = sorted((row["rank"], row["method"]) for row in summary["methods"])
    ranks, count = [rank for rank, _ in rows], len(rows)
    joined, left = groups(ranks, critical), (count + 1) // 2
    deepest = max(left, count - left) + len(joined)
    figure = Figure(figsize=(_INCHES_WIDE, _INCHES_A_ROW * (deepest + _ROWS_ABOVE + 1)))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(1 - 0.45 * (count - 1), count + 0.45 * (count - 1))
    axes.set_ylim(deepest + 1, -_ROWS_ABOVE)
    axes.axis("off")

    def line(x: list[float], y: list[float], width: float = 1.0) -> None:
        axes.plot(x, y, color="black", linewidth=width)

    line([1, count], [0, 0])
    for tick in range(1, count + 1):
        line([tick, tick], [-0.2, 0])
        axes.text(tick, -0.35, str(tick), ha="center", va="bottom")
    end = min(1 + critical, count + 0.4 * (count - 1))
    line([1, end], [-1.6, -1.6], 1.5)
    axes.text(1, -1.75, f"critical difference {critical:.2f} (Nemenyi, 5 %)", ha="left", va="bottom")
    for level, (first, last) in enumerate(joined):
        line([ranks[first] - 0.04, ranks[last] + 0.04], [0.45 + level] * 2, 4.0)
    for index, (rank, method) in enumerate(rows):
        on_left = index < left
        depth = len(joined) + (index if on_left else count - 1 - index) + 0.6
        side = 0.9 if on_left else count + 0.1
        line([rank, rank, side], [0, depth, depth])
        text = f"{method} {rank:.2f}"
        axes.text(side + (-0.05 if on_left else 0.05), depth, text, ha="right" if on_left else "left", va="center")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return True
