"""Members are shed before requests are, and unsure images are kept without being in anyone's way."""

import asyncio
import json
from collections import deque
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from rrrbuild.repository_document import ServedModel
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrserve.api import keep_unsure
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


def at_load(images: int, *, enabled: bool = True) -> tuple[SharedState, Shedding]:
    state = SharedState.in_process(["m"])
    state.add(images)
    return state, Shedding(Admission(state, 64, batch_images=32), enabled=enabled)


def test_auto_becomes_fast_near_the_limit_and_auto_again_far_below_it() -> None:
    state, shedding = at_load(48)
    efforts = []
    for images in (48, 49, 40, 17, 16, 40, 48, 63):
        state.add(images - state.total())
        efforts.append(shedding.apply(CASCADE, ASKED, 10).effort)
    assert efforts == ["auto", "fast", "fast", "fast", "auto", "auto", "auto", "fast"]


@pytest.mark.parametrize("effort", ["fast", "full"])
def test_what_was_asked_for_stays_and_so_does_a_model_that_has_no_cascade(effort: str) -> None:
    _, shedding = at_load(63)
    assert shedding.apply(CASCADE, replace(ASKED, effort=effort), 10).effort == effort
    assert shedding.apply(PLAIN, ASKED, 10).effort == "auto"
    assert at_load(63, enabled=False)[1].apply(CASCADE, ASKED, 10).effort == "auto"


def test_under_three_times_the_load_all_are_shed_before_one_is_refused_and_calm_ends_it_without_flapping() -> None:
    """A queue by the clock: 200 requests a second for 5 s, then 20, and 15 ms of work for each, 10 ms when shed."""
    state, shedding = at_load(0)
    admission = shedding._admission
    queue: deque[float] = deque()
    said: list[tuple[float, str]] = []
    busy_until = 0.0
    arrivals = [i / 200 for i in range(1000)] + [5 + i / 20 for i in range(100)]
    for now in arrivals:
        while queue and queue[0] <= now:
            queue.popleft()
            state.add(-1)
        try:
            admission.check(10)
        except APIError:
            said.append((now, "refused"))
            continue
        effort = shedding.apply(CASCADE, ASKED, 10).effort
        said.append((now, effort))
        busy_until = max(busy_until, now) + (0.010 if effort == "fast" else 0.015)
        queue.append(busy_until)
        state.add(1)
    first = {what: next(time for time, found in said if found == what) for what in ("fast", "refused")}
    assert first["fast"] < first["refused"]
    changes = sum(one != two for (_, one), (_, two) in pairwise(said) if "refused" not in (one, two))
    assert changes <= 2
    assert all(effort == "auto" for time, effort in said if time > 6)


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
