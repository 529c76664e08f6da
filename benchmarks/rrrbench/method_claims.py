"""The sentences of the paper's abstract (arXiv 2310.01157), each beside the number of a sweep that judges it."""

from collections.abc import Iterator, Mapping
from typing import Any

_LEAST_TIMES = 6.0
_SAME = 0.15  # "keeping": parameters and MACs within so much of one branch's

Summary = Mapping[str, Any]


def judgements(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """Sentence, what was measured, and the verdict; only sentences whose methods the sweep has.

    Differences of accuracy are judged by their interval over data sets: one that holds 0 shows nothing, and neither
    does it show that there is none.
    """
    methods = {row["method"]: row for row in summary["methods"]}
    if methods.keys() >= {"full", "reduced"}:
        times = {name: methods["full"][name] / methods["reduced"][name] for name in ("parameters", "macs")}
        met = min(times.values()) > _LEAST_TIMES
        yield (
            "reduced to 5 blocks, parameters and FLOPs down more than 6 times",
            f"{times['parameters']:.1f} times the parameters, {times['macs']:.1f} times the MACs",
            "holds" if met else "does not hold of this backbone",
        )
        yield _accuracy(summary, "... without significant performance degradation", "reduced", "full")
    if methods.keys() >= {"reduced", "ensemble"}:
        share = {name: methods["ensemble"][name] / methods["reduced"][name] for name in ("parameters", "macs")}
        kept = max(abs(value - 1) for value in share.values()) <= _SAME
        yield (
            "split into branches, keeping parameters and FLOPs",
            f"{share['parameters']:.2f} times the parameters, {share['macs']:.2f} times the MACs of one branch",
            f"holds within {100 * _SAME:.0f} %" if kept else "does not hold",
        )
        yield _accuracy(summary, "... and the ensemble improves performance", "ensemble", "reduced")
    if methods.keys() >= {"full", "ensemble"}:
        sentence = "matches or beats classical backbone fine-tuning"
        yield _accuracy(summary, sentence, "ensemble", "full")


def _accuracy(summary: Summary, sentence: str, of: str, less: str) -> tuple[str, str, str]:
    """A sentence about a difference of accuracy, judged by its interval over data sets."""
    found = next(row for row in summary["differences"] if (row["of"], row["less"]) == (of, less))["over_datasets"]
    measured = f"{of} - {less}: {100 * found['mean']:+.1f} points"
    if found["low"] is None:
        return sentence, f"{measured} on one data set", "one data set judges nothing"
    measured += f" ({100 * found['low']:+.1f} to {100 * found['high']:+.1f}, {found['n']} data sets)"
    if found["low"] > 0:
        return sentence, measured, f"{of} is more accurate"
    if found["high"] < 0:
        return sentence, measured, f"{of} is less accurate"
    return sentence, measured, "no difference shown, in either direction"
