"""What is timed, and in which order: what a run must have comes first, since its time may end before its cases do."""

import argparse
from collections.abc import Iterable, Iterator, Sequence

from rrrgpu import builder
from rrrgpu.cascade import CASCADE
from rrrgpu.plans import PLANS

BASELINE = "resnet152"
Variants = list[tuple[str, str]]  # networks with plans
_NCHW = "sequential-nchw"
_MOST = 8  # images of a batch of the cascade, which has a CUDA graph for each number of them


def variants_of(names: Iterable[str], plans: Iterable[str]) -> Variants:
    """Each network with each plan; one member cannot be merged or split, so it has the sequential ones only."""
    plans = tuple(plans)
    alone = [plan for plan in plans if plan.startswith("sequential")]
    return [(name, plan) for name in names for plan in (alone if name in ("1", BASELINE) else plans)]


def every_plan(names: Iterable[str]) -> Variants:
    """Each network with each plan of PyTorch."""
    return variants_of(names, (*PLANS, _NCHW))


def cascade_variants(names: Sequence[str]) -> Variants:
    """A cascade of 8 members, or of the most there are, and what it is compared with; none without several members."""
    members = "8" if "8" in names else max(names, key=int)
    if members == "1":
        return []
    return [(BASELINE, "sequential"), (members, "merged"), (members, CASCADE), ("1", "sequential")]


def cascade_batches(batches: Iterable[int]) -> list[int]:
    """The sizes that a cascade is prepared for."""
    return [batch for batch in batches if batch <= _MOST]


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Variants, int, int]]:
    """Engine, variants, pixels and batch.

    PyTorch's plans for the ResNet152, 1 member and 8, then the cascade, then the plans for the other members beside 1;
    the engines of all but the latter; last NCHW, beside what it is compared with.
    """
    sizes = [(batch, pixels) for batch in options.batch for pixels in options.pixels]
    small = [(batch, pixels) for batch in cascade_batches(options.batch) for pixels in options.cascade_pixels]
    first = [BASELINE, *(name for name in options.members if name in ("1", "8"))]
    others = [name for name in options.members if name not in first]
    cascade = cascade_variants(options.members)
    waves = [("pytorch", variants_of(first, PLANS), sizes), ("pytorch", cascade, small)]
    if others:
        waves.append(("pytorch", variants_of(["1", *others], PLANS), sizes))
    for family in options.engines:
        waves += [(family, variants_of(first, builder.PLANS), sizes), (family, cascade, small)]
    waves.append(("pytorch", variants_of([*first, *others], ("sequential", _NCHW)), sizes))
    for engine, variants, chosen in waves:
        for batch, pixels in chosen:
            if variants:
                yield engine, variants, pixels, batch
