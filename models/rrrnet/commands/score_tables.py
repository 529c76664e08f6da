"""Scores for people, as `rrr train` and `rrr evaluate` print them."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

_SHOWN = 5


def scores_table(title: str, scores: Mapping[str, Any]) -> Table:
    """Accuracy, NLL and ECE of the ensemble and each member, from `metrics.score`."""
    table = Table("", "accuracy", "NLL", "ECE", title=escape(title))
    members = scores["members"]
    rows = [("ensemble" if len(members) > 1 else "network", scores)]
    rows += [(f"member {index}", row) for index, row in enumerate(members)] if len(members) > 1 else []
    for name, row in rows:
        table.add_row(name, f"{row['accuracy']:.3f}", f"{row['nll']:.3f}", f"{row['ece']:.3f}")
    return table


def class_lines(scores: Mapping[str, Any]) -> list[str]:
    """Balanced accuracy, the classes that are found least, and what is taken for what, from `metrics.by_class`."""
    known = [row for row in scores["per_class"] if row["recall"] is not None]
    worst = sorted(known, key=lambda row: float(row["recall"]))
    lines = [f"balanced accuracy (mean recall of {len(known)} classes): {scores['balanced_accuracy']:.3f}"]
    shown = [row for row in worst if row["recall"] < 1][:_SHOWN]
    if shown:
        found = ", ".join(f"{row['label']} {row['recall']:.2f} of {row['images']}" for row in shown)
        lines.append(f"{'lowest recall' if len(known) > _SHOWN else 'recall'}: {found}")
    never = [row["label"] for row in known if not row["recall"]]
    if never:
        more = f" and {len(never) - _SHOWN} more" if len(never) > _SHOWN else ""
        lines.append(f"never answered rightly: {', '.join(never[:_SHOWN])}{more}")
    if scores["confusions"]:
        pairs = [f"{row['label']} taken for {row['predicted']} ({row['count']})" for row in scores["confusions"]]
        lines.append(f"most often confused: {', '.join(pairs[:_SHOWN])}")
    return lines
