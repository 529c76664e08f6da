"""When some members suffice: the threshold that loses no accuracy, what it saves, and what an image then costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild.cascade_runner import AUTO, answered_by
from rrrbuild.confidence.order import greedy_order
from rrrbuild.confidence.temperature import fit_temperature, tempered
from rrrnet.data.dataset import even_places
from rrrnet.proportions import difference

FloatArray = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

MIN_IMAGES = 100
BOUND_POINTS = 1.0
_ALPHA = 0.1  # 95 % on the one side that counts
_CURVE_POINTS = 40


@dataclass(frozen=True)
class Step:
    """One threshold.

    Attributes:
        tau: see `cascade_runner.settled`.
        share_early: share of images that the first members settle.
        drop_points: estimate of the accuracy of all members less that of the cascade, in percentage points.
        drop_counted_points: the same as counted on the images.
        drop_bound_points: the upper bound of what was counted, one-sided, at 95 %.
    """

    tau: float
    share_early: float
    drop_points: float
    drop_counted_points: float
    drop_bound_points: float

    def allowed(self, max_drop_points: float, bound_points: float) -> bool:
        """Whether it loses no more than is aimed at, by the estimate, and than the bound may be."""
        return self.drop_points <= aimed_at(max_drop_points) + 1e-9 and self.drop_bound_points <= bound_points


def aimed_at(max_drop_points: float) -> float:
    """The largest estimate that is taken: half of what may be lost.

    Of many thresholds the one that is chosen looks better than it is, by about as much (measured on letters over 40
    random halves).
    """
    return max_drop_points / 2


def drop_bound_points(losses: int, wins: int, images: int) -> float:
    """Upper bound of the accuracy lost, one-sided at 95 %, in percentage points.

    A share less another of the same images, from Wilson's limits of both (Newcombe, Statistics in Medicine 17, 1998):
    with no label changed, 268 images are needed to tell that less than 1 point is lost.

    Args:
        losses: images whose right label became a wrong one.
        wins: images whose wrong label became the right one.
        images: of all.
    """
    return 100 * difference((losses, images), (wins, images), _ALPHA).high


def steps(probabilities: FloatArray, labels: Labels, order: Sequence[int], k: int) -> list[Step]:
    """Every threshold at which one more image is settled, from none settled (`tau` above 1) down.

    Few labels change, so what is counted is mostly luck: choosing by it alone lost twice as much on other images. So
    the estimate is the larger of what is counted and of what all members expect: by their calibrated mean, how much
    less probable the label of the first members is than their own.

    Args:
        probabilities: of all members, shape (N, M, C).
        labels: shape (N,).
        order: in which the members are asked.
        k: how many are asked first.
    """
    first = probabilities[:, list(order[:k])]
    early, everyone = first.mean(axis=1, dtype=np.float64), probabilities.mean(axis=1, dtype=np.float64)
    votes = first.argmax(axis=2)
    places = np.flatnonzero((votes == votes[:, :1]).all(axis=1))
    confidence = early[places, votes[places, 0]]
    places = places[np.argsort(-confidence, kind="stable")]
    confidence = np.sort(confidence)[::-1]
    vote, label = votes[places, 0], everyone[places].argmax(axis=1)
    right, right_early = label == labels[places], vote == labels[places]
    losses, wins = np.cumsum(right & ~right_early), np.cumsum(~right & right_early)
    believed = tempered(everyone, fit_temperature(everyone, labels))
    expected = np.cumsum(believed[places, label] - believed[places, vote])
    images = len(labels)
    found = [Step(1.01, 0.0, 0.0, 0.0, drop_bound_points(0, 0, images))]
    for index in range(len(places)):
        last = index + 1 == len(places)
        if not last and confidence[index] == confidence[index + 1]:
            continue
        # Half-way to the next, so that rounding in another target does not move the image to the other side.
        tau = confidence[index] if last else (confidence[index] + confidence[index + 1]) / 2
        lost, won = int(losses[index]), int(wins[index])
        counted = 100 * (lost - won) / images
        estimate = max(counted, 100 * float(expected[index]) / images)
        bound = drop_bound_points(lost, won, images)
        found.append(Step(float(tau), (index + 1) / images, estimate, counted, bound))
    return found


def best_step(found: list[Step], max_drop_points: float, bound_points: float = BOUND_POINTS) -> Step:
    """The lowest threshold that is allowed, and above which every other is allowed too.

    Lower ones that happen to be allowed again owe that to luck with few images.
    """
    best = found[0]
    for step in found[1:]:
        if not step.allowed(max_drop_points, bound_points):
            break
        best = step
    return best


def curve(found: list[Step]) -> list[Step]:
    """Some of the steps, evenly spread, the ends among them."""
    return [found[place] for place in even_places(len(found), _CURVE_POINTS)]


def cross_fitted(
    probabilities: FloatArray, labels: Labels, k: int, max_drop_points: float
) -> npt.NDArray[np.floating[Any]]:
    """What the cascade answers to each half of the images, its order and threshold chosen on the other half.

    Images are listed by class, so every second one is a half of each class.

    Args:
        probabilities: of all members, shape (N, M, C).
        labels: shape (N,).
        k: how many members are asked first.
        max_drop_points: see `best_step`.

    Returns:
        Shape (N, M, C), NaN in the rows of members that were not asked.
    """
    answered = probabilities.copy()
    for half in range(2):
        here, other = slice(half, None, 2), slice(1 - half, None, 2)
        order = greedy_order(probabilities[other], labels[other])
        # Half the images may be too few to show the bound; the estimate must do.
        chosen = best_step(steps(probabilities[other], labels[other], order, k), max_drop_points, math.inf)
        cascade = {"order": order, "k": k, "tau": chosen.tau}
        answered[here] = answered_by(probabilities[here], cascade, AUTO)
    return answered


def expected_cost_ms(
    first_ms: Mapping[int, float], rest_ms: Mapping[int, float], share_early: float
) -> dict[int, float]:
    """Mean cost of a batch by its size: the first members on all, the rest on those that are not settled.

    Images are taken to be settled independently of each other; costs between the measured sizes are interpolated.

    Args:
        first_ms: by batch size.
        rest_ms: by number of images; more sizes than of the batches may be measured.
        share_early: share of images that the first members settle.
    """
    sizes, costs = zip(*sorted(rest_ms.items()), strict=True)
    result = {}
    for batch, cost in first_ms.items():
        counts = np.arange(1, batch + 1)
        chances = [
            math.comb(batch, count) * (1 - share_early) ** count * share_early ** (batch - count) for count in counts
        ]
        result[batch] = float(cost + np.dot(chances, np.interp(counts, sizes, costs)))
    return result
