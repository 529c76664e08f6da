"""The Python clients: against a running service, and step by step without one."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

import rrrbuild
from rrrbuild.repository_document import read_models
from rrrnet.errors import ImageError, UsageError
from rrrserve import Answer, AsyncClient, Client, NoAnswerError, Prediction, ServiceError
from rrrserve.client import talk
from rrrserve.client.answers import answer_of
from rrrserve.client.talk import Send, Wait

Picture = Callable[[int], npt.NDArray[np.uint8]]
Png = Callable[[int], bytes]


@pytest.fixture
def asking(service: Any) -> Iterator[Client]:
    with Client(service.url, timeout=30) as opened:
        yield opened


def test_an_answer_is_that_of_the_service_however_the_image_is_given(
    asking: Client, client: httpx.Client, picture: Picture, png: Png, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(1))
    said = client.post("/v1/predict", content=png(1)).json()
    for image in (path, str(path), png(1), picture(1), Image.fromarray(picture(1))):
        answer = asking.predict(image)
        assert [(item.label, item.probability) for item in answer.predictions] == [
            (row["label"], row["probability"]) for row in said["predictions"]
        ]
        assert (answer.label, answer.probability) == tuple(said["predictions"][0].values())
        assert vars(answer.uncertainty) == said["uncertainty"]
        assert (answer.effort, answer.members_used, answer.partial, answer.unsure) == ("full", 3, False, False)
        assert (answer.model, answer.set, answer.set_reason, answer.members) == ("tiny", None, "", ())
        assert len(answer.request_id) == 16
        assert answer.timing_ms["total"] > 0


def test_what_is_asked_for_beside_an_image_is_answered(asking: Client, png: Png) -> None:
    answer = asking.predict(png(1), top_k=1, members=True, effort="fast", coverage=0.9)
    assert [type(item) for item in answer.predictions] == [Prediction]
    assert [vote.member for vote in answer.members] == [0, 1, 2]
    assert "no sets" in answer.set_reason
    assert asking.predict(png(1), model="single").model == "single"
    assert [(model.name, model.members, model.is_default) for model in asking.models()] == [
        ("tiny", 3, True),
        ("single", 1, False),
    ]


def test_an_engine_in_this_process_and_the_service_say_the_same(
    asking: Client, repository: Path, png: Png, picture: Picture
) -> None:
    made_from = read_models(repository).models[0].engine
    assert made_from is not None
    answers = rrrbuild.open_engine(made_from).predict([png(0), picture(1), Image.fromarray(picture(2))])
    for index, told in enumerate(asking.predict_many([png(0), png(1), png(2)])):
        assert isinstance(told, Answer)
        assert answers.labels[index] == told.label
        assert answers.probabilities[index].max() == pytest.approx(told.probability, abs=2e-6)
        for name in ("entropy", "mutual_information", "agreement"):
            assert getattr(answers, name)[index] == pytest.approx(getattr(told.uncertainty, name), abs=2e-5)
        assert answers.members_used[index] == told.members_used


def test_of_many_images_each_has_its_answer_or_the_reason_in_its_place(
    asking: Client, png: Png, tmp_path: Path
) -> None:
    images = [png(index) for index in range(70)]
    images[3:5], images[40] = [b"no image", str(tmp_path / "missing.png")], b""  # type: ignore[list-item]
    found = list(asking.predict_many(images, top_k=1))
    wrong = {index: item.code for index, item in enumerate(found) if isinstance(item, ImageError)}
    assert wrong == {3: "unsupported_image", 4: "missing_image", 40: "empty_image"}
    alone = [asking.predict(images[index]).label for index in (0, 31, 32, 69)]
    assert [item.label for item in (found[0], found[31], found[32], found[69]) if isinstance(item, Answer)] == alone
    assert list(asking.predict_many([])) == []
    assert len(list(asking.predict_many(np.zeros((2, 32, 32, 3), np.uint8)))) == 2


def test_the_client_for_an_event_loop_says_the_same_and_asks_at_the_same_time(
    service: Any, asking: Client, png: Png
) -> None:
    images = [png(index) for index in range(6)]

    async def ask() -> tuple[list[str], list[str], str]:
        async with AsyncClient(service.url, timeout=30) as client:
            answers = await asyncio.gather(*map(client.predict, images))
            many = [item.label async for item in client.predict_many(images) if isinstance(item, Answer)]
            with pytest.raises(ServiceError, match="unsupported_image"):
                await client.predict(b"no image")
            return [answer.label for answer in answers], many, (await client.models())[1].name

    labels = [asking.predict(image).label for image in images]
    assert asyncio.run(ask()) == (labels, labels, "single")


def test_a_connection_is_used_again(service: Any, png: Png) -> None:
    def connections() -> set[int]:
        found = psutil.Process().net_connections("tcp")
        return {each.laddr.port for each in found if each.raddr and each.raddr.port == service.port}

    before = connections()
    with Client(service.url) as client:
        for _ in range(3):
            client.predict(png(0))
            assert len(connections() - before) == 1
        first = connections() - before
        list(client.predict_many([png(0)] * 40))
        assert connections() - before == first


def test_errors_say_what_was_wrong_and_are_found_in_the_log(asking: Client, png: Png, tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as refused:
        asking.predict(png(0), model="no/body")
    assert (refused.value.code, refused.value.status, len(refused.value.request_id)) == ("unknown_model", 404, 16)
    with pytest.raises(ServiceError, match=r"effort must be .* \(bad_request\)"):
        asking.predict(png(0), effort="slow")
    with pytest.raises(ImageError, match=r"missing\.png: the file is missing"):
        asking.predict(tmp_path / "missing.png")
    with pytest.raises(UsageError, match="an image is a float: allowed are a path"):
        asking.predict(1.5)  # type: ignore[arg-type]
    with pytest.raises(NoAnswerError, match=r"no answer from http://127\.0\.0\.1:9 \("):
        Client("http://127.0.0.1:9").predict(png(0))
    with pytest.raises(UsageError, match="expected http://HOST:PORT"):
        Client("127.0.0.1:3000")
    with pytest.raises(UsageError, match="the timeout is 0"):
        Client(timeout=0)


def refusal(status: int, code: str, **headers: str) -> httpx.Response:
    error = {"code": code, "message": "no", "request_id": "0123456789abcdef"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": error}, headers=named)


def test_a_refusal_for_the_moment_is_waited_out_longer_each_time_until_the_time_is_over() -> None:
    steps = talk.ask_one(Send("/v1/predict", 3.5, {}), b"image", answer_of)
    busy = refusal(429, "overloaded", Retry_After="1")
    for least in (1.0, 2.0):
        assert isinstance(next(steps), Send)
        wait = steps.send(busy)
        assert isinstance(wait, Wait)
        assert least <= wait.seconds <= 1.25 * least
    next(steps)
    with pytest.raises(ServiceError) as ended:  # 4 s more would be after the end
        steps.send(busy)
    assert (ended.value.code, ended.value.request_id) == ("overloaded", "0123456789abcdef")


@pytest.mark.parametrize(
    ("response", "wait"),
    [
        (refusal(503, "not_ready", Retry_After="3"), 3.0),
        (httpx.Response(503, text="<html>", headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 1.0),
        (refusal(504, "deadline_exceeded"), None),
        (refusal(500, "internal_error"), None),
        (httpx.Response(200, text="<html>"), None),
        (httpx.Response(200, json={"other": "service"}), None),
    ],
)
def test_what_asking_again_would_not_mend_is_raised_at_once(response: httpx.Response, wait: float | None) -> None:
    steps = talk.ask_one(Send("/v1/predict", 60, {}), b"image", answer_of)
    next(steps)
    if wait is None:
        with pytest.raises(ServiceError, match=r"\(deadline_exceeded\)|\(internal_error\)|is this an rrr service\?"):
            steps.send(response)
    else:
        step = steps.send(response)
        assert isinstance(step, Wait)
        assert wait <= step.seconds <= wait * 1.25


def test_batches_are_cut_to_what_the_service_takes_and_what_is_too_large_alone_is_said_of_it() -> None:
    large = b"x" * 3_000_000
    images = [b"%d" % index for index in range(40)] + [large] * 7 + [b"huge"]
    sent: list[list[bytes]] = []
    found: list[Any] = []
    response, steps = None, talk.ask_many(Send("/v1/predict_batch", 10, {}), images, answer_of)
    while True:
        try:
            step = steps.send(response)
        except StopIteration:
            break
        response = None
        if not isinstance(step, Send):
            found.append(step)
        elif len(step.images) > 9 or b"huge" in step.images:
            response = refusal(413, "batch_too_large" if len(step.images) > 9 else "body_too_large")
        else:
            sent.append(list(step.images))
            results = [{"error": {"code": str(len(image)), "message": "no"}} for image in step.images]
            response = httpx.Response(200, content=json.dumps({"results": results}))
    assert [image for batch in sent for image in batch] == images[:-1]
    assert max(len(batch) for batch in sent) == 8
    assert max(sum(map(len, batch)) for batch in sent) == 9_000_000
    assert [item.code for item in found] == [str(len(image)) for image in images[:-1]] + ["body_too_large"]


@pytest.mark.nightly
def test_a_small_and_busy_service_answers_all_that_many_clients_ask(
    start_service: Callable[..., Any], repository: Path, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "0123456789abcdef-token"
    monkeypatch.setenv("RRR_TOKEN", token)
    monkeypatch.setenv("RRR_MAX_BATCH_IMAGES", "4")
    served = start_service(str(repository), "--max-in-flight", "4")
    with Client(served.url) as stranger, pytest.raises(ServiceError, match="unauthorized"):
        stranger.predict(png(0))
    images = [png(index) for index in range(10)]
    with Client(served.url, token=token, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        alone = [client.predict(image).label for image in images]
        asked = [pool.submit(lambda: [item.label for item in client.predict_many(images)]) for _ in range(8)]  # type: ignore[union-attr]
        assert [each.result() for each in asked] == [alone] * 8
        metrics = httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {token}"}, trust_env=False).text
    refused = re.findall(r'^rrr_requests_rejected_total\{reason="overloaded"\} (\S+)$', metrics, re.MULTILINE)
    assert sum(map(float, refused)) > 0, metrics
