"""Membership inference as arithmetic: scores that attackers use, and how often they are right. numpy only.

A score is higher for an image that is more likely a member, one that was trained on. N images, M members of the
ensemble, C classes.

Sources: Sablayrolles et al., arXiv 1908.11229 (a threshold on the loss, MALT, and one for each sample, MAST); Pedersen
et al., LTU Attacker, Algorithms 2022, 15(7), 254 (pairs of a member and a held-out sample, privacy, utility).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rrrnet.proportions import Interval, difference, proportion
from rrrnet.training.metrics import entropy, mutual_information

FloatArray = npt.NDArray[np.floating[Any]]
Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]

LOSS = "loss"
_FLOOR = 1e-12  # a softmax in FP32 underflows to 0, which has no logarithm
_ALPHA = 0.05


def loss_score(mean: FloatArray, labels: Labels) -> Scores:
    """Minus the cross-entropy of the right label: (N, C) probabilities and (N,) to (N,), in nats."""
    return np.asarray(np.log(np.maximum(mean[np.arange(len(labels)), labels].astype(np.float64), _FLOOR)))


def attack_scores(mean: FloatArray, members: FloatArray, labels: Labels) -> dict[str, Scores]:
    """The score of each attack, shape (N,), by its name; `disagreement` only where there are several members.

    Args:
        mean: the ensemble's probabilities, shape (N, C).
        members: those of each member, shape (N, M, C).
        labels: shape (N,), true classes.
    """
    others = mean.astype(np.float64)
    others[np.arange(len(labels)), labels] = 0.0
    loss = loss_score(mean, labels)
    scores = {
        LOSS: loss,
        "margin": loss - np.log(np.maximum(others.max(axis=1), _FLOOR)),
        "confidence": mean.max(axis=1).astype(np.float64),
        "entropy": -entropy(mean),
    }
    return scores | ({"disagreement": -mutual_information(members)} if members.shape[1] > 1 else {})


def own_thresholds(losses: Scores, trained: Mask, held_out: Mask) -> Scores:
    """For each image the loss halfway between those of networks that were trained on it and of networks that were not.

    Args:
        losses: of R reference networks on N images, shape (R, N).
        trained: which of them were trained on which image, shape (R, N).
        held_out: which of them are known not to be.

    Returns:
        Shape (N,); NaN for images that lack networks of one kind.
    """
    known = trained.any(axis=0) & held_out.any(axis=0)
    inside, outside = ((losses * kind).sum(axis=0) / np.maximum(kind.sum(axis=0), 1) for kind in (trained, held_out))
    return np.asarray(np.where(known, (inside + outside) / 2, np.nan))


def single_images(scores: Scores, member: Mask) -> Interval:
    """How often a threshold is right about one image, where half of them are members (balanced accuracy).

    Each half of the images is judged by the threshold that was the best on the other half, so 0.5 is expected of
    scores that tell nothing. The interval is Newcombe's (Statistics in Medicine 17, 1998) for two shares of different
    images; that a half shares its threshold is not in it.

    Args:
        scores: shape (N,).
        member: shape (N,); at least two are members and two are not.
    """
    half = _halves(member)
    hits = np.zeros(len(member), bool)
    for judged in (half, ~half):
        threshold = best_threshold(scores[~judged & member], scores[~judged & ~member])
        hits[judged] = (scores[judged] >= threshold) == member[judged]
    found, mistaken = (int(hits[member].sum()), int(member.sum())), (int((~hits[~member]).sum()), int((~member).sum()))
    return Interval(*((1 + end) / 2 for end in difference(found, mistaken, _ALPHA)))


def _halves(member: Mask) -> Mask:
    """Half of the members and half of the others, by chance, the same every time."""
    random, half = np.random.default_rng(0), np.zeros(len(member), bool)
    for kind in (member, ~member):
        half[random.permutation(np.flatnonzero(kind))[::2]] = True
    return half


def best_threshold(members: Scores, others: Scores) -> float:
    """The threshold of highest balanced accuracy; scores at or above it count as members'."""
    values = np.unique(np.concatenate((members, others)))
    cuts = np.concatenate(([-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]))
    missed, refused = (np.searchsorted(np.sort(side), cuts) / len(side) for side in (members, others))
    return float(cuts[np.argmax(refused - missed)])


class Pairs(NamedTuple):
    """How often a member is told from a held-out image of its class, and how many pairs share no image."""

    share: Interval
    disjoint: int


def pairs(scores: Scores, member: Mask, labels: Labels) -> Pairs | None:
    """How often the higher score of a member and a held-out image of the same class is the member's; ties are halves.

    The share is the mean over all ways to form pairs that share no image, which is what is expected of a pair that is
    drawn by chance. Pairs that share an image depend on each other, so the many there are tell little more than those
    that share none: the interval is Wilson's for so many of these. It is never too narrow for that reason, and not of
    width 0 where every pair is told apart.

    Args:
        scores: shape (N,).
        member: shape (N,).
        labels: shape (N,).

    Returns:
        None where no class has images of both kinds.
    """
    right, disjoint = 0.0, 0
    for label in np.unique(labels):
        inside, outside = scores[(labels == label) & member], np.sort(scores[(labels == label) & ~member])
        count = min(len(inside), len(outside))
        if count:
            below = np.searchsorted(outside, inside) + np.searchsorted(outside, inside, side="right")
            right += count * float(below.mean()) / (2 * len(outside))
            disjoint += count
    if not disjoint:
        return None
    return Pairs(proportion(right, disjoint, _ALPHA), disjoint)


def privacy(told_apart: Interval) -> Interval:
    """min(2 (1 - A), 1) of an accuracy A in pairs: 1 is guessing, 0 is always right (LTU Attacker, section 3)."""
    value, high, low = (min(2 * (1 - share), 1.0) for share in told_apart)
    return Interval(value, low, high)


def utility(hits: int, images: int, classes: int) -> Interval:
    """max((c A - 1) / (c - 1), 0) of an accuracy A in c classes: 0 is guessing, 1 always right (LTU Attacker)."""
    share = proportion(hits, images, _ALPHA)
    return Interval(*(max((classes * end - 1) / (classes - 1), 0.0) for end in share))
