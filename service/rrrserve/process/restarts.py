"""When a part that died is started again: at once, then after longer and longer pauses, and not for ever."""

import time
from collections import deque
from dataclasses import dataclass, field

from rrrnet.errors import CheckFailedError

DEFAULT_RESTARTS = 5
WITHIN_SECONDS = 120.0
# A part that worked this long was well: its next death is answered at once and begins a new series of pauses.
WELL_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass
class Restarts:
    """The restarts of one part.

    Attributes:
        part: what people call it.
        most: restarts within two minutes; the next death is the last.
    """

    part: str
    most: int
    _moments: deque[float] = field(default_factory=deque)
    _in_series: int = 0

    def next_pause(self, reason: str, *, well_seconds: float, now: float | None = None) -> tuple[float, str]:
        """How long to wait before the part is started again, in seconds, and which try it is, such as "2 of 5".

        Args:
            reason: why it died.
            well_seconds: how long it had worked before.
            now: clock of `time.monotonic`.

        Raises:
            CheckFailedError: it has died too often.
        """
        now = time.monotonic() if now is None else now
        while self._moments and now - self._moments[0] > WITHIN_SECONDS:
            self._moments.popleft()
        if len(self._moments) >= self.most:
            times = f"{self.most} time{'s' * (self.most != 1)}"
            raise CheckFailedError(
                f"{self.part} died after it had been started again {times} in {WITHIN_SECONDS:.0f} s: {reason}"
            )
        self._moments.append(now)
        self._in_series = 0 if well_seconds >= WELL_SECONDS else self._in_series + 1
        pause = (
            min(_FIRST_PAUSE_SECONDS * 2 ** (self._in_series - 1), _LONGEST_PAUSE_SECONDS) if self._in_series else 0.0
        )
        return pause, f"{len(self._moments)} of {self.most}"
