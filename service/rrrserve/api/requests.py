"""From an HTTP request to checked values: request id, options, deadline, images."""

import asyncio
import base64
import binascii
import functools
import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NoReturn

from rrrserve.api.errors import APIError
from rrrserve.api.multipart import Part, parse_multipart

Headers = dict[bytes, bytes]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
OPTIONS = ("top_k", "members")
# `curl --data-binary @cat.jpg` announces a form, and `curl -T cat.jpg` nothing at all; both mean the raw image.
_RAW_TYPES = (b"", b"application/octet-stream", b"application/x-www-form-urlencoded")
DEFAULT_TOP_K = 5
# Headers that change how a request is read.
_READ_ONCE = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"host",
    b"transfer-encoding",
    b"x-request-id",
    b"x-request-timeout-ms",
)
# A document as we read it has few of these; one of 10 MB with many would take 30 times its size in memory.
_STRUCTURE = (b"{", b"[", b",")
_MOST_STRUCTURE = 2048
_MOST_SHOWN = 40
_INLINE_BYTES = 64 * 1024  # a larger body is taken apart on a thread, so that the event loop keeps answering
_NO_VALUE = ("", "null")  # what Swagger UI and BentoML's clients send for an option that was not given


@dataclass(frozen=True)
class Options:
    """What a client may choose: number of labels (1 to num_classes), and whether members are listed."""

    top_k: int
    members: bool


def headers_of(raw: Sequence[tuple[bytes, bytes]]) -> Headers:
    """ASGI headers by lower-case name; of a repeated header that is not read here the last one counts.

    Raises:
        APIError: `bad_request`, for a header that is read here and is given twice: which one counts is not for us to
            say, since a proxy before us may have read the other one.
    """
    headers = dict(raw)
    if len(headers) != len(raw):
        names = [name for name, _ in raw]
        for name in _READ_ONCE:
            if names.count(name) > 1:
                raise APIError("bad_request", f"the header {name.decode()} is given twice")
    return headers


def request_id(headers: Headers) -> str:
    """The client's X-Request-ID, or a new one.

    Raises:
        APIError: `bad_request`, for an id that is not 1 to 64 letters, digits, dots, underscores or hyphens.
    """
    sent = headers.get(b"x-request-id")
    if sent is None:
        return secrets.token_hex(8)
    if not _REQUEST_ID.fullmatch(sent):
        raise APIError("bad_request", "X-Request-ID must be 1 to 64 letters, digits, dots, underscores or hyphens")
    return sent.decode()


def timeout_ms(headers: Headers, *, default: int, largest: int) -> int:
    """The client's X-Request-Timeout-Ms, cut to `largest`, or the default.

    Raises:
        APIError: `bad_request`, for anything but a whole number from 1.
    """
    sent = headers.get(b"x-request-timeout-ms")
    if sent is None:
        return default
    digits = sent.lstrip(b"0")
    if not (sent.isdigit() and digits):
        raise APIError("bad_request", "X-Request-Timeout-Ms must be a whole number of milliseconds, at least 1")
    return min(int(digits), largest) if len(digits) <= len(str(largest)) else largest


def options_of(query: Iterable[tuple[str, str]], *, num_classes: int) -> Options:
    """The query parameters `top_k` and `members`.

    Raises:
        APIError: `bad_request`, for an unknown or repeated parameter or a value that is not allowed.
    """
    values: dict[str, str] = {}
    for name, value in query:
        if name not in OPTIONS:
            raise APIError("bad_request", f"unknown query parameter {_shown(name)}: known are {' and '.join(OPTIONS)}")
        if name in values:
            raise APIError("bad_request", f"{name} is given twice")
        values[name] = value
    top_k = values.get("top_k", "")
    if "top_k" in values and not (
        top_k.isascii() and top_k.isdigit() and len(top_k) <= 6 and 1 <= int(top_k) <= num_classes
    ):
        raise APIError("bad_request", f"top_k must be a whole number from 1 to {num_classes}")
    if values.get("members", "false") not in ("true", "false"):
        raise APIError("bad_request", "members must be true or false")
    return Options(int(top_k) if top_k else min(DEFAULT_TOP_K, num_classes), values.get("members") == "true")


@dataclass(frozen=True)
class Unpacked:
    """What a body holds: 1 or more encoded images, and options as in a query."""

    images: list[bytes]
    options: Sequence[tuple[str, str]] = ()


def contents_of(body: bytes, headers: Headers, *, field: str, most: int, options: Sequence[str] = ()) -> Unpacked:
    """The encoded images of a request, and its options where the body may hold some.

    Args:
        body: the whole body.
        headers: the request's.
        field: `image` or `images`, the name of the multipart field and of the JSON key.
        most: images allowed; 1 on the route for a single image.
        options: names of text fields and JSON keys that are allowed beside the images.

    Raises:
        APIError: the body holds no such thing; see `ERRORS`.
    """
    content_type = headers.get(b"content-type", b"")
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        unpacked = _from_parts(parse_multipart(body, content_type), field, options)
    elif kind == b"application/json":
        unpacked = _from_json(body, field, options, single=field == "image")
    elif kind in _RAW_TYPES or kind.startswith(b"image/"):
        if field == "images":
            raise APIError("missing_image", "a batch is sent as multipart/form-data with a field images for each image")
        unpacked = Unpacked([body] if body else [])
    else:
        raise APIError(
            "unsupported_media_type",
            "Content-Type must be multipart/form-data, application/json, image/... or application/octet-stream",
        )
    number = len(unpacked.images)
    if not number:
        raise APIError("missing_image", f"no image: send the multipart field {field}, the raw image, or JSON")
    if number > most:
        code, what = (
            ("too_many_images", "this route takes one") if most == 1 else ("batch_too_large", f"most is {most}")
        )
        raise APIError(code, f"{number} images: {what}")
    return unpacked


async def unpack(
    body: bytes, headers: Headers, *, field: str, most: int, options: Sequence[str], threads: Executor
) -> Unpacked:
    """`contents_of`, for a large body on one of `threads`."""
    work = functools.partial(contents_of, body, headers, field=field, most=most, options=options)
    if len(body) <= _INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _from_parts(parts: list[Part], field: str, options: Sequence[str]) -> Unpacked:
    images, found = [], []
    for part in parts:
        if part.name in options and not part.is_file:
            found.append((part.name, part.data.decode("utf-8", "replace")))
        elif part.name != field:
            missing = all(other.name != field for other in parts)
            code, what = ("missing_image", "no image in the") if missing else ("bad_request", "unknown")
            raise APIError(code, f"{what} multipart field {_shown(part.name)}: this route reads {field}")
        elif not part.is_file:
            raise APIError("not_a_file", f"the field {field} must be an uploaded file (curl -F {field}=@cat.jpg)")
        else:
            images.append(bytes(part.data))
    return Unpacked(images, [(name, text) for name, text in found if text not in _NO_VALUE])


def _from_json(body: bytes, field: str, options: Sequence[str], *, single: bool) -> Unpacked:
    shape = f'{{"{field}": "<base64>"}}' if single else f'{{"{field}": ["<base64>", ...]}}'
    if sum(map(body.count, _STRUCTURE)) > _MOST_STRUCTURE:
        raise APIError("bad_request", f"the JSON body must be {shape}; this one has too many values")

    def refuse_constant(name: str) -> NoReturn:
        raise APIError("bad_json", f"{name} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
            raise APIError("bad_request", f"the key {_shown(twice)} is given twice")
        return dict(pairs)

    try:
        document = json.loads(body.decode("utf-8"), parse_constant=refuse_constant, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise APIError("bad_json", "the body is not valid JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise APIError("bad_request", f"the JSON body must be {shape}")
    found = [(name, json.dumps(document.pop(name))) for name in options if name in document]
    unknown = next((key for key in document if key != field), None)
    if unknown is not None:
        raise APIError(
            "bad_request", f"unknown key {_shown(unknown)}: the JSON body must be {shape} with no other keys"
        )
    if field not in document:
        raise APIError("missing_image", f"no image: the JSON body must be {shape}")
    texts = [document[field]] if single else document[field]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise APIError("bad_request", f"{field} must be {'a string' if single else 'a list of strings'} of base64")
    try:
        images = [_from_base64(text) for text in texts]
    except ValueError as error:
        raise APIError("bad_request", f"{field} is not valid base64") from error
    return Unpacked(images, [(name, text) for name, text in found if text not in _NO_VALUE])


def _from_base64(text: str) -> bytes:
    if len(text) % 4 or text.endswith("==="):  # b64decode passes over padding that is too long
        raise binascii.Error
    return base64.b64decode(text, validate=True)


def _shown(name: str) -> str:
    """A client's own word in a message: short, and in ASCII, since JSON can hold halves of characters."""
    return ascii(name if len(name) <= _MOST_SHOWN else name[:_MOST_SHOWN] + "...")
