"""The demo: calls in turns, and its time by stages."""

import re

import pytest

from demo import WARM_UP_REQUESTS, Stages, interleaved


def test_the_time_is_told_by_stages_in_their_order() -> None:
    stages = Stages()
    for name in ("images", "training", "images"):
        stages.end(name)
    assert list(stages.seconds) == ["images", "training"]
    assert re.fullmatch(r"0 seconds: images 0, training 0", stages.line())


def test_two_calls_take_turns_and_each_goes_first_in_every_other_round(capsys: pytest.CaptureFixture[str]) -> None:
    called: list[str] = []
    times = interleaved(lambda _: called.append("a"), lambda _: called.append("b"), 3, "timing")
    assert times.shape == (3, 2)
    assert called[2 * WARM_UP_REQUESTS :] == ["b", "a", "a", "b", "b", "a"]
    assert capsys.readouterr().err.startswith("timing: 3 of 3, ")
