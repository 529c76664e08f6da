"""What `rrr build` tells of a cascade and of what probabilities are worth, or why there is neither."""

from collections.abc import Mapping
from typing import Any

from rrrbuild.cascade_runner import EFFORTS
from rrrbuild.confidence.record import Confidence
from rrrbuild.manifest import Manifest


def trust_lines(manifest: Manifest) -> list[tuple[str, str]]:
    """Pairs of a name and what is told; a manifest that says neither what there is nor why not has no line."""
    lines = []
    if manifest.cascade is not None:
        lines += _cascade(manifest.cascade)
    elif manifest.cascade_reason:
        lines.append(("cascade", f"none: {manifest.cascade_reason}"))
    if manifest.confidence is not None:
        lines += _confidence(manifest.confidence)
    elif manifest.confidence_reason not in ("", manifest.cascade_reason):
        lines.append(("calibration", f"none: {manifest.confidence_reason}"))
    elif manifest.confidence_reason:
        lines.append(("calibration", "none, for the same reason: temperature 1 and no sets"))
    return lines


def _cascade(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    members, costs = len(found["order"]), found["cost_ms"]
    scores = {name: f"{found[name]['accuracy']:.1%}, NLL {found[name]['nll']:.3f}" for name in ("with", "without")}
    lost = f"{found['drop_points']:.2f} points by estimate, {found['drop_bound_points']:.2f} at most (95 %)"
    settled = f"{found['share_early']:.1%} of {found['images']} images ({found['source']})"
    lines = [
        ("cascade", f"{found['k']} of {members} members first, tau {found['tau']:.3f}: they settle {settled}"),
        ("accuracy it loses", lost),
        ("with, without it", f"{scores['with']}; {scores['without']} (on images that chose nothing)"),
    ]
    for size, expected in costs["expected"].items():
        first, rest, whole = (costs[part][size] for part in ("first", "rest", "all"))
        parts = f"first {first:.2f} ms, rest {rest:.2f} ms, all members {whole:.2f} ms"
        lines.append((f"batch {size}, expected", f"{expected:.2f} ms ({parts})"))
    return lines


def _confidence(found: Confidence) -> list[tuple[str, str]]:
    efforts = [effort for effort in reversed(EFFORTS) if effort in found.temperature]
    several = len(efforts) > 1

    def told(texts: Mapping[str, str]) -> str:
        return ", ".join(f"{effort} {text}" if several else text for effort, text in texts.items())

    temperatures = told({effort: f"{found.temperature[effort]:.2f}" for effort in efforts})
    lines = [
        ("temperature", f"{temperatures}; of a member {found.member_temperature:.2f} ({found.images} {found.source})")
    ]
    judged = [effort for effort in efforts if effort in found.before and effort in found.after]
    if judged:
        gaps = {effort: [100 * scores[effort]["ece"] for scores in (found.before, found.after)] for effort in judged}
        lines.append(
            ("ECE", told({effort: f"{one:.1f} -> {two:.1f}" for effort, (one, two) in gaps.items()}) + " points")
        )
    for nominal in found.coverage.get(efforts[0], {}):
        rows = {effort: found.coverage[effort][nominal] for effort in efforts}
        sets = {effort: f"{row['coverage']:.1%} in {row['mean_size']:.2f} labels" for effort, row in rows.items()}
        lines.append((f"sets for {float(nominal):.0%}", told(sets)))
    return lines
