"""Scores for people, as `rrr train` and `rrr evaluate` print them."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

_SHOWN = 5
_COLUMNS = {"accuracy": "accuracy", "nll": "NLL", "ece": "ECE", "brier": "Brier"}


def scores_table(title: str, scores: Mapping[str, Any]) -> Table:
    """Accuracy, NLL, ECE and Brier score of the ensemble and each member, from `metrics.score`.

    The ensemble has a second row where `scores` has its figures before calibration, as `uncalibrated`.
    """
    table = Table("", *_COLUMNS.values(), title=escape(title))
    members = scores["members"]
    whole = "ensemble" if len(members) > 1 else "network"
    rows = [(whole, scores)]
    if before := scores.get("uncalibrated"):
        rows.append((f"{whole}, uncalibrated", before))
    rows += [(f"member {index}", row) for index, row in enumerate(members)] if len(members) > 1 else []
    for name, row in rows:
        figures = [row.get(key) for key in _COLUMNS]
        table.add_row(name, *("" if value is None else f"{value:.3f}" for value in figures))
    return table


def answer_lines(scores: Mapping[str, Any]) -> list[str]:
    """How many members answered, and how often sets hold the right label, from `evaluation.answer_scores`."""
    lines, members = [], len(scores["members"])
    if scores["share_early"]:
        lines.append(
            f"effort {scores['effort']}: {scores['members_used']:.2f} of {members} members on average, "
            f"{scores['share_early']:.1%} of images answered without all"
        )
    for nominal, found in (scores["coverage"] or {}).items():
        size = f"{found['mean_size']:.2f} labels on average"
        lines.append(f"sets for {float(nominal):.0%}: hold the right label of {found['coverage']:.1%}, {size}")
    return lines


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
