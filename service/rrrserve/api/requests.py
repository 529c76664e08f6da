"""From an HTTP request to checked values: request id, options, deadline, images."""

import asyncio
import functools
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rrrbuild.cascade_runner import AUTO, EFFORTS
from rrrserve.api import near_misses, strict_json
from rrrserve.api.errors import APIError
from rrrserve.api.multipart import Part, parse_multipart
from rrrserve.api.near_misses import shown

Headers = dict[bytes, bytes]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
OPTIONS = ("top_k", "members", "timing", "effort", "coverage")
EFFORT_HEADER = "X-RRR-Effort"
_DECIMAL = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# `curl --data-binary @cat.jpg` announces a form, and `curl -T cat.jpg` nothing at all; both mean the raw image.
_RAW_TYPES = (b"", b"application/octet-stream", b"application/x-www-form-urlencoded", b"binary/octet-stream")
DEFAULT_TOP_K = 5
# Headers that change how a request is read.
_READ_ONCE = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"host",
    b"transfer-encoding",
    b"x-request-timeout-ms",
    b"x-route-key",
    b"x-rrr-effort",
)
_NONE_IF_TWICE = (b"x-request-id", b"traceparent", b"tracestate")
# A document as we read it has few of these; one of 10 MB with many would take 30 times its size in memory.
_STRUCTURE = (b"{", b"[", b",")
_MOST_STRUCTURE = 2048
_INLINE_BYTES = 64 * 1024  # a larger body is taken apart on a thread, so that the event loop keeps answering
_MOST_NAMES, _MOST_OF_A_NAME = 16, 64  # of what is ignored, in the header that tells of it
_NO_VALUE = ("", "null")  # what Swagger UI and BentoML's clients send for an option that was not given


@dataclass(frozen=True)
class Options:
    """What a client may choose.

    Attributes:
        top_k: number of labels, 1 to num_classes.
        members: whether each member's own label is listed.
        timing: whether the answer tells what took how long.
        effort: how many members are asked: one of `EFFORTS`.
        coverage: with which probability the answer's set shall hold the right label; None for no set.
        ignored: names of what was given and is no option.
    """

    top_k: int
    members: bool
    timing: bool = True
    effort: str = AUTO
    coverage: float | None = None
    ignored: tuple[str, ...] = ()


def headers_of(raw: Sequence[tuple[bytes, bytes]]) -> Headers:
    """ASGI headers by lower-case name; of a repeated header that is not read here the last one counts.

    An X-Request-ID or a traceparent that is given twice counts as none.

    Raises:
        APIError: `bad_request`, for a header that is read here and is given twice: which one counts is not for us to
            say, since a proxy before us may have read the other one.
    """
    headers = dict(raw)
    if len(headers) != len(raw):
        names = [name for name, _ in raw]
        for name in _NONE_IF_TWICE:
            if names.count(name) > 1:
                del headers[name]
        for name in _READ_ONCE:
            if names.count(name) > 1:
                raise APIError("bad_request", f"the header {name.decode()} is given twice")
    return headers


def request_id(headers: Headers) -> str:
    """The client's X-Request-ID if it is 1 to 64 letters, digits, dots, underscores or hyphens, else a new one."""
    sent = headers.get(b"x-request-id")
    return secrets.token_hex(8) if sent is None or not _REQUEST_ID.fullmatch(sent) else sent.decode()


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


def options_of(given: Iterable[tuple[str, str]], headers: Headers, *, num_classes: int) -> Options:
    """The options among query parameters, or among a body's fields; what is none is ignored, and named.

    Args:
        given: names and values.
        headers: the request's: X-RRR-Effort counts where `given` has no effort.
        num_classes: most labels that can be given.

    Raises:
        APIError: `bad_request`, for a repeated option or a value that is not allowed.
    """
    values: dict[str, str] = {}
    ignored: list[str] = []
    for name, value in given:
        if name not in OPTIONS:
            ignored.append(name)
        elif name in values:
            raise APIError("bad_request", f"{name} is given twice")
        else:
            values[name] = value
    return Options(
        _top_k(values.get("top_k"), num_classes),
        _flag("members", values, default="false"),
        _flag("timing", values, default="true"),
        _effort(values.get("effort"), headers),
        _coverage(values.get("coverage")),
        tuple(ignored),
    )


def together(query: Sequence[tuple[str, str]], body: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Options of a URL and of its request's body: what both give counts as the URL has it."""
    names = {name for name, _ in query}
    return [*query, *(option for option in body if option[0] not in names)]


def _top_k(text: str | None, num_classes: int) -> int:
    if text is None:
        return min(DEFAULT_TOP_K, num_classes)
    digits = text.lstrip("0")
    if not (digits and text.isascii() and text.isdigit()):
        raise APIError("bad_request", f"top_k must be a whole number from 1: it is {shown(text)}")
    return min(int(digits), num_classes) if len(digits) <= len(str(num_classes)) else num_classes


def _flag(name: str, values: dict[str, str], *, default: str) -> bool:
    text = values.get(name, default)
    if text.lower() not in ("true", "false"):  # Python's clients write True
        raise APIError("bad_request", f"{name} must be true or false: it is {shown(text)}")
    return text.lower() == "true"


def _effort(text: str | None, headers: Headers) -> str:
    name = "effort"
    if text is None:
        name, text = EFFORT_HEADER, headers.get(b"x-rrr-effort", AUTO.encode()).decode("latin-1")
    if text not in EFFORTS:
        raise APIError("bad_request", f"{name} must be {', '.join(EFFORTS[:-1])} or {EFFORTS[-1]}: it is {shown(text)}")
    return text


def _coverage(text: str | None) -> float | None:
    if text is None:
        return None
    if not (_DECIMAL.fullmatch(text) and 0 < (value := float(text)) < 1):
        message = f"coverage must be a number between 0 and 1, such as 0.95: it is {shown(text)}"
        raise APIError("bad_request", message)
    return value


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    """The header that names what was given and ignored: short, and in the characters of a URL, whatever was sent."""
    if not names:
        return {}
    once = list(dict.fromkeys(names))
    quoted = [quote(name[:_MOST_OF_A_NAME], safe="", errors="replace")[:_MOST_OF_A_NAME] for name in once[:_MOST_NAMES]]
    return {"X-RRR-Ignored": ", ".join([*quoted, *["..."] * (len(once) > _MOST_NAMES)])}


@dataclass(frozen=True)
class Unpacked:
    """What a body holds: 1 or more encoded images, options as in a query, and names of what is ignored."""

    images: list[bytes]
    options: Sequence[tuple[str, str]] = ()
    ignored: Sequence[str] = ()


def contents_of(body: bytes, headers: Headers, *, field: str, most: int) -> Unpacked:
    """The encoded images of a request, and its options where the body holds some.

    Args:
        body: the whole body.
        headers: the request's.
        field: `image` or `images`, the name of the multipart field and of the JSON key.
        most: images allowed; 1 on the route for a single image.

    Raises:
        APIError: the body holds no such thing; see `ERRORS`.
    """
    content_type = headers.get(b"content-type", b"")
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        unpacked = _from_parts(parse_multipart(body, content_type), field)
    elif kind == b"application/json" or kind.endswith(b"+json"):
        unpacked = _from_json(body, field)
    elif kind in _RAW_TYPES or kind.startswith(b"image/"):
        unpacked = _from_raw(body, kind, field)
    else:
        allowed = "multipart/form-data, application/json, image/... or application/octet-stream"
        message = f"the Content-Type is {shown(kind.decode('latin-1'))}: it must be {allowed}"
        raise APIError("unsupported_media_type", f"{message} ({near_misses.as_form(field)})")
    number = len(unpacked.images)
    if not number:
        ways = f"{near_misses.as_form(field)}, or {near_misses.as_json(field)}"
        raise APIError("missing_image", f"no image in the request: {ways}")
    if number > most:
        code, what = (
            ("too_many_images", "this route takes one, the one that ends in _batch takes several")
            if most == 1
            else ("batch_too_large", f"most is {most}")
        )
        raise APIError(code, f"{number} images: {what}")
    return unpacked


async def unpack(body: bytes, headers: Headers, *, field: str, most: int, threads: Executor) -> Unpacked:
    """`contents_of`, for a large body on one of `threads`."""
    work = functools.partial(contents_of, body, headers, field=field, most=most)
    if len(body) <= _INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _from_raw(body: bytes, kind: bytes, field: str) -> Unpacked:
    if (miss := near_misses.in_body(body, kind, field)) is not None:
        raise APIError(*miss)
    if field == "images":
        ways = f"{near_misses.as_form(field)}, or {near_misses.as_json(field)}"
        raise APIError("missing_image", f"a batch is sent as a form with a field images for each image: {ways}")
    return Unpacked([body] if body else [])


def _from_parts(parts: list[Part], field: str) -> Unpacked:
    images: list[bytes] = []
    found: list[tuple[str, str]] = []
    ignored: list[str] = []
    for part in parts:
        if part.name == field:
            if not part.is_file:
                raise APIError("not_a_file", near_misses.in_field(bytes(part.data), field))
            images.append(_bytes_of(part))
        elif part.name in OPTIONS and not part.is_file:
            found.append((part.name, part.data.decode("utf-8", "replace")))
        else:
            ignored.append(part.name)
    if ignored and (not images or any(part.is_file for part in parts if part.name != field)):
        names = ", ".join(shown(name) for name in ignored[:_MOST_NAMES])
        code, what = ("bad_request", "a file in an unknown field") if images else ("missing_image", "no image")
        raise APIError(code, f"{what}: the form has {names}, this route reads {field} ({near_misses.as_form(field)})")
    return Unpacked(images, _with_value(found), ignored)


def _bytes_of(part: Part) -> bytes:
    if not part.is_base64:
        return bytes(part.data)
    try:
        return near_misses.from_base64(part.data.decode("latin-1"))
    except ValueError as error:
        message = f"the field {part.name} is not the base64 that its Content-Transfer-Encoding announces"
        raise APIError("bad_multipart", message) from error


def _from_json(body: bytes, field: str) -> Unpacked:
    document = _json_object(body, field)
    found = [(name, _as_in_a_query(document.pop(name))) for name in OPTIONS if name in document]
    unknown = next((key for key in document if key != field), None)
    must_be = f"the JSON body must be {near_misses.shape(field)}"
    if unknown is not None:
        raise APIError("bad_request", f"unknown key {shown(unknown)}: {must_be}, with no other keys but options")
    if field not in document:
        raise APIError("missing_image", f"no image: {must_be}")
    single = field == "image"
    texts = [document[field]] if single else document[field]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise APIError("bad_request", f"{field} must be {'a string' if single else 'a list of strings'} of base64")
    images = []
    for text in texts:
        try:
            images.append(near_misses.from_base64(text))
        except ValueError as error:
            raise APIError("bad_request", near_misses.in_text(text, field)) from error
    return Unpacked(images, _with_value(found))


def _json_object(body: bytes, field: str) -> dict[str, Any]:
    must_be = f"the JSON body must be {near_misses.shape(field)}"
    if (what := near_misses.in_json(body, field)) is not None:
        raise APIError("bad_json", what)
    if sum(map(body.count, _STRUCTURE)) > _MOST_STRUCTURE:
        raise APIError("bad_request", f"{must_be}; this one has too many values")

    document = strict_json.loads(body, must_be)
    if not isinstance(document, dict):
        raise APIError("bad_request", must_be)
    return document


def _as_in_a_query(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()  # 2.0 is an integer to JSON Schema
    return json.dumps(int(value) if whole else value)


def _with_value(options: list[tuple[str, str]]) -> list[tuple[str, str]]:
    # BentoML's clients write JSON into the fields of a form too.
    given = [(name, text.strip('"') if name == "effort" else text) for name, text in options]
    return [(name, text) for name, text in given if text not in _NO_VALUE]
