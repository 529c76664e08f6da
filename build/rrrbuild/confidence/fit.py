"""A confidence record from the probabilities of images that no gradient step saw."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild.cascade_runner import EFFORTS, FULL, answered_by
from rrrbuild.confidence import conformal, drift
from rrrbuild.confidence.record import Confidence
from rrrbuild.confidence.temperature import fit_temperature, tempered
from rrrnet.training.metrics import mean_of_members, score_mean

FloatArray = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

MIN_IMAGES = 20
REPORTED_COVERAGES = (0.9, 0.95)


def fit_confidence(
    reference: FloatArray,
    found: FloatArray,
    labels: Labels,
    cascade: Mapping[str, Any] | None,
    *,
    source: str,
    calibrate: bool = True,
) -> Confidence:
    """Temperatures, scores, and how good they are.

    Temperatures are fitted on PyTorch's answers, so that every target has the same ones; the scores of sets are those
    of the engine, whose answers the sets are made of. What is reported is cross-fitted: each half of the images is
    judged by what the other half gave.

    Args:
        reference: PyTorch's probabilities of all members, shape (N, M, C).
        found: the engine's, the same shape.
        labels: shape (N,).
        cascade: `k`, `tau` and `order`, None where all members are always asked.
        source: where the images come from, for people.
        calibrate: whether temperatures are fitted; else they are 1, as is an effort's that other images do not confirm.
    """
    efforts = EFFORTS if cascade else (FULL,)
    fitted = {effort: mean_of_members(_answered(reference, cascade, effort)) for effort in efforts}
    means = {effort: mean_of_members(_answered(found, cascade, effort)) for effort in efforts}
    before = {effort: score_mean(mean, labels) for effort, mean in means.items()}
    watched = drift.effort_to_watch(cascade)
    members = reference.shape[1]
    own = fit_temperature(reference.reshape(-1, reference.shape[2]), np.repeat(labels, members)) if calibrate else 1.0
    temperatures, after, coverage = {}, {}, {}
    for effort, mean in means.items():
        after[effort], coverage[effort] = _cross_fitted(fitted[effort], mean, labels, calibrate=calibrate)
        # Of few images, what fits one half may make the other worse.
        helps = calibrate and after[effort]["nll"] < before[effort]["nll"]
        if calibrate and not helps:
            after[effort], coverage[effort] = _cross_fitted(fitted[effort], mean, labels, calibrate=False)
        temperatures[effort] = fit_temperature(fitted[effort], labels) if helps else 1.0
    return Confidence(
        images=len(labels),
        source=source,
        temperature=temperatures,
        member_temperature=own,
        scores={
            effort: tuple(conformal.scores_of(tempered(mean, temperatures[effort]), labels).tolist())
            for effort, mean in means.items()
        },
        before=before,
        after=after,
        coverage=coverage,
        drift=drift.reference(
            _answered(found, cascade, watched), tempered(means[watched], temperatures[watched]), effort=watched
        ),
    )


def _answered(probabilities: FloatArray, cascade: Mapping[str, Any] | None, effort: str) -> FloatArray:
    return probabilities if cascade is None else answered_by(probabilities.astype(np.float32), cascade, effort)


def _cross_fitted(
    reference: FloatArray, found: FloatArray, labels: Labels, *, calibrate: bool
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores of calibrated means, and coverage of sets by nominal coverage.

    Images are listed by class, so every second one is a half of each class.
    """
    calibrated = np.empty(found.shape)
    limits = {coverage: np.empty(len(labels)) for coverage in REPORTED_COVERAGES}
    for half in range(2):
        here, other = slice(half, None, 2), slice(1 - half, None, 2)
        temperature = fit_temperature(reference[other], labels[other]) if calibrate else 1.0
        calibrated[here] = tempered(found[here], temperature)
        scores = conformal.scores_of(tempered(found[other], temperature), labels[other])
        for coverage, limit in limits.items():
            limit[here] = conformal.threshold(scores, coverage)
    sets = {}
    for coverage, limit in limits.items():
        shares, size = conformal.coverage_by_class(calibrated, labels, limit[:, None])
        counts = np.bincount(labels, minlength=len(shares))
        sets[f"{coverage:.2f}"] = {
            "coverage": float(np.nansum(shares * counts) / len(labels)),
            "mean_size": size,
            "by_class": [None if np.isnan(share) else round(float(share), 4) for share in shares],
        }
    return score_mean(calibrated, labels), sets
