"""What a client says and when, without a socket: generators of steps, for a client that waits and one that does not.

A step is `Send` (its answer is sent into the generator), `Wait`, or something for the caller.
"""

import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rrrnet.errors import ImageError
from rrrserve.client.answers import Answer, Model, ServiceError, models_of

if TYPE_CHECKING:
    import httpx

    from rrrnet.data.given import ImageLike

# Of a service with default limits; one with lower ones says so, and gets smaller batches.
MOST_IMAGES, MOST_BODY_BYTES = 32, 10 * 1024 * 1024
_PART_BYTES = 512  # about what a form adds to an image
_RETRIED = (429, 503)
_TOO_LARGE = 413
_FIRST_WAIT_SECONDS = 1.0  # where a refusal says no time that can be read, as a date or by a proxy

T = TypeVar("T")
Result: TypeAlias = Answer | ImageError
# Reads one image's part of a document: `answer_of`, `embedding_of`.
Read: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], T]


@dataclass(frozen=True)
class Send:
    """A request: `images` are the body, more than one as a form; `seconds` are left for its answer."""

    path: str
    seconds: float
    query: Mapping[str, str]
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Wait:
    """Nothing, for so many seconds."""

    seconds: float


Exchange: TypeAlias = Generator[Send | Wait, "httpx.Response | None", T]
Talk: TypeAlias = Generator[Send | Wait | T, "httpx.Response | None", None]


def ask_models(seconds: float) -> Talk[tuple[Model, ...]]:
    """Ask for the service's models."""
    document = yield from _exchange(Send("/v1/models", seconds, {}))
    yield _read(models_of, document)


def ask_one(request: Send, image: "ImageLike", read: Read[T]) -> Talk[T]:
    """Ask about an image."""
    document = yield from _exchange(replace(request, images=(_bytes(image),)))
    yield _read(read, document, document)


def ask_many(request: Send, images: "ImageLike | Iterable[ImageLike]", read: Read[T]) -> Talk[T | ImageError]:
    """Ask about images, a batch at a time; each that cannot be used is answered by why, in its place."""
    from rrrnet.data.given import as_bytes, several

    results: dict[int, T | ImageError] = {}
    waiting: list[tuple[int, bytes]] = []
    left, most, told, ended = enumerate(several(images)), MOST_IMAGES, 0, False
    while not ended or waiting:
        while not ended and len(waiting) < most and _body_bytes(waiting) < MOST_BODY_BYTES:
            index, image = next(left, (-1, b""))
            ended = index < 0
            try:
                waiting += [] if ended else [(index, as_bytes(image))]
            except ImageError as error:
                results[index] = error
        batch = waiting[:most]
        while len(batch) > 1 and _body_bytes(batch) > MOST_BODY_BYTES:
            batch.pop()
        if batch:
            try:
                answered = yield from _exchange(replace(request, images=tuple(body for _, body in batch)))
            except ServiceError as error:
                if error.status != _TOO_LARGE:
                    raise
                most = max(1, len(batch) // 2)
                if len(batch) > 1:
                    continue
                answered = {"results": [{"error": {"code": error.code or "body_too_large", "message": error.message}}]}
            results |= zip((index for index, _ in batch), _read(partial(_results_of, read), answered), strict=True)
            waiting = waiting[len(batch) :]
        while told in results:
            yield results.pop(told)
            told += 1


def _exchange(request: Send) -> Exchange[dict[str, Any]]:
    """Send a request until it is not refused for the moment only, or its time is over; the answer's document.

    Raises:
        ServiceError: it was refused.
    """
    end, patience = time.monotonic() + request.seconds, 1.0
    while True:
        response = yield replace(request, seconds=end - time.monotonic())
        assert response is not None  # noqa: S101 - whoever runs a talk answers what it sends
        try:
            return document_of(response)
        except ServiceError as error:
            # Longer each time, and not all clients at the same moment.
            pause = retry_after_seconds(response) * patience * random.uniform(1.0, 1.25)  # noqa: S311 - no secret
            if error.status not in _RETRIED or time.monotonic() + pause >= end:
                raise
            patience *= 2
        yield Wait(pause)


def _bytes(image: "ImageLike") -> bytes:
    if isinstance(image, bytes):
        return image  # without loading Pillow, for rrr predict
    from rrrnet.data.given import as_bytes

    return as_bytes(image)


def document_of(response: "httpx.Response") -> dict[str, Any]:
    """What a service answered.

    Raises:
        ServiceError: it refused; without a `code`, no rrr service answered.
    """
    try:
        document = response.json()
    except ValueError:
        document = None
    if response.is_success and isinstance(document, dict):
        return document
    reported = document.get("error") if isinstance(document, dict) else None
    if not isinstance(reported, dict) or "code" not in reported:
        raise _stranger(response.status_code)
    raise ServiceError(
        str(reported["code"]),
        str(reported.get("message")),
        request_id=str(reported.get("request_id", "")),
        status=response.status_code,
    )


def _stranger(status: int) -> ServiceError:
    return ServiceError("", f"HTTP {status} without an answer that is known: is this an rrr service?", status=status)


def _read(read: Callable[..., T], *documents: Mapping[str, Any]) -> T:
    try:
        return read(*documents)
    except (KeyError, TypeError, AttributeError) as error:
        raise _stranger(200) from error


def _results_of(read: Read[T], document: Mapping[str, Any]) -> list[T | ImageError]:
    return [
        ImageError(item["error"]["code"], item["error"]["message"]) if "error" in item else read(item, document)
        for item in document["results"]
    ]


def retry_after_seconds(response: "httpx.Response") -> float:
    """How long a refusal asks to wait; a second where it says no number, as a proxy may that names a date."""
    told = response.headers.get("Retry-After", "")
    return max(float(told), 0.1) if told.isdecimal() else _FIRST_WAIT_SECONDS


def _body_bytes(batch: list[tuple[int, bytes]]) -> int:
    return sum(len(body) + _PART_BYTES for _, body in batch)
