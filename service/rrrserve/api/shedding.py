"""Under load a cascade's first members answer alone before anything is refused: members are shed, not requests."""

import time
from dataclasses import replace

from rrrbuild.cascade_runner import AUTO, FAST
from rrrbuild.repository_document import ServedModel
from rrrserve.api.admission import Admission
from rrrserve.api.requests import Options
from rrrserve.metrics.instruments import SHED

# Shares of the load at which requests are refused. Far apart: the first members alone are done sooner, so that the same
# requests weigh less once members are shed, by a factor of two or so.
_ENTER, _LEAVE = 0.5, 0.25
# Shedding ends after so long below `_LEAVE`: a load between what `auto` and `fast` can bear would else change back and
# forth with every queue that it drains.
_CALM_SECONDS = 3.0


class Shedding:
    """Turns effort `auto` into `fast` while the load is high; `fast` and `full` were asked for and stay.

    Each HTTP worker decides for itself, by the load of all.

    Args:
        admission: knows the load.
        enabled: whether members are shed at all.
    """

    def __init__(self, admission: Admission, *, enabled: bool) -> None:
        self._admission, self._enabled = admission, enabled
        self._until = 0.0

    def apply(self, model: ServedModel, options: Options, seconds_left: float) -> Options:
        """What a request is answered by.

        Args:
            model: which model it asks.
            options: what it asks for.
            seconds_left: until its deadline.
        """
        if not self._enabled or model.cascade is None or options.effort != AUTO:
            return options
        now = time.monotonic()
        if self._admission.load(seconds_left) >= (_LEAVE if now < self._until else _ENTER):
            self._until = now + _CALM_SECONDS
        if now >= self._until:
            return options
        SHED.labels(model.name).inc()
        return replace(options, effort=FAST)
