"""What is answered without asking the application: a request, or a client, that is over a limit or no HTTP."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Code = Literal[
    "bad_http",
    "body_too_large",
    "header_too_large",
    "method_not_allowed",
    "overloaded",
    "request_timeout",
    "target_too_long",
]
Fields = Sequence[tuple[bytes, bytes]]
# Status, header fields and body.
Answer = tuple[int, Fields, bytes]
# Makes the answer from code, message, further header fields, and the request's target and header fields, as far as they
# were read: what it looks like is for others to say.
Render = Callable[[str, str, dict[str, str], bytes, Fields], Answer]


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818  it is an answer
    """Ends the parsing of a request.

    Attributes:
        code: what was wrong.
        message: the same for people, with what is allowed.
        headers: further fields of the answer.
    """

    code: Code
    message: str
    headers: dict[str, str] = field(default_factory=dict)


def closing_answer(answer: Answer) -> bytes:
    """The bytes of an answer after which the connection is closed."""
    status, headers, body = answer
    lines = [b"%s: %s\r\n" % pair for pair in headers if pair[0] != b"connection"]
    return b"".join((STATUS_LINE[status], *lines, b"connection: close\r\n\r\n", body))
