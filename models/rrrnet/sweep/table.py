"""From cells to what they say together: means with intervals, wins, ranks, and differences between methods.

Intervals are Student's t at 95 %: over seeds for a mean; for a difference over its pairs (same data set, same seed) and
over data sets, each with the mean of its pairs. Pairs of one data set share images, so the second is to be judged by
where the question is about other data sets. Ranks, Friedman's test and Nemenyi's critical difference follow Demsar
(JMLR 7, 2006): each data set counts once, with the mean over its seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from rrrnet.sweep.cells import FORMAT_VERSION, MATCHED, TAUGHT, Cell, images_of

CONFIDENCE = 0.95
# A small network with the whole one, the ensemble with one branch, what was taught with what was not, and members that
# start from matched slices with those that do not.
_COMPARED = {
    "reduced": ("full",),
    "ensemble": ("full", "reduced"),
    f"ensemble{MATCHED}": ("full", "reduced", "ensemble"),
    f"reduced{TAUGHT}": ("full", "reduced"),
    f"ensemble{TAUGHT}": ("full", "reduced", "ensemble", f"reduced{TAUGHT}"),
    f"ensemble{MATCHED}{TAUGHT}": ("full", "reduced", f"ensemble{MATCHED}", f"reduced{TAUGHT}"),
}
Results = Mapping[Cell, Mapping[str, Any]]


def t_interval(values: Sequence[float]) -> dict[str, Any]:
    """`n`, `mean`, and `low` and `high`: Student's 95 % interval of the expectation, None of one value."""
    mean, half = float(np.mean(values)), None
    if len(values) > 1:
        spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread
    ends = {"low": None, "high": None} if half is None else {"low": mean - half, "high": mean + half}
    return {"n": len(values), "mean": mean, **ends}


def summarise(results: Results, *, order: Sequence[str] = ()) -> dict[str, Any]:
    """What all cells say together, JSON-ready.

    Args:
        results: files of cells.
        order: of methods; others come behind.

    Raises:
        ArtifactError: two cells of one data set were trained on different images.
    """
    found = dict.fromkeys(cell.method for cell in results)
    methods = [*(name for name in order if name in found), *(name for name in found if name not in order)]
    datasets = list(dict.fromkeys(cell.dataset for cell in results))
    images_of(results)
    rows = [
        _row(dataset, method, chosen)
        for dataset in datasets
        for method in methods
        if (chosen := _of(results, dataset, method))
    ]
    # Rounded, so that means of equal counts are equal whatever the order of their sums.
    means = {(row["dataset"], row["method"]): round(row["accuracy"]["mean"], 9) for row in rows}
    complete = [name for name in datasets if len({_seeds(results, name, method) for method in methods}) == 1]
    scores = np.array([[means[name, method] for method in methods] for name in complete]).reshape(-1, len(methods))
    return {
        "format_version": FORMAT_VERSION,
        "confidence": CONFIDENCE,
        "rows": rows,
        "methods": _methods(methods, scores, rows),
        "complete": complete,
        "incomplete": [name for name in datasets if name not in complete],
        "ranks": _ranks(scores),
        "differences": [
            difference
            for ours in methods
            for other in methods
            if other in _COMPARED.get(ours, ()) and (difference := _difference(results, ours, other))
        ],
    }


def _of(results: Results, dataset: str, method: str) -> list[Mapping[str, Any]]:
    return [results[cell] for cell in sorted(results) if (cell.dataset, cell.method) == (dataset, method)]


def _seeds(results: Results, dataset: str, method: str) -> frozenset[int]:
    return frozenset(cell.seed for cell in results if (cell.dataset, cell.method) == (dataset, method))


def _row(dataset: str, method: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One data set and method over its seeds."""
    return {
        "dataset": dataset,
        "method": method,
        "accuracy": t_interval([cell["accuracy"] for cell in cells]),
        "correct": sum(cell["correct"] for cell in cells),
        "images": sum(cell["images"] for cell in cells),
        **{name: float(np.mean([cell[name] for cell in cells])) for name in ("nll", "ece", "seconds", "epochs")},
        "lr": sorted({cell["lr"] for cell in cells}),
        **{name: cells[0][name] for name in ("size", "parameters", "macs")},
    }


def _methods(methods: Sequence[str], scores: Any, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each method over all data sets that have every method; ties count as a win for each."""
    ranks = _average_ranks(scores)
    wins = (scores == scores.max(axis=1, keepdims=True)).sum(axis=0) if len(scores) else [0] * len(methods)
    return [
        {
            "method": method,
            "accuracy": float(scores[:, index].mean()) if len(scores) else None,
            "wins": int(wins[index]),
            "rank": None if ranks is None else float(ranks[index]),
            **_cost([row for row in rows if row["method"] == method]),
        }
        for index, method in enumerate(methods)
    ]


def _cost(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: float(np.mean([row[name] for row in rows])) for name in ("parameters", "macs", "seconds")}


def _average_ranks(scores: Any) -> Any:
    """1 is the best; equal scores share their mean rank. None without data sets."""
    return stats.rankdata(-scores, axis=1).mean(axis=0) if len(scores) else None


def _ranks(scores: Any) -> dict[str, Any]:
    """Friedman's test whether ranks differ at all, and by how much two must for Nemenyi's test."""
    datasets, methods = scores.shape
    told: dict[str, Any] = {"datasets": datasets, "friedman_p": None, "critical_difference": None}
    if datasets < 2 or methods < 3:
        return told
    if not (scores == scores[:, :1]).all():
        told["friedman_p"] = float(stats.friedmanchisquare(*scores.T).pvalue)
    return told | {"critical_difference": critical_difference(methods, datasets)}


def critical_difference(methods: int, datasets: int) -> float:
    """Nemenyi's at 5 %: average ranks further apart differ (Demsar 2006, equation in section 3.2.2)."""
    q = float(stats.studentized_range.isf(1 - CONFIDENCE, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * datasets))


def _difference(results: Results, ours: str, other: str) -> dict[str, Any] | None:
    """Accuracy of one method less that of another on the same data sets and seeds; None without such pairs."""
    pairs: dict[str, list[float]] = {}
    for cell, document in sorted(results.items()):
        if cell.method == ours and (against := results.get(Cell(cell.dataset, other, cell.seed))):
            pairs.setdefault(cell.dataset, []).append(document["accuracy"] - against["accuracy"])
    if not pairs:
        return None
    by_dataset = {dataset: float(np.mean(values)) for dataset, values in pairs.items()}
    return {
        "of": ours,
        "less": other,
        "over_pairs": t_interval(list(_flat(pairs.values()))),
        "over_datasets": t_interval(list(by_dataset.values())),
        "by_dataset": by_dataset,
    }


def _flat(lists: Iterable[Sequence[float]]) -> Iterable[float]:
    return (value for values in lists for value in values)
