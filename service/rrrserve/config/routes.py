"""Named routes: which share of the requests each of several models answers, and which model a request gets.

By key the choice is weighted rendezvous hashing: each model draws a score from the key and its own name, and the lowest
score divided by the weight wins. A key keeps its model for as long as no weight is changed, and where one is raised
keys move to that model alone, whatever the others weigh.

Source: Schindelhauer and Schomaker, "Weighted Distributed Hash Tables" (SPAA 2005), the logarithmic method.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rrrnet.errors import UsageError
from rrrnet.names import check_model_name

DEFAULT = "default"  # the route that /v1/predict asks
_SHAPE = "expected NAME=MODEL:WEIGHT,MODEL:WEIGHT, as in default=resnet152:90,ensemble:10"
_SCORE_BITS = 64
_MOST = 1e6


@dataclass(frozen=True)
class Route:
    """A name that several models answer to.

    Attributes:
        name: what requests ask for.
        weights: of each model, in the order that they were given; finite, none below 0, one at least above.
    """

    name: str
    weights: Mapping[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """The share of each model, of 1 together."""
        total = sum(self.weights.values())
        return {model: weight / total for model, weight in self.weights.items()}

    def by_key(self, key: bytes) -> str:
        """The model that answers requests of a key, today and tomorrow."""
        return min(self.weights, key=lambda model: _score(key, model, self.weights[model]))

    def by_place(self, place: float) -> str:
        """The model at a place from 0 to below 1, where each takes as much room as its share."""
        shares = self.shares
        for model, share in shares.items():
            if place < share:
                return model
            place -= share
        return max(shares, key=shares.__getitem__)  # rounding left a place beyond the last

    def with_share(self, model: str, share: float) -> "Route":
        """The same with that share for one model; the others divide the rest as they do now.

        Raises:
            ValueError: the others have no weight to divide the rest by.
        """
        others = sum(weight for name, weight in self.weights.items() if name != model)
        if share < 1 and not others:
            raise ValueError(f"{model} has all of {self.name}: nobody is left to take the rest")
        weights = {
            name: 100 * share if name == model else 100 * (1 - share) * weight / (others or 1.0)
            for name, weight in self.weights.items()
        }
        return Route(self.name, {name: round(weight, 6) for name, weight in weights.items()})

    def told(self) -> str:
        """The shares for people: `resnet152 90 %, ensemble 10 %`."""
        return ", ".join(f"{model} {100 * share:.4g} %" for model, share in self.shares.items())

    def text(self) -> str:
        """As `rrr serve --route` takes it."""
        return f"{self.name}={','.join(f'{model}:{weight:g}' for model, weight in self.weights.items())}"


def _score(key: bytes, model: str, weight: float) -> float:
    """Exponentially distributed over keys, with the weight as its rate."""
    if not weight:
        return math.inf
    digest = hashlib.blake2b(model.encode() + b"\0" + key, digest_size=_SCORE_BITS // 8).digest()
    return -math.log((int.from_bytes(digest, "big") + 0.5) / 2**_SCORE_BITS) / weight


def routes_of(texts: Iterable[str]) -> tuple[Route, ...]:
    """What `--route` says, once for each route.

    Raises:
        UsageError: a text is no route, or two have one name.
    """
    routes: dict[str, Route] = {}
    for text in texts:
        route = _route_of(text)
        if route.name in routes:
            raise UsageError(f"--route {route.name} is given twice: give all of its models in one")
        routes[route.name] = route
    return tuple(routes.values())


def _route_of(text: str) -> Route:
    name, equals, models = text.partition("=")
    if not (equals and models):
        raise UsageError(f"--route is {text!r}: {_SHAPE}")
    check_model_name(name, remedy=lambda allowed: f"call the route {allowed}, as in --route {allowed}=...")
    weights: dict[str, float] = {}
    for part in models.split(","):
        model, _, number = part.rpartition(":")
        weight = _weight(number)
        if not model or weight is None:
            raise UsageError(f"--route {name} has {part!r}: {_SHAPE}; a weight is a number from 0 to {_MOST:g}")
        if model in weights:
            raise UsageError(f"--route {name} names {model} twice: give each model once")
        weights[model] = weight
    if not any(weights.values()):
        raise UsageError(f"--route {name} gives no model any weight: one at least needs more than 0")
    return Route(name, weights)


def _weight(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= _MOST else None
