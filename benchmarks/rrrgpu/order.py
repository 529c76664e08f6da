"""What is timed, and in which order: what a run must have comes first, since its time may end before its cases do."""

import argparse
from collections.abc import Iterable, Iterator

from rrrgpu import engines
from rrrgpu.plans import PLANS

BASELINE = "resnet152"
Variants = list[tuple[str, str]]  # networks with plans
_NCHW = "sequential-nchw"


def variants_of(names: Iterable[str], plans: Iterable[str]) -> Variants:
    """Each network with each plan; one member cannot be merged or split, so it has the sequential ones only."""
    plans = tuple(plans)
    alone = [plan for plan in plans if plan.startswith("sequential")]
    return [(name, plan) for name in names for plan in (alone if name in ("1", BASELINE) else plans)]


def every_plan(names: Iterable[str]) -> Variants:
    """Each network with each plan of PyTorch."""
    return variants_of(names, (*PLANS, _NCHW))


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Variants, int, int]]:
    """Engine, variants, pixels and batch.

    PyTorch's plans for the ResNet152, 1 member and 8, then for the other members beside 1; the engines of the former;
    last NCHW, beside what it is compared with.
    """
    first = [BASELINE, *(name for name in options.members if name in ("1", "8"))]
    others = [name for name in options.members if name not in first]
    waves = [("pytorch", variants_of(first, PLANS))]
    if others:
        waves.append(("pytorch", variants_of(["1", *others], PLANS)))
    waves += [(family, variants_of(first, engines.PLANS)) for family in options.engines]
    waves.append(("pytorch", variants_of([*first, *others], ("sequential", _NCHW))))
    for engine, variants in waves:
        for batch in options.batch:
            for pixels in options.pixels:
                yield engine, variants, pixels, batch
