"""The tables of a sweep in Markdown, from what `table.summarise` gives."""

from collections.abc import Mapping, Sequence
from typing import Any


def tables(summary: Mapping[str, Any]) -> str:
    """All of them, with what their figures mean."""
    return "\n\n".join(
        [
            _table(*accuracy_table(summary)),
            "Test accuracy in percent, mean over the seeds (their number in brackets) with Student's 95 % interval.",
            _table(*methods_table(summary)),
            _about_ranks(summary),
            _table(*differences_table(summary)),
            "Percentage points, 95 % intervals by Student's t: over pairs of the same data set and seed, and over data "
            "sets. One that holds 0 shows no difference.",
        ]
    )


def accuracy_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Data sets by methods: header and rows."""
    methods = [row["method"] for row in summary["methods"]]
    cells = {(row["dataset"], row["method"]): row["accuracy"] for row in summary["rows"]}
    datasets = dict.fromkeys(row["dataset"] for row in summary["rows"])
    rows = [
        [dataset, *(_accuracy(cells[dataset, method]) if (dataset, method) in cells else "" for method in methods)]
        for dataset in datasets
    ]
    return ["data set", *methods], rows


def methods_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Methods over all data sets that have every method: header and rows."""
    header = ["method", "mean accuracy", "wins", "average rank", "parameters", "MACs", "seconds of training"]
    rows = [
        [
            row["method"],
            "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}",
            f"{row['wins']} of {len(summary['complete'])}",
            "" if row["rank"] is None else f"{row['rank']:.2f}",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['macs'] / 1e6:.0f} M",
            f"{row['seconds']:.0f}",
        ]
        for row in summary["methods"]
    ]
    return header, rows


def differences_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Differences of accuracy: header and rows."""
    rows = [
        [f"{row['of']} - {row['less']}", _points(row["over_pairs"]), _points(row["over_datasets"])]
        for row in summary["differences"]
    ]
    return ["difference", "over pairs", "over data sets"], rows


def _about_ranks(summary: Mapping[str, Any]) -> str:
    """What wins and ranks are counted over, and whether they tell the methods apart."""
    ranks, told = summary["ranks"], []
    if summary["incomplete"]:
        told.append(f"Without {', '.join(summary['incomplete'])}, where cells are missing.")
    if ranks["critical_difference"] is None:
        told.append("Ranks need two data sets and three methods to be compared.")
        return " ".join(told)
    p = ranks["friedman_p"]
    told.append("Equal means share a rank, and each counts as a win.")
    told.append(
        f"Friedman's test over {ranks['datasets']} data sets: " + ("no ranks differ." if p is None else f"p = {p:.3f}.")
    )
    told.append(f"Average ranks less than {ranks['critical_difference']:.2f} apart do not differ (Nemenyi, 5 %).")
    return " ".join(told)


def _accuracy(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"{100 * found['mean']:.1f} ({found['n']})"
    low, high = max(0.0, found["low"]), min(1.0, found["high"])
    return f"{100 * found['mean']:.1f} ({found['n']}; {100 * low:.1f} to {100 * high:.1f})"


def _points(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"{_signed(found['mean'])} ({found['n']})"
    return f"{_signed(found['mean'])} ({found['n']}; {_signed(found['low'])} to {_signed(found['high'])})"


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # never -0.0


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
