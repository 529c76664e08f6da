"""results/cascade.json as Markdown tables. Pure functions of the JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrrbench.names import BASELINE, BASELINE_TITLE, SINGLE
from rrrbench.tables import markdown
from rrrbench.turns import Interval

_RESAMPLES = 2000


def mean_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Ratio of the mean times of two things that took turns, with a 95 % interval by resampling blocks."""
    above, below = np.asarray(numerators), np.asarray(denominators)
    drawn = np.random.default_rng(0).integers(0, len(above), (_RESAMPLES, len(above)))
    ratios = above[drawn].mean(axis=1) / below[drawn].mean(axis=1)
    return Interval(float(above.mean() / below.mean()), *(float(limit) for limit in np.percentile(ratios, [2.5, 97.5])))


def cascade_tables(document: Mapping[str, Any]) -> list[str]:
    """A table for each section that the file has."""
    makers = {
        "speed": _speed,
        "imposed": _speed,
        "accuracy": _accuracy,
        "calibration": _calibration,
        "coverage": _coverage,
    }
    return [make(document[section]) for section, make in makers.items() if document.get(section)]


def _speed(cases: Sequence[Mapping[str, Any]]) -> str:
    names = (BASELINE, "all", SINGLE, "cascade")
    rows = []
    for case in cases:
        times = case.get("times_ms")
        if times is None:
            rows.append([f"`{case['target']}`", case["refused"]])
            continue
        means = [f"{np.mean(times[name]):.2f}" for name in names]
        ratios = [mean_ratio(times[name], times["cascade"]).text(2, "x") for name in (BASELINE, "all", SINGLE)]
        tail = case["p99_ms"]["cascade"] / case["p99_ms"]["all"]
        rows.append([f"`{case['target']}`", str(case["batch"]), *means, *ratios, f"{tail:.2f}"])
    header = ["target", "batch", f"{BASELINE_TITLE} (ms)", "8 members (ms)", "1 member (ms)", "cascade (ms)"]
    return markdown(
        [*header, f"{BASELINE_TITLE} / cascade", "8 members / cascade", "1 member / cascade", "p99 to 8 members'"], rows
    )


def _accuracy(cases: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for case in cases:
        if "refused" in case:
            rows.append([f"`{case['target']}`", str(case["seed"]), case["refused"]])
            continue
        accuracies = [f"{case[effort]['accuracy']:.2%}" for effort in ("full", "auto", "fast")]
        chosen = [str(case["k"]), f"{case['tau']:.3f}", f"{case['share_early']:.1%}"]
        rows.append([f"`{case['target']}`", str(case["seed"]), *chosen, *accuracies, f"{-case['drop_points']:+.2f}"])
    header = ["target", "seed", "k", "tau", "decided early", "full", "auto", "fast", "auto less full (points)"]
    return markdown(header, rows)


def _calibration(cases: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for case in cases:
        for effort in ("fast", "auto", "full"):
            if effort in case:
                row = case[effort]
                before, after = row["before"], row["after"]
                errors = [f"{100 * before['ece']:.1f}", f"{100 * after['ece']:.1f}"]
                losses = [f"{before['nll']:.3f}", f"{after['nll']:.3f}"]
                rows.append([f"`{case['target']}`", effort, f"{row['temperature']:.2f}", *errors, *losses])
    header = ["target", "effort", "temperature", "ECE before (points)", "after", "NLL before", "after"]
    return markdown(header, rows)


def _coverage(cases: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for case in cases:
        for nominal in ("0.90", "0.95"):
            row = case[nominal]
            found = f"{row['coverage']:.3f} (standard error {row['standard_error']:.4f})"
            rows.append([f"`{case['target']}`", nominal, found, f"{row['mean_size']:.2f}"])
    return markdown(["target", "asked for", "held the right label", "labels in a set"], rows)
