"""What the loops drive: something that sends a request and tells when the answer was there."""

from collections import Counter
from typing import NamedTuple, Protocol


class AnsweredBy(NamedTuple):
    """Who gave an answer.

    Attributes:
        effort: as the answer tells it; where a level tells none, the one that was asked for.
        members_used: how many members the answer is of.
        members: of the ensemble.
    """

    effort: str
    members_used: int
    members: int


class RequestFailedError(Exception):
    """A request without a usable answer.

    Attributes:
        kind: what it is counted under: an HTTP status ("503"), a gRPC code ("UNAVAILABLE") or an exception's name.
        answered: the server said no, as opposed to saying nothing.
    """

    def __init__(self, kind: str, *, answered: bool) -> None:
        super().__init__(kind)
        self.kind = kind
        self.answered = answered


class Client(Protocol):
    """Sends requests of one kind to one place; any number may be under way. Made inside a running event loop.

    Attributes:
        answered_by: answers (over HTTP) or images (else) so far, where they tell how many members they are of.
    """

    answered_by: Counter[AnsweredBy]

    async def ask(self, ticket: int) -> float:
        """Send request number `ticket`.

        Returns:
            `time.perf_counter()` when the last byte of the answer had come.

        Raises:
            RequestFailedError: no answer, or not the one that was wanted.
        """

    async def close(self) -> None:
        """Close every connection."""
