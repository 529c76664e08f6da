"""The table, what is said below it, and the same as JSON."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from rrrbuild.advise.plan import OWN
from rrrbuild.advise.recommend import Advice, accuracy, difference, visible_points
from rrrbuild.advise.rows import Row
from rrrnet.proportions import Interval


def table_of(rows: Sequence[Row], target: str) -> Table:
    """Every network, one's own first, on one target."""
    own = rows[0]
    images = max(row.images for row in rows)
    table = Table("network", "accuracy, %", "points to own", title=f"{target}, batch 1, {images} test images")
    for header in ("ms", "faster", "parameters", "MACs", "engine", "epochs"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        right = _interval(accuracy(row), 100) if row.images else ""
        points = _interval(difference(row, own), sign="+") if row is not own and row.images and own.images else ""
        table.add_row(
            row.name,
            right,
            points,
            f"{row.speed['median']:.2f}" if row.speed else "",
            f"{row.times_as_fast:.1f}x" if row.times_as_fast and row is not own else "",
            f"{row.parameters / 1e6:.1f} M" if row.parameters else "",
            f"{own.macs / row.macs:.1f}x fewer" if row is not own and row.macs else _millions(row.macs),
            f"{row.engine_bytes / 1e6:.1f} MB" if row.engine_bytes else "",
            "" if row.epochs is None else "imported" if row.epochs == 0 else str(row.epochs),
        )
    return table


def _interval(found: Interval, factor: float = 1, sign: str = "") -> str:
    value, low, high = (f"{factor * figure:{sign}.1f}" for figure in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def _millions(macs: int) -> str:
    return f"{macs / 1e6:.0f} M" if macs else ""


def lines_of(rows: Sequence[Row], notes: Sequence[str]) -> list[str]:
    """What is missing and why, then the command of each row."""
    missing = [f"{row.name}: {row.note}" for row in rows if row.note]
    commands = [f"{row.name}: {_command(row)}" for row in rows if row.command]
    return [*missing, *notes, *(["each row again:"] if commands else []), *commands]


def _command(row: Row) -> str:
    return " && ".join(command for command in (row.command, row.build) if command)


def document(rows: Sequence[Row], target: str, advice: Advice, notes: Sequence[str]) -> dict[str, Any]:
    """JSON-ready: all rows with what follows from them."""
    own = rows[0]
    told = []
    for row in rows:
        points = difference(row, own) if row.name != OWN and row.images and own.images else None
        told.append(
            row.to_json()
            | {
                "accuracy": _figures(accuracy(row) if row.images else None),
                "points_to_own": _figures(points),
                "again": _command(row),
            }
        )
    images = max(row.images for row in rows)
    return {
        "target": target,
        "test_images": images,
        "visible_points": visible_points(images) if images else None,
        "rows": told,
        "notes": list(notes),
        "recommended": advice.name,
        "sure": advice.sure,
        "why": advice.why,
    }


def _figures(found: Interval | None) -> dict[str, float] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}
