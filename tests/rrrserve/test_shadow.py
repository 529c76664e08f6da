"""The shadow: what it is asked, when it is not, and how many requests it may touch."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rrrbuild.repository_document import ServedModel
from rrrnet.images.preprocess import Preprocess
from rrrserve.api.decoding import Decoded
from rrrserve.api.errors import APIError
from rrrserve.api.requests import Options
from rrrserve.api.shadow import SHARE, Shadow
from rrrserve.metrics.instruments import SHADOW_COMPARED, SHADOW_DROPPED, SHADOW_DURATION
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.calls import TritonError
from rrrserve.triton.client import Inference

MODEL = ServedModel(
    *("answers", "1", "openvino-fp32", "python", 1, 4, ("a", "b"), Preprocess(32), 32, 1, 1, ("probabilities",))
)
OTHER = replace(MODEL, name="compared", cascade={"k": 1, "tau": 0.5, "order": [0]})
ASKED = Options(top_k=1, members=False, effort="fast")


class Plane:
    """A data plane whose Triton thinks that every image is an `a`, in as many turns of the event loop as it is told."""

    def __init__(self, state: SharedState, *, requests_meanwhile: int = 0) -> None:
        self.state, self.models = state, {MODEL.name: MODEL, OTHER.name: OTHER}
        self.pool = self.client = self
        self.meanwhile, self.asked = requests_meanwhile, list[tuple[str, str]]()
        self.decoded: Decoded | APIError = Decoded(np.zeros((32, 32, 3), np.uint8), 0.0, 0.0, 0.0)
        self.error: TritonError | None = None
        self.in_use = nullcontext

    async def decode(self, images: list[bytes], preprocess: Preprocess) -> list[Decoded | APIError]:
        return [self.decoded for _ in images]

    async def infer(self, model: ServedModel, images: Any, *, timeout_seconds: float, effort: str) -> Inference:
        self.asked.append((model.name, effort))
        for _ in range(self.meanwhile):
            await asyncio.sleep(0)
            self.state.note_request()
        if self.error is not None:
            raise self.error
        return Inference(np.array([[[0.75, 0.25]]], np.float32))


def shadow_of(plane: Plane) -> Shadow:
    return Shadow(cast(Any, plane), OTHER, timeout_seconds=1.0)


def answered(shadow: Shadow, state: SharedState, label: str = "a", *, model: ServedModel = MODEL) -> None:
    """One request, answered with a label while it was alone."""
    before = shadow.before()
    state.note_request()
    shadow.compare(before, model, b"image", ASKED, label, 0.25)


def counts() -> dict[str, float]:
    """Every counter of the shadow now."""
    found = {f"same {same}": SHADOW_COMPARED.labels("answers", "compared", same) for same in ("yes", "no")}
    found |= {reason: SHADOW_DROPPED.labels(reason) for reason in ("busy", "share", "failed")}
    return {name: child._value.get() for name, child in found.items()}


def gained(before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in counts().items() if value > before[name]}


def seconds_of(name: str) -> float:
    return float(SHADOW_DURATION.labels(name)._sum.get())


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


def test_labels_and_durations_of_both_are_compared_and_the_effort_is_the_requests() -> None:
    plane, before = Plane(SharedState.in_process(["answers", "compared"])), counts()
    seconds = seconds_of("answers"), seconds_of("compared")

    async def main() -> None:
        shadow = shadow_of(plane)
        answered(shadow, plane.state)
        assert plane.asked == [], "the answer is written first"
        await settled()
        for _ in range(2 * round(1 / SHARE)):
            plane.state.note_request()
        answered(shadow, plane.state, "b")
        await settled()

    asyncio.run(main())
    assert plane.asked == [("compared", "fast")] * 2
    assert gained(before) == {"same yes": 1, "same no": 1}
    assert seconds_of("answers") - seconds[0] == 0.5
    assert 0 < seconds_of("compared") - seconds[1] < 0.5


def test_nothing_is_asked_while_or_after_another_request_is_under_way() -> None:
    plane, before = Plane(SharedState.in_process(["answers", "compared"])), counts()
    state = plane.state

    async def main() -> None:
        shadow = shadow_of(plane)
        state.add(1)
        answered(shadow, state)  # beside one that came before
        state.add(-1)
        began = shadow.before()
        state.note_request()
        state.note_request()  # one came meanwhile
        shadow.compare(began, MODEL, b"image", ASKED, "a", 0.25)
        answered(shadow, state)
        state.add(1)  # one comes while the answer is being written
        await settled()
        state.add(-1)
        answered(shadow, state, model=OTHER)  # it was asked itself

    asyncio.run(main())
    assert plane.asked == []
    assert gained(before) == {"busy": 3}


@pytest.mark.parametrize("meanwhile", [0, 1, 3, 8])
@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_than_the_share_of_all_requests_meets_or_follows_it(meanwhile: int, workers: int) -> None:
    state = SharedState.create(None, ["answers", "compared"], workers)
    planes = [Plane(state, requests_meanwhile=meanwhile) for _ in range(workers)]

    async def main() -> None:
        shadows = [shadow_of(plane) for plane in planes]
        for number in range(2000):
            answered(shadows[number % workers], state)
            await settled()

    asyncio.run(main())
    touched = sum(len(plane.asked) for plane in planes) * max(1, meanwhile)
    requests = state.requests()
    assert 0.9 * SHARE * requests - meanwhile < touched <= SHARE * requests + workers * (1 + meanwhile)


def test_what_it_cannot_answer_is_counted_and_what_is_under_way_ends_with_the_worker() -> None:
    plane, before = Plane(SharedState.in_process(["answers", "compared"])), counts()

    async def main() -> None:
        plane.error = TritonError("backend_unavailable", "down")
        answered(shadow_of(plane), plane.state)
        await settled()
        image, plane.decoded = plane.decoded, APIError("unsupported_image", "no image")
        answered(shadow_of(plane), plane.state)
        await settled()
        plane.error, plane.decoded = None, image
        shadow, plane.meanwhile = shadow_of(plane), 1000
        answered(shadow, plane.state)
        await settled()
        await shadow.stop()
        await shadow.stop()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert gained(before) == {"failed": 2}
    assert plane.asked == [("compared", "fast")] * 2


def test_a_version_that_is_in_use_by_the_shadow_is_not_taken_away() -> None:
    plane = Plane(SharedState.in_process(["answers", "compared"]), requests_meanwhile=5)
    used = SimpleNamespace(now=0, most=0)

    class Using:
        def __enter__(self) -> None:
            used.now += 1
            used.most = max(used.most, used.now)

        def __exit__(self, *_: object) -> None:
            used.now -= 1

    cast(Any, plane).in_use = Using

    async def main() -> None:
        answered(shadow_of(plane), plane.state)
        await settled()

    asyncio.run(main())
    assert (used.now, used.most) == (0, 1)
