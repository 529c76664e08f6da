"""Images answered by a running `rrr serve`: a few requests under way, each of some images."""

import ssl
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from rrrnet.data.file_kinds import is_picture
from rrrnet.data.reading import read_image
from rrrnet.errors import CheckFailedError, ImageError, UsageError
from rrrserve.batch import remote
from rrrserve.batch.answers import Answered, Wanted, failed, row_of
from rrrserve.batch.listing import File
from rrrserve.batch.threads import in_order
from rrrserve.client.answers import ServiceError
from rrrserve.client.talk import document_of, retry_after_seconds
from rrrserve.net import tls

_UNDER_WAY = 4  # requests
_IMAGES = 16  # in a request: half of what a service takes unless it was told otherwise
_BYTES = 8_000_000  # in a request, likewise
_TIMEOUT_SECONDS = 60.0  # the longest deadline that a service takes unless it was told otherwise
_PATIENCE_SECONDS = 120.0  # with a service that answers nothing, or that it is too busy
_AGAIN = (429, 503)  # after the seconds of Retry-After
_SMALLER = (413, 504)  # in several requests


@dataclass(frozen=True)
class Service:
    """A model of a running service.

    Attributes:
        client: with its address, token and certificates; any number of threads may use it.
        url: as it was given.
        model: its name.
        labels: in the order of its outputs.
        stopping: no request is sent again from now on.
    """

    client: httpx.Client
    url: str
    model: str
    labels: tuple[str, ...]
    stopping: threading.Event


@contextmanager
def opened(url: str, model: str | None, headers: dict[str, str], trust: ssl.SSLContext) -> Iterator[Service]:
    """Ask a service what it serves.

    Raises:
        UsageError: it has no such model.
        CheckFailedError: it does not answer, or not like an rrr service.
    """
    with httpx.Client(
        base_url=url, timeout=_TIMEOUT_SECONDS + 5.0, trust_env=False, headers=headers, verify=trust
    ) as client:
        stopping = threading.Event()
        document = _answer(Service(client, url, "", (), stopping), "GET", "/v1/models")
        try:
            found = {row["name"]: tuple(row["labels"]) for row in document["models"]}
            name = model or document["default"]
        except (KeyError, TypeError) as error:
            raise CheckFailedError(f"{url}/v1/models gave no list of models: is this an rrr service?") from error
        if name not in found:
            raise UsageError(f"--model is {name!r}: {url} has {', '.join(found)}")
        yield Service(client, url, name, found[name], stopping)


def answers(service: Service, files: Iterable[File], wanted: Wanted) -> Generator[list[Answered]]:
    """What becomes of the files, in their order, some at a time.

    Raises:
        CheckFailedError: the service is gone, or refuses to answer at all.
    """

    def ask(chunk: list[File]) -> list[Answered]:
        loaded = [(file, _load(file)) for file in chunk]
        images = [(file, data) for file, data in loaded if isinstance(data, bytes)]
        told = iter(_ask(service, images, wanted))
        return [next(told) if isinstance(data, bytes) else data for _, data in loaded]

    with ThreadPoolExecutor(_UNDER_WAY, "ask") as pool:
        try:
            for _, answered in in_order(pool, ask, _chunks(files), 2 * _UNDER_WAY):
                yield answered
        finally:
            service.stopping.set()


def _chunks(files: Iterable[File]) -> Iterator[list[File]]:
    chunk: list[File] = []
    for file in files:
        chunk.append(file)
        if len(chunk) == _IMAGES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _load(file: File) -> bytes | Answered:
    """The bytes to send, or what becomes of the file without asking."""
    if file.problem:
        return failed(file, file.problem)
    try:
        data = remote.read(file.path) if remote.is_uri(file.path) else read_image(Path(file.path))
    except ImageError as error:
        return failed(file, f"{error} ({error.code})")
    if not data:
        return failed(file, "the image has 0 bytes (empty_image)")
    if not file.named and not is_picture(Path(file.path).name, data):
        return Answered(file.path, None)
    return data


def _ask(service: Service, images: list[tuple[File, bytes]], wanted: Wanted) -> list[Answered]:
    """One request, or where that is too much, several."""
    if not images:
        return []
    middle = len(images) // 2
    if middle and sum(len(data) for _, data in images) > _BYTES:
        return _ask(service, images[:middle], wanted) + _ask(service, images[middle:], wanted)
    labelled = any(file.truth is not None for file, _ in images)
    query: dict[str, Any] = {"top_k": len(service.labels) if labelled else wanted.top_k, "effort": wanted.effort}
    if wanted.coverage is not None:
        query["coverage"] = wanted.coverage
    try:
        results = _answer(
            service,
            "POST",
            f"/v1/models/{service.model}/predict_batch",
            params={**query, "timing": "false"},
            files=[("images", ("image", data, "application/octet-stream")) for _, data in images],
            headers={"X-Request-Timeout-Ms": str(int(1000 * _TIMEOUT_SECONDS))},
        )["results"]
    except ServiceError as error:
        if middle:
            return _ask(service, images[:middle], wanted) + _ask(service, images[middle:], wanted)
        results = [{"error": {"code": error.code, "message": error.message}}]
    return [_answered(service, file, item, wanted) for (file, _), item in zip(images, results, strict=True)]


def _answered(service: Service, file: File, item: dict[str, Any], wanted: Wanted) -> Answered:
    if (error := item.get("error")) is not None:
        return failed(file, f"{error['message']} ({error['code']})")
    scores = None
    if file.truth is not None:
        told = {prediction["label"]: prediction["probability"] for prediction in item["predictions"]}
        scores = np.array([[told[label] for label in service.labels]], np.float32)
    return Answered(file.path, row_of(file, item, wanted), scores)


def _answer(service: Service, method: str, path: str, **request: Any) -> dict[str, Any]:
    """What a service answers; a busy or restarting one is asked again, for so long.

    The clients of `rrrserve.client` give up where nobody answers and cannot be stopped while they wait.

    Raises:
        ServiceError: the images are too large, or too many for the time.
        CheckFailedError: it refused for another reason, or did not answer.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        wait_seconds = 1.0
        try:
            response = service.client.request(method, path, **request)
            return document_of(response)
        except httpx.TransportError as error:
            reason = tls.failure(error) or str(error) or type(error).__name__
            if method == "GET":
                end = 0.0  # nothing has been answered yet: no use in waiting
        except ServiceError as error:
            # One image too many pixels or bytes is about that image; a wrong token or model is about all.
            if error.status in _SMALLER and error.code:
                raise
            reason = str(error) if error.code else "is this an rrr service?"
            if error.status not in _AGAIN or not error.code:
                raise CheckFailedError(f"{service.url}{path} answered HTTP {error.status}: {reason}") from error
            wait_seconds = retry_after_seconds(response)
        if time.monotonic() + wait_seconds > end or service.stopping.wait(wait_seconds):
            raise CheckFailedError(
                f"no answer from {service.url} ({reason}): start the service with rrr serve, or name another --url"
            )
