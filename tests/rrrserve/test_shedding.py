"""Members are shed before requests are, and unsure images are kept without being in anyone's way."""

import asyncio
import json
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from rrrbuild.repository_document import ServedModel
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrserve.api import admission as admission_module
from rrrserve.api import keep_unsure
from rrrserve.api import shedding as shedding_module
from rrrserve.api.admission import Admission
from rrrserve.api.errors import APIError
from rrrserve.api.keep_unsure import ANSWERS, UnsureImages
from rrrserve.api.requests import Options
from rrrserve.api.shedding import Shedding
from rrrserve.config.service_config import ServiceConfig
from rrrserve.state.shared_state import SharedState

PLAIN = ServedModel(
    *("m", "1", "openvino-fp32", "python", 8, 32, ("a", "b"), Preprocess(32), 32, 1, 1, ("probabilities",))
)
CASCADE = replace(PLAIN, cascade={"k": 2, "tau": 0.5, "order": list(range(8))})
ASKED = Options(top_k=1, members=False)


class Clock:
    """The time that admission and shedding see."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission_module, "time", clock)
    monkeypatch.setattr(shedding_module, "time", clock)
    return clock


def at_load(images: int, *, enabled: bool = True) -> tuple[SharedState, Shedding]:
    state = SharedState.in_process(["m"])
    state.add(images)
    return state, Shedding(Admission(state, 64), enabled=enabled)


def test_auto_becomes_fast_from_half_the_load_until_two_to_four_seconds_below(clock: Clock) -> None:
    state, shedding = at_load(0)
    efforts = []
    for now, images in ((0, 31), (0.1, 32), (3.9, 0), (4.1, 0), (5.9, 32), (7.9, 31), (9.9, 0), (12, 32), (20, 0)):
        clock.now = 1000 + now
        state.add(images - state.total())
        efforts.append(shedding.apply(CASCADE, ASKED, 10).effort)
    assert efforts == ["auto", "fast", "fast", "auto", "fast", "fast", "auto", "fast", "auto"]


def test_a_request_in_a_hurry_is_shed_alone(clock: Clock) -> None:
    state, shedding = at_load(0)
    with shedding._admission.admitted(1, 10):
        clock.now += 20  # so that an image is thought to take 1 s
    state.add(4)
    efforts = [shedding.apply(CASCADE, ASKED, seconds_left).effort for seconds_left in (17, 15, 17, 10, 17)]
    assert efforts == ["auto", "fast", "auto", "fast", "auto"]


@pytest.mark.parametrize("effort", ["fast", "full"])
def test_what_was_asked_for_stays_and_so_does_a_model_that_has_no_cascade(effort: str) -> None:
    _, shedding = at_load(63)
    assert shedding.apply(CASCADE, replace(ASKED, effort=effort), 10).effort == effort
    assert shedding.apply(PLAIN, ASKED, 10).effort == "auto"
    assert at_load(63, enabled=False)[1].apply(CASCADE, ASKED, 10).effort == "auto"


def answered(clock: Clock, arrivals: list[float], deadline: float) -> list[tuple[float, str]]:
    """What becomes of requests by the clock: 15 ms of work for each one after the other, 10 ms when shed."""
    _, shedding = at_load(0)
    admission, began = shedding._admission, clock.now
    queue: deque[tuple[float, AbstractContextManager[None]]] = deque()
    said: list[tuple[float, str]] = []
    busy_until = 0.0
    for now in arrivals:
        while queue and queue[0][0] <= now:
            done, place = queue.popleft()
            clock.now = began + done
            place.__exit__(None, None, None)
        clock.now = began + now
        effort = shedding.apply(CASCADE, ASKED, deadline).effort
        place = admission.admitted(1, deadline)
        try:
            place.__enter__()
        except APIError:
            said.append((now, "refused"))
            continue
        said.append((now, effort))
        busy_until = max(busy_until, now) + (0.010 if effort == "fast" else 0.015)
        queue.append((busy_until, place))
    return said


def every(seconds: float, start: float, stop: float) -> list[float]:
    return [start + number * seconds for number in range(int((stop - start) / seconds))]


@pytest.mark.parametrize("deadline", [10.0, 0.4], ids=["by number", "by deadline"])
def test_under_three_times_the_load_all_are_shed_before_one_is_refused_and_auto_is_back_within_five_seconds(
    deadline: float, clock: Clock
) -> None:
    said = answered(clock, every(1 / 200, 0, 5) + every(1 / 20, 5, 11), deadline)
    first = {what: next(time for time, found in said if found == what) for what in ("fast", "refused")}
    assert first["fast"] < first["refused"]
    assert {effort for time, effort in said if first["fast"] <= time < 5} == {"fast", "refused"}
    assert {effort for time, effort in said if time > 9.9} == {"auto"}


@pytest.mark.parametrize("deadline", [10.0, 0.4], ids=["by number", "by deadline"])
def test_a_load_between_what_auto_and_what_fast_can_bear_is_refused_nothing_and_stays_fast_for_two_seconds_at_least(
    deadline: float, clock: Clock
) -> None:
    said = answered(clock, every(1 / 80, 0, 60), deadline)
    assert {effort for _, effort in said} == {"auto", "fast"}
    ends = [later for (_, one), (later, two) in pairwise(said) if (one, two) == ("fast", "auto")]
    begins = [later for (_, one), (later, two) in pairwise(said) if (one, two) == ("auto", "fast")]
    assert 3 < len(ends) <= 60 / 2
    assert all(end - begin >= 2 for begin, end in zip(begins, ends, strict=False))


def test_unsure_images_are_written_with_their_answers_until_the_folder_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep_unsure, "MOST_IMAGES", 2)

    async def send() -> None:
        unsure = UnsureImages(tmp_path / "unsure")
        for number in range(4):
            unsure.keep(f"id.{number}", 0, b"image", "m", {"unsure": True})
        unsure.close()
        await asyncio.sleep(0.01)  # what became of them is told on the event loop

    asyncio.run(send())
    folder = tmp_path / "unsure"
    assert sorted(path.name for path in folder.iterdir()) == [ANSWERS, "id.0-0", "id.1-0"]
    assert (folder.stat().st_mode & 0o777, (folder / "id.0-0").stat().st_mode & 0o777) == (0o700, 0o600)
    lines = [json.loads(line) for line in (folder / ANSWERS).read_text().splitlines()]
    assert [(line["file"], line["model"], line["unsure"]) for line in lines] == [
        ("id.0-0", "m", True),
        ("id.1-0", "m", True),
    ]


def test_an_image_that_cannot_be_written_is_told_once_and_fails_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def send() -> None:
        unsure = UnsureImages(tmp_path)
        for _ in range(3):  # the same name again: never overwritten
            unsure.keep("same", 0, b"image", "m", {})
        unsure.close()
        await asyncio.sleep(0.01)  # what became of them is told on the event loop

    asyncio.run(send())
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "an unsure image could not be kept, and further ones may not be"
    ]
    assert (tmp_path / "same-0").read_bytes() == b"image"


def test_settings_come_by_variable_too_and_bad_ones_are_named(tmp_path: Path) -> None:
    config = ServiceConfig.from_environment(
        {"RRR_SHED": "0", "RRR_QUORUM": "3", "RRR_ABSTAIN_ABOVE": "0.7", "RRR_KEEP_UNSURE": str(tmp_path / "unsure")}
    )
    assert (config.shed, config.quorum, config.abstain_above) == (False, 3, 0.7)
    assert (tmp_path / "unsure").is_dir()
    (tmp_path / "file").touch()
    for variable, value, message in (
        ("RRR_ABSTAIN_ABOVE", "much", "--abstain-above .* is 'much': expected an entropy in nats"),
        ("RRR_QUORUM", "0", "RRR_QUORUM is '0': expected a whole number from 1"),
        ("RRR_KEEP_UNSURE", str(tmp_path / "file" / "x"), "nothing can be written there"),
    ):
        with pytest.raises(UsageError, match=message):
            ServiceConfig.from_environment({variable: value})
