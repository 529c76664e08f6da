"""Drift on real letters: none while they are of the kind that was learnt, an alarm for others and for blurred ones."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from harness.service import Service
from rrrbuild.cascade_runner import NOT_ASKED, USED
from rrrbuild.confidence.drift import LEAST, DriftDetector
from rrrbuild.engine import Engine, load_engine
from rrrbuild.repository_document import ServedModel, read_repository
from rrrnet.images.preprocess import image_to_array
from rrrserve.api.answer import answer
from rrrserve.api.requests import Options

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

ALARM_WITHIN = 500


@pytest.fixture(scope="module")
def model(letters: Any) -> ServedModel:
    return read_repository(letters.repository).models[0]


@pytest.fixture(scope="module")
def engine(letters: Any) -> Engine:
    return load_engine(letters.engine("cascade"))


@pytest.fixture(scope="module")
def other_script(letters: Any) -> list[bytes]:
    """600 letters that the network never saw, in random order."""
    return shuffled(letters.draw("others", 100, "greek"))


@pytest.fixture(scope="module")
def fresh(letters: Any) -> list[bytes]:
    """4 200 letters that the network has learnt, newly drawn, in random order."""
    return shuffled(letters.draw("fresh", 700))


def shuffled(paths: Sequence[Path]) -> list[bytes]:
    order = np.random.default_rng(0).permutation(len(paths))
    return [paths[index].read_bytes() for index in order]


def blurred(image: bytes) -> bytes:
    """Out of focus: by 2.5 of 64 pixels, five times what was learnt at most."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image)).filter(ImageFilter.GaussianBlur(2.5)).save(buffer, "PNG")
    return buffer.getvalue()


def scores(model: ServedModel, engine: Engine, images: Sequence[bytes]) -> Iterator[tuple[int, float]]:
    """How many images were answered, and the score, at each look."""
    assert model.confidence is not None
    assert model.confidence.drift is not None
    detector = DriftDetector(model.confidence.drift)
    found = engine(np.stack([image_to_array(image, model.preprocess) for image in images]))
    status = np.where(np.isfinite(found).all(axis=2), USED, NOT_ASKED).astype(np.uint8)
    for count, (probabilities, became) in enumerate(zip(found, status, strict=True), 1):
        told = answer(probabilities, became, model, Options(1, False))
        doubt = told["uncertainty"]
        if detector.observe(doubt["agreement"], doubt["entropy"], told["members_used"]):
            yield count, detector.score


def test_thousands_of_fresh_letters_of_the_same_kind_are_no_drift(
    model: ServedModel, engine: Engine, fresh: list[bytes]
) -> None:
    found = [score for _, score in scores(model, engine, fresh)]
    print(f"largest score over {len(fresh)} letters: {max(found):.2f}")
    assert len(fresh) == 4200
    assert max(found) < 1


@pytest.mark.parametrize("what", ["another script", "blurred"])
def test_other_letters_are_an_alarm_within_500(
    model: ServedModel, engine: Engine, fresh: list[bytes], other_script: list[bytes], what: str
) -> None:
    other = other_script if what == "another script" else [blurred(image) for image in fresh[:600]]
    good = fresh[-1000:]
    # As it comes: after good ones, which fill the window.
    alarms = [count - len(good) for count, score in scores(model, engine, [*good, *other]) if score >= 1]
    print(f"{what}: alarm after {alarms[0]} letters")
    assert 0 < alarms[0] <= ALARM_WITHIN


def test_two_workers_tell_the_higher_score_once_they_have_seen_enough(
    letters: Any, fresh: list[bytes], other_script: list[bytes], tmp_path: Path
) -> None:
    with Service(tmp_path / "log", str(letters.repository), "--workers", "2", "--drain", "0") as service:

        def send(images: Sequence[bytes]) -> float:
            for image in images:  # each by a connection of its own, which any worker may take
                assert service.ask("/v1/models/cascade/predict", content=image).status_code == 200
            (found,) = re.findall(r'^rrr_drift_score\{model="cascade"\} (\S+)$', service.ask("/metrics").text, re.M)
            return float(found)

        assert math.isnan(send(fresh[: LEAST - 1]))
        assert 0 <= send(fresh[LEAST : 6 * LEAST]) < 1
        assert send([*other_script, *other_script[:400]]) >= 1
        assert service.stop() == 0
