"""A mix of good and bad requests to a running service, seeded, with every answer judged."""

import base64
import contextlib
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from harness.bad_requests import REFUSED
from harness.clients import difference, essence
from harness.raw_http import FORM, JSON, Answer, connect, file_part, form, receive, request, send

_BATCH = 4


@dataclass(frozen=True)
class Good:
    """A request that must be answered with 200, and what its answer must say.

    Attributes:
        data: the bytes to send.
        golden: for each image, the probability of each label; None where any answer of status 200 will do.
    """

    data: bytes
    golden: Sequence[Mapping[str, float]] | None

    def fault(self, answer: Answer) -> str:
        """What is wrong with an answer; empty if nothing is."""
        if answer.status != 200:
            return f"a good request was answered {answer.status} {answer.code}"
        if self.golden is None:
            return ""
        found = _essences(answer)
        faults = [difference(*pair) for pair in zip(found, self.golden, strict=True)]
        return next((f"a wrong answer: {fault}" for fault in faults if fault), "")


@dataclass
class Tally:
    """What came back.

    Attributes:
        statuses: answers by status.
        faults: what should not have been.
        gone: requests whose client did not wait for the answer.
    """

    statuses: Counter[int | None] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    gone: int = 0

    def add(self, status: int | None, fault: str) -> None:
        """Count one answer."""
        self.statuses[status] += 1
        if fault:
            self.faults.append(fault)


def good_requests(url: str, images: Sequence[bytes]) -> list[Good]:
    """Every way to send an image, and the reading routes, with the answers of a service to which nothing has happened.

    Args:
        url: of the service.
        images: encoded.
    """
    batch = images[:_BATCH]
    as_text = [base64.b64encode(image).decode() for image in images]
    asking = [request(image) for image in images]
    asking += [request(image, path="/v1/predict?members=true", content_type="image/jpeg") for image in images]
    asking += [request(form(file_part(image)), content_type=FORM) for image in images]
    asking += [request(json.dumps({"image": text}).encode(), content_type=JSON) for text in as_text]
    batches = [
        request(
            form(*(file_part(image, name="images") for image in batch)), path="/v1/predict_batch", content_type=FORM
        ),
        request(json.dumps({"images": as_text[:_BATCH]}).encode(), path="/v1/predict_batch", content_type=JSON),
    ]
    reading = [
        request(method="GET", path=path) for path in ("/v1/models", "/readyz", "/livez", "/metrics", "/metrics/triton")
    ]
    judged = [Good(data, _essences(send(url, data))) for data in asking + batches]
    return judged + [Good(data, None) for data in reading]


def _essences(answer: Answer) -> list[dict[str, float]]:
    document: Mapping[str, Any] = json.loads(answer.body)
    return [essence(item) for item in document.get("results", [document])]


class Soak:
    """Clients in threads that send a seeded mix.

    Args:
        url: of the service.
        good: what they may send that must be answered, each on a connection that is kept.
        bad_share: of the requests that come from `bad_requests.REFUSED`, each on a connection of its own; one in ten
            of them is a good one whose client goes away at once.
        seed: of the mix.
    """

    def __init__(self, url: str, good: Sequence[Good], *, bad_share: float, seed: int) -> None:
        self._url = url
        self._good = good
        self._bad_share = bad_share
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.tally = Tally()

    def send(self, count: int, concurrency: int) -> None:
        """Send so many requests; all connections are closed when this returns."""
        turns = iter([(self._random.random(), self._random.random()) for _ in range(count)])
        with ThreadPoolExecutor(concurrency) as pool:
            for client in [pool.submit(self._client, turns) for _ in range(concurrency)]:
                client.result()

    def _client(self, turns: Iterator[tuple[float, float]]) -> None:
        kept: socket.socket | None = None
        try:
            while True:
                with self._lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                kind, which = turn
                if kind < self._bad_share / 10:
                    self._go_away(self._good[int(which * len(self._good))])
                elif kind < self._bad_share:
                    self._bad(*REFUSED[int(which * len(REFUSED))])
                else:
                    kept = self._ask(kept or connect(self._url), self._good[int(which * len(self._good))])
        finally:
            if kept is not None:
                kept.close()

    def _ask(self, kept: socket.socket, good: Good) -> socket.socket | None:
        """Ask on a kept connection, which is returned if it can be used again."""
        with contextlib.suppress(OSError):  # then there is no answer, which is counted
            kept.sendall(good.data)
        answer = receive(kept)
        self._count(answer.status, good.fault(answer))
        if answer.status is not None and answer.headers.get("connection") != "close":
            return kept
        kept.close()
        return None

    def _bad(self, what: str, data: bytes, status: int, code: str) -> None:
        head = data.startswith(b"HEAD")
        answer = send(self._url, data, method="HEAD" if head else "POST")
        expected = (status, "" if head else code)
        found = (answer.status, answer.code)
        self._count(answer.status, "" if found == expected else f"{what}: answered {found} instead of {expected}")

    def _go_away(self, good: Good) -> None:
        with connect(self._url) as opened:
            opened.sendall(good.data)
        with self._lock:
            self.tally.gone += 1

    def _count(self, status: int | None, fault: str) -> None:
        with self._lock:
            self.tally.add(status, fault)
