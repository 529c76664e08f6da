"""How well attackers tell the images that a network was trained on from those that were held out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild.audit import attacks
from rrrbuild.audit.attacks import LOSS, Labels, Mask, Scores
from rrrbuild.audit.forms import forms
from rrrbuild.cascade_runner import FULL
from rrrbuild.evaluation import EvaluatedModel, Predictions, open_model, predict
from rrrbuild.manifest import Manifest
from rrrnet.checkpoint import SPLIT, Checkpoint, read_checkpoint
from rrrnet.data.dataset import read_split
from rrrnet.data.split import TEST, TRAIN, VAL
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.training.metrics import mean_of_members

OWN_THRESHOLDS = "loss, own thresholds"


def audit(model: Path, data: Path | None = None, references: Sequence[Path] = ()) -> dict[str, Any]:
    """Attack a checkpoint or an engine by its probabilities alone, those that a service would tell.

    Args:
        model: its `split.csv` says which images are members (`train`) and which are held out (`val`, `test`).
        data: the images; None are those that it was trained on.
        references: other checkpoints, trained on other parts of the same data: they give every image a threshold.

    Returns:
        What `rrr audit --json` prints (docs/internals/formats.md).

    Raises:
        UsageError: there are too few images of both kinds; the references say nothing; see `evaluation.predict`.
        ArtifactError: no split is recorded; an output is not finite; see `evaluation.predict`.
    """
    subject = open_model(model)
    parts = _parts(subject.source)
    for reference in references:
        _parts(read_checkpoint(reference))  # refused before the long work
    found = predict(subject, data, "all", FULL)
    kinds = np.array([parts.get(file, "") for file in found.files])
    known = kinds != ""
    member, labels = kinds[known] == TRAIN, found.labels[known]
    if min(member.sum(), (~member).sum()) < 2:
        raise UsageError(
            f"{model} records {member.sum()} training images and {(~member).sum()} held out ones of {found.root}: "
            "2 of each are needed; give the data that it was trained on with --data DIR"
        )
    mean, members = _as_told(subject, found)
    mean, members = mean[known], members[known]
    scores = attacks.attack_scores(mean, members, labels)
    if references:
        thresholds = _own_thresholds(references, subject, found, data)[known]
        scores[OWN_THRESHOLDS] = scores[LOSS] + thresholds
    rows = [{"attack": name, **_judged(found, score, member, labels)} for name, score in scores.items()]
    answers = [
        {"answer": name, **_judged(found, attacks.loss_score(told, labels), member, labels)}
        for name, told in forms(mean).items()
    ]
    right, tested = mean.argmax(axis=1) == labels, kinds[known] == TEST
    judged = tested if tested.any() else ~member
    return {
        "name": subject.source.name,
        "target": subject.target,
        "data": str(found.root),
        "data_matches": found.data_matches,
        "images": {part: int((kinds == part).sum()) for part in (TRAIN, VAL, TEST)},
        "pairs": rows[0]["disjoint_pairs"],
        "accuracy": {"train": float(right[member].mean()), "held_out": float(right[judged].mean())},
        "privacy": rows[0]["privacy"],
        "utility": attacks.utility(int(right[judged].sum()), int(judged.sum()), mean.shape[1])._asdict(),
        "attacks": rows,
        "answers": answers,
        "notes": _notes(subject),
    }


def _parts(source: Checkpoint | Manifest) -> dict[str, str]:
    """Part by file, as the model's split records it."""
    if SPLIT not in source.files:
        raise ArtifactError(
            f"{source.path} has no record of the images that it was trained on ({SPLIT}), so nobody can judge an "
            "attacker: audit a checkpoint of rrr train --data DIR, or an engine of one"
        )
    return read_split(source.path / SPLIT)


def _as_told(subject: EvaluatedModel, found: Predictions) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Probabilities of the ensemble (N, C) and its members (N, M, C), calibrated where a service calibrates them."""
    if not np.isfinite(found.probabilities).all():
        raise ArtifactError(f"the output of {subject.path} holds NaN or infinity: it cannot be audited")
    mean, members = mean_of_members(found.probabilities), found.probabilities.astype(np.float64)
    confidence = subject.confidence
    return (mean, members) if confidence is None else (confidence.mean(mean, FULL), confidence.members(members))


def _own_thresholds(
    references: Sequence[Path], subject: EvaluatedModel, found: Predictions, data: Path | None
) -> Scores:
    """A loss for each image of `found`, shape (N,), by networks that were trained on it and networks that were not."""
    shape = (len(references), len(found.files))
    losses, trained, held_out = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool)
    place = {file: index for index, file in enumerate(found.files)}
    for row, reference in enumerate(references):
        other = open_model(reference)
        parts, answers = _parts(other.source), predict(other, data, "all", FULL)
        loss = -attacks.loss_score(_as_told(other, answers)[0], answers.labels)
        for file, value in zip(answers.files, loss, strict=True):
            if file in place and file in parts:
                losses[row, place[file]] = value
                (trained if parts[file] == TRAIN else held_out)[row, place[file]] = True
    thresholds = attacks.own_thresholds(losses, trained, held_out)
    if np.isnan(thresholds).all():
        raise UsageError(
            f"--reference: none of the {len(references)} was trained on an image of {found.root} that another was not: "
            f"train some like {subject.source.name} with other values of --seed"
        )
    return thresholds


def _judged(found: Predictions, scores: Scores, member: Mask, labels: Labels) -> dict[str, Any]:
    """How well one score tells members from others, on the images for which there is one."""
    there = ~np.isnan(scores)
    scores, member, labels = scores[there], member[there], labels[there]
    told_apart = attacks.pairs(scores, member, labels)
    if told_apart is None or min(member.sum(), (~member).sum()) < 2:
        raise UsageError(
            f"no class of {found.root} has images that were trained on and images that were held out, of those that "
            "an attack can use: give more images with --data DIR, or other references"
        )
    return {
        "images": len(scores),
        "disjoint_pairs": told_apart.disjoint,
        "pairs": told_apart.share._asdict(),
        "single_images": attacks.single_images(scores, member)._asdict(),
        "privacy": attacks.privacy(told_apart.share)._asdict(),
    }


def _notes(subject: EvaluatedModel) -> list[str]:
    """What else than membership may set the two kinds of images apart, or hide it."""
    notes = []
    if other := subject.data.get("test_path"):
        notes.append(f"the test images lie in another folder ({other}): an attack may tell the folders apart")
    if isinstance(subject.source, Checkpoint):
        training = subject.source.training
        rule = training.get("split", {}).get("rule", "")
        if rule.startswith("given by"):
            notes.append(f"the split was {rule}: what differs between its parts helps an attack, too")
        if training.get("epochs_done") == 0:
            notes.append("no gradient step of rrr train was taken on these images: --epochs 0")
    return notes
