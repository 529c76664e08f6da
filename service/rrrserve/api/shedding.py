"""Under load a cascade's first members answer alone before anything is refused: members are shed, not requests."""

import time
from dataclasses import replace

from rrrbuild.cascade_runner import AUTO, FAST
from rrrbuild.repository_document import ServedModel
from rrrserve.api.admission import Admission, Queue
from rrrserve.api.requests import Options
from rrrserve.metrics.instruments import SHED

# Of the load at which a request would be refused.
_FROM = 0.5
# What was under way in this span of time, and in the one before, counts too: a load between what `auto` and `fast` can
# bear would else change back and forth with every queue that it drains.
_SPAN_SECONDS = 2.0
_NOTHING = Queue(0, 0.0)


class Shedding:
    """Turns effort `auto` into `fast` while much is under way; `fast` and `full` were asked for and stay.

    Each request is judged by its own deadline: who is in a hurry takes members from nobody else. Each HTTP worker
    decides for itself, by the load of all.

    Args:
        admission: knows the load.
        enabled: whether members are shed at all.
    """

    def __init__(self, admission: Admission, *, enabled: bool) -> None:
        self._admission, self._enabled = admission, enabled
        self._most_before = self._most_now = _NOTHING
        self._span = 0

    def apply(self, model: ServedModel, options: Options, seconds_left: float) -> Options:
        """What a request is answered by.

        Args:
            model: which model it asks.
            options: what it asks for.
            seconds_left: until its deadline.
        """
        if not self._enabled:
            return options
        load = self._admission.load(self._most_lately(), seconds_left)
        if load < _FROM or model.cascade is None or options.effort != AUTO:
            return options
        SHED.labels(model.name).inc()
        return replace(options, effort=FAST)

    def _most_lately(self) -> Queue:
        """The most that was under way when a request came, in the last two to four seconds."""
        span = int(time.monotonic() // _SPAN_SECONDS)
        if span != self._span:
            self._most_before = self._most_now if span == self._span + 1 else _NOTHING
            self._most_now, self._span = _NOTHING, span
        self._most_now = _larger(self._most_now, self._admission.queue())
        return _larger(self._most_before, self._most_now)


def _larger(one: Queue, other: Queue) -> Queue:
    return Queue(max(one.images, other.images), max(one.seconds, other.seconds))
