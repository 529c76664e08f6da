"""A model's share of a route, moved in steps for as long as claims about the route's live traffic pass.

A step is held for a while; then the claims are judged by what happened in it. All pass: the next step. One fails: the
share goes to nothing. Else it is held on, twice as long each time, until it is decided or was looked at four times.

Many looks would make false verdicts likely. So alpha is divided, by the number of steps that are judged and, among the
looks at a step, by 6 / (pi k)^2 for the k-th, which adds up to 1: all intervals of a promotion together cover the truth
with the confidence of the claims file.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrrnet.errors import UsageError
from rrrserve.claims.claims_file import nearest
from rrrserve.claims.kinds import Answered, AnyClaim, Timed
from rrrserve.config.routes import Route
from rrrserve.judge.verdicts import FAIL, PASS

LOOKS = 4
PROMOTED, MOVED_BACK, UNDECIDED = "promoted", "moved_back", "undecided"
_STOPPED = "stopped"  # until it has another end


@dataclass(frozen=True)
class Look:
    """The claims judged once.

    Attributes:
        percent: of the route that the model had meanwhile.
        number: of the look at this step, from 1.
        held_seconds: for how long it had had it, at least.
        document: of the verdicts.
    """

    percent: float
    number: int
    held_seconds: float
    document: dict[str, Any]

    @property
    def found(self) -> set[str]:
        """The verdicts, each once."""
        return {verdict["verdict"] for verdict in self.document["verdicts"]}

    def to_json(self) -> dict[str, Any]:
        """For the document of a promotion."""
        return {
            "percent": self.percent,
            "look": self.number,
            "held_seconds": self.held_seconds,
            "confidence": self.document["confidence"],
            "verdicts": self.document["verdicts"],
        }


@dataclass
class Promotion:
    """What has become of it so far.

    Attributes:
        percent: of the route that the model has now.
        outcome: `PROMOTED`, `MOVED_BACK`, `UNDECIDED`, or `stopped`.
        looks: in their order.
    """

    percent: float
    outcome: str = _STOPPED
    looks: list[Look] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As docs/internals/formats.md describes it."""
        looks = [look.to_json() for look in self.looks]
        return {"outcome": self.outcome, "percent": self.percent, "looks": looks}


def places(share: float, steps: Sequence[float]) -> list[float]:
    """The percentages at which a model is held: what it has, if it has any, and the steps above.

    Args:
        share: that it has, from 0 to 1.
        steps: percentages.
    """
    percent = round(100 * share, 6)
    return sorted({*([percent] if percent else []), *(step for step in steps if step > percent)})


async def promote(
    promotion: Promotion,
    route: Route,
    model: str,
    steps: Sequence[float],
    every_seconds: float,
    *,
    change: Callable[[Route], Awaitable[None]],
    judge: Callable[[float, float, float], Awaitable[dict[str, Any]]],
    tell: Callable[[Look | Route], None],
) -> None:
    """Move the share of `model` up to the last step, or to nothing.

    Args:
        promotion: filled in; who is interrupted reads there how far it came.
        route: as it is.
        model: one of its models.
        steps: of `places`.
        every_seconds: how long each is held before the first look.
        change: has the workers go by another route.
        judge: waits so many seconds more, so that the share was held for so many, and gives the document of verdicts
            on what happened meanwhile, by a share of alpha.
        tell: told each look, and each change.
    """
    *judged, last = steps

    async def move(percent: float) -> None:
        moved = route.with_share(model, percent / 100)
        await change(moved)
        promotion.percent = percent
        tell(moved)

    for percent in judged:
        if percent != promotion.percent:
            await move(percent)
        for number in range(1, LOOKS + 1):
            waited, held = every_seconds * 2 ** (number - 1), every_seconds * (2**number - 1)
            document = await judge(waited, held, look_share(number) / len(judged))
            look = Look(percent, number, held, document)
            promotion.looks.append(look)
            tell(look)
            if FAIL in look.found:
                await move(0.0)
                promotion.outcome = MOVED_BACK
                return
            if look.found == {PASS}:
                break
        else:
            promotion.outcome = UNDECIDED
            return
    if last != promotion.percent:
        await move(last)
    promotion.outcome = PROMOTED


def look_share(number: int) -> float:
    """The share of a step's alpha that belongs to a look, counted from 1."""
    return 6 / (math.pi * number) ** 2


def check_claims(claims: Sequence[AnyClaim], route: Route, model: str) -> None:
    """Check that the traffic of a route can decide the claims, and that they are about the model.

    Raises:
        UsageError: not so.
    """
    for claim in claims:
        if isinstance(claim, Answered):
            raise UsageError(
                f"claim {claim.name!r} is judged by answers to labelled images, not by traffic: leave it to rrr verify "
                "--data DIR, before"
            )
        if isinstance(claim, Timed) and (others := [name for name in claim.models if name not in route.weights]):
            raise UsageError(
                f"claim {claim.name!r} is about {others[0]}, and {route.name} gives traffic to "
                f"{', '.join(route.weights)} alone.{nearest(others[0], route.weights)}"
            )
    if not any(model in claim.models for claim in claims):
        raise UsageError(f"no claim is about {model}: nothing would tell whether it may have more of {route.name}")
