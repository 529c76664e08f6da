"""One limit for all work that is under way: what is over it is refused at once instead of waiting in a queue."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rrrserve.api.errors import APIError
from rrrserve.state.shared_state import SharedState

LEAST_IN_FLIGHT = 64
_SHARE_OF_DEADLINE = 0.5  # the rest is for reading, decoding and bad luck
_LEARNING_RATE = 0.05


def default_in_flight(largest_batch: int) -> int:
    """Images in flight that keep a model busy: one full batch that runs, and one that waits; 64 at least."""
    return max(LEAST_IN_FLIGHT, 2 * largest_batch)


class Queue(NamedTuple):
    """What is under way, in all workers.

    Attributes:
        images: how many.
        seconds: how long they will take, going by those that were answered last.
    """

    images: int
    seconds: float


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
        of_each_triton: whether it is that of each Triton, where there are several.
    """

    def __init__(self, state: SharedState, max_images: int, *, of_each_triton: bool = False) -> None:
        self._state = state
        self._max_images_given = max_images
        self._of_each_triton = of_each_triton
        self._seconds_per_image = 0.0

    def check(self, seconds_left: float) -> None:
        """Refuse what cannot be done now.

        Args:
            seconds_left: until the request's deadline.

        Raises:
            APIError: `overloaded`.
        """
        queue = self.queue()
        if queue.images >= self._max_images:
            raise APIError("overloaded", f"{self._max_images} images are being worked on, the most that is allowed")
        if self.load(queue, seconds_left) >= 1:
            message = f"{queue.images} images are being worked on: too many for the request's deadline"
            raise APIError("overloaded", message)

    @property
    def _max_images(self) -> int:
        tritons = max(1, self._state.triton.known) if self._of_each_triton else 1
        return self._max_images_given * tritons

    def queue(self) -> Queue:
        """What is under way now."""
        images = self._state.total()
        return Queue(images, images * self._seconds_per_image)

    def load(self, queue: Queue, seconds_left: float) -> float:
        """How near a request would be to being refused: 0 where nothing is under way, 1 and more where `check` does it.

        Args:
            queue: what is under way.
            seconds_left: until the request's deadline; when that has passed, waiting is not what it lacks.
        """
        load = queue.images / self._max_images
        return max(load, queue.seconds / (seconds_left * _SHARE_OF_DEADLINE)) if seconds_left > 0 else load

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
        self._state.note_request()
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
