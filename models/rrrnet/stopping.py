"""Ctrl-C and SIGTERM during long work: the first asks it to stop where nothing is lost, the second stops it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rrrnet import output


@dataclass
class Stopping:
    """Whether work runs that a signal has to wait for, and whether a signal has come.

    Attributes:
        running: set by the work when it begins; before that a signal interrupts at once.
        stop: the work shall end.
    """

    running: bool = False
    stop: bool = False

    def check(self) -> None:
        """Interrupt here if a signal has come."""
        if self.stop:
            raise KeyboardInterrupt


@contextmanager
def stop_requested(words: str) -> Iterator[Stopping]:
    """While the body of the `with` statement runs, the first signal sets `stop`.

    Args:
        words: told then.
    """
    requested = Stopping()

    def on_signal(_number: int, _frame: Any) -> None:
        if requested.stop or not requested.running:
            raise KeyboardInterrupt
        requested.stop = True
        output.say(words)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
