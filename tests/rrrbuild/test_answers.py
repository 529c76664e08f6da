"""`Engine.predict`: images of any kind to labels, calibrated probabilities, doubt and sets, as a service tells them."""

from pathlib import Path

import numpy as np
import pytest

import rrrbuild
from rrrbuild.answers import answers_of
from rrrbuild.cascade_runner import FAST, FULL
from rrrbuild.confidence.record import Confidence
from rrrbuild.manifest import Manifest
from rrrnet.errors import ImageError, UsageError

SURE = Confidence(99, "tests", {FAST: 2.0, FULL: 0.5}, 0.8, {FULL: (0.1, 0.2, 0.3, 0.9)})
MEMBERS = np.array([[[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]], [[0.2, 0.6, 0.2], [np.nan] * 3]], np.float32)


def test_the_answer_is_the_calibrated_mean_of_the_members_that_were_asked() -> None:
    answers = answers_of(MEMBERS, ("a", "b", "c"), SURE, FULL)
    assert (answers.labels, len(answers)) == (("a", "b"), 2)
    assert answers.members_used.tolist() == [2, 1]
    squared = np.array([0.36, 0.09, 0.01])
    assert answers.probabilities[0] == pytest.approx(squared / squared.sum())
    assert answers.agreement.tolist() == [1.0, 1.0]
    assert answers.mutual_information[1] == pytest.approx(0, abs=1e-9)
    assert answers.mutual_information[0] > 0.01
    assert answers.sets(0.5) == [("a",), ("b",)]
    assert answers.sets(0.99) == [("a", "b", "c"), ("b", "a", "c")]


def test_sets_that_cannot_be_promised_are_refused() -> None:
    with pytest.raises(UsageError, match="built without images to calibrate on; rrr build --calibration-data"):
        answers_of(MEMBERS, ("a", "b", "c"), None, FULL).sets(0.9)
    with pytest.raises(UsageError, match="coverage is 95: allowed is a number between 0 and 1"):
        answers_of(MEMBERS, ("a", "b", "c"), SURE, FULL).sets(95)


def test_an_opened_engine_takes_more_images_than_its_largest_batch_and_each_effort(
    cascade_engine: Manifest, data: Path
) -> None:
    engine = rrrbuild.open_engine(str(cascade_engine.path), threads=1)
    files = sorted(data.rglob("*.png"))[:6]
    assert cascade_engine.cascade is not None
    k = cascade_engine.cascade["k"]
    fast, full = (engine.predict(files, effort=effort) for effort in (FAST, FULL))
    assert fast.members_used.tolist() == [k] * 6
    assert full.members_used.tolist() == [4] * 6
    assert np.isnan(fast.members).sum() == 6 * (4 - k) * 3
    assert full.probabilities.sum(axis=1) == pytest.approx(np.ones(6))
    assert full.labels == tuple(engine.manifest.labels[row.argmax()] for row in full.probabilities)
    assert {len(labels) for labels in full.sets(0.999)} <= {1, 2, 3}
    assert engine.predict(files[0]).labels == engine.predict(files[:1]).labels
    with pytest.raises(ImageError, match=r"labels\.csv: the file is missing"):
        engine.predict([files[0], data / "labels.csv"])
    with pytest.raises(UsageError, match="no images are given"):
        engine.predict([])


def test_an_evaluation_has_the_figures_that_the_command_prints(cascade_engine: Manifest, data: Path) -> None:
    found = rrrbuild.evaluate(str(cascade_engine.path), data, split="all", effort=FULL)
    assert (found.document["images"], len(found.predictions.files)) == (24, 24)
    assert (found.accuracy, found.ece) == (found.document["accuracy"], found.document["ece"])
    with pytest.raises(UsageError, match="--split some: allowed are test, val, train, all"):
        rrrbuild.evaluate(cascade_engine.path, split="some")
