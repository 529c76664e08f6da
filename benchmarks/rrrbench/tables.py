"""Result files as Markdown tables, and the bars that a release is held to, met or not. Pure functions of the JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rrrbench.names import BASELINE, BASELINE_TITLE, ENSEMBLE, SINGLE
from rrrbench.turns import Interval, ratio, share_of_peak
from rrrnet.network.architecture import BACKBONES, backbone_title

Case = Mapping[str, Any]


def median(times: Sequence[float]) -> float:
    """The median of a case's rounds."""
    return float(np.median(times))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def case_ratio(case: Case, above: str, below: str) -> Interval:
    """Ratio of two networks' latencies in one case."""
    return ratio(case["times_ms"][above], case["times_ms"][below])


def shares(case: Case) -> dict[str, Interval]:
    """Share of the peak of each network in a case of the section `peak`."""
    times = case["times_ms"]
    peaks = peak_rates(case)
    return {
        name: share_of_peak(case["gflop"][name], times[name], peaks) for name in times if not name.startswith("matmul-")
    }


def peak_rates(case: Case) -> list[float]:
    """10^9 operations a second of the fastest library's matrix product, by round."""
    times = {name: values for name, values in case["times_ms"].items() if name.startswith("matmul-")}
    best = min(times, key=lambda name: median(times[name]))
    return [case["gflop"][best] / (time_ms / 1000) for time_ms in times[best]]


def ratio_table(document: Case) -> str:
    """ResNet152 over 8 members, and 8 members over 1."""
    rows = []
    for case in document["ratios"]:
        latencies = [f"{median(case['times_ms'][name]):.2f}" for name in (BASELINE, ENSEMBLE, SINGLE)]
        over_ensemble = case_ratio(case, BASELINE, ENSEMBLE).text(2, "x")
        over_single = case_ratio(case, ENSEMBLE, SINGLE).text(2, "x")
        rows.append(
            [f"`{case['target']}`", str(case["pixels"]), str(case["batch"]), *latencies, over_ensemble, over_single]
        )
    names = ["target", "px", "batch", f"{BASELINE_TITLE} (ms)", "8 members (ms)", "1 member (ms)"]
    return markdown([*names, f"{BASELINE_TITLE} / 8 members", "8 members / 1"], rows)


def backbones_table(document: Case) -> str:
    """8 members, each backbone whole, and its latency over theirs."""
    rows = []
    for case in document["backbones"]:
        latencies = [f"{median(case['times_ms'][name]):.2f}" for name in (ENSEMBLE, *BACKBONES)]
        ratios = [case_ratio(case, name, ENSEMBLE).text(2, "x") for name in BACKBONES]
        rows.append([f"`{case['target']}`", str(case["pixels"]), str(case["batch"]), *latencies, *ratios])
    titles = [backbone_title(name) for name in BACKBONES]
    header = ["target", "px", "batch", *(f"{title} (ms)" for title in ("8 members", *titles))]
    return markdown([*header, *(f"{title} / 8 members" for title in titles)], rows)


def targets_table(document: Case) -> str:
    """8 members in each target, and the first target's latency over it."""
    rows = []
    for case in document["targets"]:
        times = case["times_ms"]
        for name in times:
            found = case_ratio(case, next(iter(times)), name).text(2, "x")
            rows.append([str(case["pixels"]), str(case["batch"]), f"`{name}`", f"{median(times[name]):.2f}", found])
    return markdown(["px", "batch", "8 members in", "ms", "speed over the first"], rows)


def members_table(document: Case) -> str:
    """Latency by number of members, and over that of one."""
    names = list(document["members"][0]["times_ms"])
    rows = []
    for case in document["members"]:
        cells = [
            f"{median(case['times_ms'][name]):.2f} ({case_ratio(case, name, names[0]).value:.2f}x)" for name in names
        ]
        rows.append([f"`{case['target']}`", str(case["pixels"]), str(case["batch"]), *cells])
    counts = [f"{name.removeprefix('members-')} (ms)" for name in names]
    return markdown(["target", "px", "batch", *counts], rows)


def batch_table(document: Case) -> str:
    """Milliseconds and images a second by batch size."""
    rows = []
    for case in document["batch"]:
        cells = []
        for name in (ENSEMBLE, BASELINE):
            if name in case["times_ms"]:
                latency = median(case["times_ms"][name])
                cells += [f"{latency:.1f}", f"{1000 * case['batch'] / latency:.0f}"]
        ratios = [case_ratio(case, BASELINE, ENSEMBLE).text(2, "x")] if BASELINE in case["times_ms"] else [""] * 3
        rows.append([f"`{case['target']}`", str(case["batch"]), *cells, *ratios])
    header = ["target", "batch", "8 members (ms)", "images/s", f"{BASELINE_TITLE} (ms)", "images/s", "ratio"]
    return markdown(header, rows)


def peak_table(document: Case) -> str:
    """The machine's limit and each network's share of it."""
    rows = []
    for case in document["peak"]:
        found = shares(case)
        percents = [
            f"{100 * item.value:.0f} % ({100 * item.low:.0f} to {100 * item.high:.0f})"
            for item in (found[name] for name in (ENSEMBLE, BASELINE))
        ]
        rates = [
            case["gflop"][name] / (median(case["times_ms"][name]) / 1000)
            for name in ("matmul-openvino", "matmul-torch")
        ]
        rows.append([f"`{case['target']}`", case["precision"], *(f"{rate:.0f}" for rate in rates), *percents])
    header = ["target", "precision", "OpenVINO MatMul (10^9/s)", "PyTorch matmul (10^9/s)"]
    return markdown([*header, "8 members", BASELINE_TITLE], rows)


def eager_table(document: Case) -> str:
    """ResNet152 in PyTorch over the ensemble in each target."""
    (case,) = document["eager"]
    rows = []
    for name, times in case["times_ms"].items():
        if name.startswith("torch-eager"):
            rows.append([f"{BASELINE_TITLE}, {name}", f"{median(times):.2f}", "", ""])
            continue
        ratios = [case_ratio(case, above, name).text(1, "x") for above in ("torch-eager", "torch-eager-channels-last")]
        rows.append([f"8 members, `{name}`", f"{median(times):.2f}", *ratios])
    return markdown(["", "batch 1 (ms)", "over eager", "over eager, channels_last"], rows)


def layers_table(document: Case) -> str:
    """A column for each number of members: milliseconds of each kind of layers, with 10^9 operations a second."""
    cases = document["layers"]
    networks = list(dict.fromkeys(name for case in cases for name in case["rows"]))
    rows = []
    for case in cases:
        for group in next(iter(case["rows"].values()), {"ms": {}})["ms"]:
            cells = [_layer_cell(case["rows"].get(name), group, case["batch"]) for name in networks]
            rows.append([f"`{case['target']}`", str(case["pixels"]), str(case["batch"]), group, *cells])
    return markdown(["target", "px", "batch", "layers", *networks], rows)


def profile_table(document: Case) -> str:
    """Time of each stage in ResNet152 and in the ensemble: a row for each network."""
    rows = []
    for case in document["profile"]:
        for name, row in case["rows"].items():
            cells = [_layer_cell(row, group, case["batch"]) for group in row["ms"]]
            rows.append([f"`{case['target']}`", str(case["pixels"]), str(case["batch"]), name, *cells])
    groups = next(row["ms"] for case in document["profile"] for row in case["rows"].values())
    return markdown(["target", "px", "batch", "network", *groups], rows)


def _layer_cell(row: Case | None, group: str, batch: int) -> str:
    """Time and rate of one group; empty where the engine's plan has no graph of the whole."""
    if row is None:
        return ""
    elapsed, macs = row["ms"][group], row["macs"].get(group, 0)
    return f"{elapsed:.2f} ({2e-6 * macs * batch / elapsed:.0f})" if macs and elapsed else f"{elapsed:.2f}"


def engine_tables(document: Case) -> dict[str, str]:
    """All tables for which the file has figures, by title."""
    tables = {
        "ratios": (f"{BASELINE_TITLE}, 8 members, 1 member", ratio_table),
        "backbones": ("8 members beside each backbone", backbones_table),
        "targets": ("8 members by target", targets_table),
        "members": ("Members", members_table),
        "batch": ("Batch", batch_table),
        "peak": ("Share of the peak", peak_table),
        "eager": ("Against PyTorch eager", eager_table),
        "layers": ("Layers by members: ms (10^9 operations a second)", layers_table),
        "profile": (f"{BASELINE_TITLE} and 8 members by stages: ms (10^9 operations a second)", profile_table),
    }
    return {title: table(document) for section, (title, table) in tables.items() if document.get(section)}


def bars(document: Case) -> str:
    """What is aimed at and what was measured: one line each."""
    rows = []
    for case in document.get("ratios", []):
        where = f"{case['target']}, {case['pixels']} px, batch {case['batch']}"
        over_ensemble, over_single = case_ratio(case, BASELINE, ENSEMBLE), case_ratio(case, ENSEMBLE, SINGLE)
        rows.append(bar_row(f"{BASELINE_TITLE} / 8 members, {where}", over_ensemble, 6.0, at_least=True))
        rows.append(bar_row(f"8 members / 1 member, {where}", over_single, 1.2, at_least=False))
    for case in document.get("targets", []):
        for family in ("openvino", "onnxruntime"):
            names = f"{family}-fp32", f"{family}-int8"
            if case["pixels"] == 224 and set(names) <= set(case["times_ms"]):
                title = f"{' / '.join(names)}, 8 members, 224 px, batch {case['batch']}"
                rows.append(bar_row(title, case_ratio(case, *names), 1.6, at_least=True))
    limits = {"bf16": 0.90, "int8": 0.75}
    for case in document.get("peak", []):
        if case["precision"] in limits:
            title = f"share of the peak, 8 members, {case['target']}"
            rows.append(bar_row(title, shares(case)[ENSEMBLE], limits[case["precision"]], at_least=True))
    for case in document.get("eager", []):
        targets = [name for name in case["times_ms"] if not name.startswith("torch-eager")]
        best = min(targets, key=lambda name: median(case["times_ms"][name]))
        found = case_ratio(case, "torch-eager", best)
        rows.append(bar_row(f"PyTorch eager {BASELINE_TITLE} / 8 members, {best}", found, 35.0, at_least=True))
    return markdown(["bar", "limit", "measured", ""], rows)


def bar_row(title: str, found: Interval, limit: float, *, at_least: bool) -> list[str]:
    """One bar: what, its limit, what was measured, and whether the measured value meets it."""
    met = found.value >= limit if at_least else found.value <= limit
    sign = "at least" if at_least else "at most"
    return [title, f"{sign} {limit:g}", found.text(2), "met" if met else "falls short"]
