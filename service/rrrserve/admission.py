"""One limit for all work that is under way: what is over it is refused at once instead of waiting in a queue."""

from collections.abc import Iterator
from contextlib import contextmanager

from rrrserve.errors import APIError
from rrrserve.shared_state import SharedState

LEAST_IN_FLIGHT = 64


def default_in_flight(largest_batch: int) -> int:
    """Images in flight that keep a model busy: one full batch that runs, and one that waits; 64 at least."""
    return max(LEAST_IN_FLIGHT, 2 * largest_batch)


class Admission:
    """Admits work while fewer than `max_images` images are being decoded or inferred in all workers together.

    A request with several images is admitted whole, so that a large batch is not shut out by many single images; the
    limit is passed by at most the images of one request in each worker.
    """

    def __init__(self, state: SharedState, max_images: int) -> None:
        self._state = state
        self._max_images = max_images

    def check(self) -> None:
        """Refuse while the limit is reached.

        Raises:
            APIError: `overloaded`.
        """
        if self._state.total() >= self._max_images:
            raise APIError("overloaded", f"{self._max_images} images are being worked on, the most that is allowed")

    @contextmanager
    def admitted(self, images: int) -> Iterator[None]:
        """Hold a place for `images` images while the body of the `with` statement runs.

        Raises:
            APIError: `overloaded`.
        """
        self.check()
        self._state.add(images)
        try:
            yield
        finally:
            self._state.add(-images)


class BodyMemory:
    """Counts the bytes of all bodies that this worker holds, so that many large ones cannot use up its memory."""

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes

    def take(self, size: int) -> None:
        """Count bytes that were received.

        Raises:
            APIError: `overloaded`, when there is no room for them; they are not counted then.
        """
        if size > self._free:
            raise APIError("overloaded", "too many large bodies are being received")
        self._free -= size

    def give_back(self, size: int) -> None:
        """Count bytes that are not needed any more."""
        self._free += size
