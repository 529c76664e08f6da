"""Which pages of other origins may ask, and read what is answered: https://fetch.spec.whatwg.org/#http-cors-protocol.

Cookies and other credentials of a browser play no part: a page sends its token in the header Authorization itself.
"""

from collections.abc import Sequence
from typing import Self

Fields = Sequence[tuple[bytes, bytes]]

ANY = "*"
_READABLE = b"X-Request-ID, Retry-After, X-RRR-Ignored"
_PREFLIGHT: dict[str, str] = {
    "Access-Control-Allow-Methods": "GET, POST, PUT",
    # `*` is every header but this one. What is none of ours is passed over, such as those that tracers of pages add.
    "Access-Control-Allow-Headers": "Authorization, *",
    "Access-Control-Max-Age": "7200",  # the longest that Chromium keeps it
}


class Cors:
    """The origins that may ask.

    Args:
        origins: as browsers write them, or `*`.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._any = ANY in origins

    @classmethod
    def of(cls, origins: Sequence[str]) -> Self | None:
        """None where no page of another origin may ask."""
        return cls(origins) if origins else None

    def fields(self, sent: Fields) -> Fields:
        """What is added to the header of every answer, an error's too.

        Args:
            sent: the request's header.
        """
        origin = _value(sent, b"origin")
        vary = (b"vary", b"Origin")  # also for others: a cache must not give an answer without the rest to a page
        if origin is None or not self._allows(origin):
            return (vary,)
        allowed = b"*" if self._any else origin
        readable = (b"access-control-expose-headers", _READABLE)
        return (vary, (b"access-control-allow-origin", allowed), readable)

    def preflight(self, sent: Fields) -> dict[str, str] | None:
        """What the answer to a preflight allows, beside `fields`; None for an origin that may not ask.

        Args:
            sent: the preflight's header.
        """
        origin = _value(sent, b"origin")
        return _PREFLIGHT if origin is not None and self._allows(origin) else None

    def _allows(self, origin: bytes) -> bool:
        return self._any or origin in self._origins


def is_preflight(method: str, sent: Fields) -> bool:
    """Whether a browser asks on behalf of a page whether it may ask."""
    return method == "OPTIONS" and None not in (_value(sent, b"origin"), _value(sent, b"access-control-request-method"))


def _value(sent: Fields, name: bytes) -> bytes | None:
    return next((value for field, value in sent if field == name), None)
