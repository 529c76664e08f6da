"""One limit for all work that is under way: what is over it is refused at once instead of waiting in a queue."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rrrserve.api.errors import APIError
from rrrserve.state.shared_state import SharedState

LEAST_IN_FLIGHT = 64
_SHARE_OF_DEADLINE = 0.5  # the rest is for reading, decoding and bad luck
_LEARNING_RATE = 0.05


def default_in_flight(largest_batch: int) -> int:
    """Images in flight that keep a model busy: one full batch that runs, and one that waits; 64 at least."""
    return max(LEAST_IN_FLIGHT, 2 * largest_batch)


class Admission:
    """Admits work while little enough is under way, in all workers together, that it can be done in time.

    Two limits: a number of images, and half of the request's deadline: the time that the images before it will take,
    going by those that were answered last. The second also keeps a batch from being filled further than the deadline
    allows. Alone, a request is always admitted.

    A request with several images is admitted whole, so that a large batch is not shut out by many single images; the
    first limit is passed by at most the images of one request in each worker.

    Args:
        state: counts images in all workers.
        max_images: the first limit.
    """

    def __init__(self, state: SharedState, max_images: int) -> None:
        self._state = state
        self._max_images = max_images
        self._seconds_per_image = 0.0

    def check(self, seconds_left: float) -> None:
        """Refuse what cannot be done now.

        Args:
            seconds_left: until the request's deadline.

        Raises:
            APIError: `overloaded`.
        """
        images = self._state.total()
        if images >= self._max_images:
            raise APIError("overloaded", f"{self._max_images} images are being worked on, the most that is allowed")
        if self.load(seconds_left) >= 1:
            raise APIError("overloaded", f"{images} images are being worked on: too many for the request's deadline")

    def load(self, seconds_left: float) -> float:
        """How near requests are to being refused: 0 when nothing is under way, 1 and more where `check` does it.

        Args:
            seconds_left: until a request's deadline; when that has passed, waiting is not what it lacks.
        """
        images = self._state.total()
        load = images / self._max_images
        if seconds_left <= 0:
            return load
        return max(load, images * self._seconds_per_image / (seconds_left * _SHARE_OF_DEADLINE))

    @contextmanager
    def admitted(self, images: int, seconds_left: float) -> Iterator[None]:
        """Hold a place for `images` images while the body of the `with` statement runs.

        Args:
            images: of the request.
            seconds_left: until its deadline.

        Raises:
            APIError: `overloaded`.
        """
        self.check(seconds_left)
        self._state.add(images)
        together = max(images, self._state.total())
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            # What failed tells nothing, unless it had already taken longer than others: it may have been too slow.
            self._learn(max(self._seconds_per_image, (time.perf_counter() - start) / together))
            raise
        else:
            self._learn((time.perf_counter() - start) / together)
        finally:
            self._state.add(-images)

    def _learn(self, seconds_per_image: float) -> None:
        """Little's law: what is under way, divided by the time it takes, is done per second."""
        self._seconds_per_image += _LEARNING_RATE * (seconds_per_image - self._seconds_per_image)
