"""What our way to an engine costs: tables and bars of our service beside peers that run the very same engine."""

from collections.abc import Mapping
from typing import Any

from rrrbench.service_tables import OURS, levels
from rrrbench.tables import bar_row, markdown, median
from rrrbench.turns import Interval, median_interval, ratio

Case = Mapping[str, Any]
FASTAPI, LITSERVE, TRITON = "FastAPI + the same engine", "LitServe + the same engine", "Triton alone"
_MOST_MS, _LEAST_SHARE = 1.0, 0.97


def rounds(row: Case, level: str, what: str) -> list[float]:
    """A figure of a row, by round."""
    return [found[what] for found in row[level]["rounds"]]


def difference_ms(ours: Case, theirs: Case, level: str) -> Interval:
    """Our p50 less that of a peer, by round."""
    pairs = zip(rounds(ours, level, "p50_ms"), rounds(theirs, level, "p50_ms"), strict=True)
    return median_interval([our - their for our, their in pairs])


def throughput_share(ours: Case, theirs: Case, level: str) -> Interval:
    """Our answers a second over those of a peer, by round."""
    return ratio(rounds(ours, level, "throughput"), rounds(theirs, level, "throughput"))


def same_engine_table(document: Case) -> str:
    """Each contender by size and requests under way, and what sets ours apart from it."""
    lines = []
    for case in document["same_engine"]:
        ours = next(iter(case["rows"].values()))
        for level in levels(ours):
            for name, row in case["rows"].items():
                found = row[level]
                apart = ["", ""]
                if row is not ours:
                    apart = [difference_ms(ours, row, level).text(2), throughput_share(ours, row, level).text(2)]
                figures = [f"{found['p50_ms']:.2f}", f"{found['p99_ms']:.2f}"]
                figures.append(f"{median(rounds(row, level, 'throughput')):.1f}")
                where = [f"`{case['target']}`", str(case["pixels"]), level.removeprefix("concurrency-")]
                lines.append([*where, name.partition(",")[0], *figures, *apart])
    header = ["target", "px", "requests", "", "p50 (ms)", "p99", "answers/s"]
    return markdown([*header, "our p50 less theirs (ms)", "our answers/s over theirs"], lines)


def same_engine_bars(document: Case) -> str:
    """Whether our service comes near to FastAPI with the engine in its own process."""
    rows = []
    for case in document.get("same_engine", []):
        ours, theirs = next(iter(case["rows"].values())), case["rows"][FASTAPI]
        where = f"{case['target']}, {case['pixels']} px"
        first, *_ = all_levels = levels(ours)
        title = f"{OURS} p50 less that of {FASTAPI} (ms), {where}"
        rows.append(bar_row(title, difference_ms(ours, theirs, first), _MOST_MS, at_least=False))
        for level in all_levels:
            title = f"answers/s, {OURS} / {FASTAPI}, {where}, {level.removeprefix('concurrency-')} requests"
            rows.append(bar_row(title, throughput_share(ours, theirs, level), _LEAST_SHARE, at_least=True))
    return markdown(["bar", "limit", "measured", ""], rows)
