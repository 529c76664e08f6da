"""What the loops drive: something that sends a request and tells when the answer was there."""

from typing import Protocol


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
    """Sends requests of one kind to one place; any number may be under way. Made inside a running event loop."""

    async def ask(self, ticket: int) -> float:
        """Send request number `ticket`.

        Returns:
            `time.perf_counter()` when the last byte of the answer had come.

        Raises:
            RequestFailedError: no answer, or not the one that was wanted.
        """

    async def close(self) -> None:
        """Close every connection."""
