"""Bytes to a server's port and its answers back, for requests that no HTTP client would send."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "rrr-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: None where the connection was closed, or the time passed, without an answer.
        headers: by lower-case name.
        body: of the answer.
        seconds: from the first byte sent to the end of the answer.
    """

    status: int | None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    @property
    def code(self) -> str:
        """The error's code; empty where the body is no error."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(self.body)["error"]["code"])
        return ""


def request(
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = "/v1/predict",
    content_type: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """A whole HTTP/1.1 request with a Content-Length."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    framed = any(name.lower() in ("content-length", "transfer-encoding") for name, _ in headers)
    if not framed and (body or method != "GET"):
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def form(*parts: tuple[str, bytes], end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    """A multipart body; each part is (parameters of Content-Disposition, data)."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; "
    return b"".join(head.encode() + name.encode() + b"\r\n\r\n" + data + b"\r\n" for name, data in parts) + end


def file_part(data: bytes, *, name: str = "image", filename: str = "a.jpg") -> tuple[str, bytes]:
    """A part of a form that is an uploaded file."""
    return f'name="{name}"; filename="{filename}"', data


def chunked(body: bytes, size: int) -> bytes:
    """A body in chunks of `size` bytes."""
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def connect(url: str, *, timeout_seconds: float = 20.0) -> socket.socket:
    """A connection to the server of a URL."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{url} names no host and port")
    return socket.create_connection((parts.hostname, parts.port), timeout_seconds)


def send(url: str, data: bytes | Iterable[bytes], *, method: str = "POST", timeout_seconds: float = 20.0) -> Answer:
    """Send bytes, all at once or in pieces, on a connection of their own, and read one answer.

    A server may answer and close before all is sent: the answer counts.
    """
    start = time.perf_counter()
    with connect(url, timeout_seconds=timeout_seconds) as opened:
        with contextlib.suppress(ConnectionError, TimeoutError):
            for piece in [data] if isinstance(data, bytes) else data:
                opened.sendall(piece)
        return receive(opened, method=method, start=start)


def receive(opened: socket.socket, *, method: str = "POST", start: float | None = None) -> Answer:
    """Read one answer."""
    start = time.perf_counter() if start is None else start
    response = http.client.HTTPResponse(opened, method=method)
    try:
        response.begin()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return Answer(None, seconds=time.perf_counter() - start)
    finally:
        response.close()
    seconds = time.perf_counter() - start
    return Answer(response.status, _headers(response), body, seconds)


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    found: Any = response.getheaders()
    return {name.lower(): value for name, value in found}


def closed_within(opened: socket.socket, seconds: float) -> bool:
    """Whether the server closes the connection in that time; what it sends until then is thrown away."""
    end = time.perf_counter() + seconds
    try:
        while (left := end - time.perf_counter()) > 0:
            opened.settimeout(left)
            if opened.recv(65536) == b"":
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False
