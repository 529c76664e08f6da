"""What commands print: tables and progress for people, JSON for programs, plain lines where there is no terminal."""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_EVERY_SECONDS = 30.0

console = Console()
# Progress and remarks go to standard error, so that `--json` and tables can be piped.
messages = Console(stderr=True)


def say(text: str) -> None:
    """Write a line to standard error as it is: brackets are no markup, and paths and commands are not broken."""
    messages.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def progress_bar(*, refresh_per_second: float = 10) -> Progress:
    """A progress bar on standard error with a count, elapsed and remaining time and free text (`fields[text]`).

    Where standard error is no terminal: a plain line every 30 s and one at the end.

    Args:
        refresh_per_second: how often it is drawn, which takes the interpreter 1 ms each time.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    kind = Progress if messages.is_terminal else _Lines
    return kind(*columns, console=messages, transient=False, refresh_per_second=refresh_per_second)


class Working:
    """Says what runs now: a spinner, or without a terminal a line where nothing else was said for up to 30 s."""

    def __init__(self, text: str) -> None:
        self._text, self._since = text, time.monotonic()
        self._told = self._since
        self._status = messages.status(text) if messages.is_terminal else None
        self._ticker = _Ticker(self._tell, LINE_EVERY_SECONDS / 3)

    def __enter__(self) -> "Working":
        if self._status is not None:
            self._status.start()
        else:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
        else:
            self._ticker.stop()

    def update(self, text: str, *, said: bool = True) -> None:
        """Something else runs now, and the caller has `said` so; else it is the same work, further on.

        Args:
            text: markup.
            said: whether a line of the caller has told it.
        """
        self._text = text
        if said:
            self._since = self._told = time.monotonic()
        if self._status is not None:
            self._status.update(text)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= LINE_EVERY_SECONDS * 2 / 3:  # else the next tick would come after 30 s
            self._told = now
            _print_line(f"{Text.from_markup(self._text).plain} ... {now - self._since:.0f} s")


class _Ticker:
    """Calls `tick` every so many seconds in a thread of its own."""

    def __init__(self, tick: Callable[[], None], seconds: float) -> None:
        self._tick, self._seconds, self._ended = tick, seconds, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._tick()


class _Lines(Progress):
    """A progress bar's tasks as plain lines."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, disable=True, **options)
        self._ticker = _Ticker(self._tell, LINE_EVERY_SECONDS)

    def start(self) -> None:
        self._ticker.start()

    def stop(self) -> None:
        self._ticker.stop()
        for task in self.tasks:
            if task.completed > 0:
                _print_line(_line_of(task))

    def _tell(self) -> None:
        for task in self.tasks:
            if not task.finished or task is self.tasks[-1]:
                _print_line(_line_of(task))


def _line_of(task: Task) -> str:
    """`training: 120 of 780, 0:01:10 passed, 0:06:25 left, epoch 10 ...`."""
    parts = [] if task.total is None else [f"{task.completed:.0f} of {task.total:.0f}"]
    parts.append(f"{_clock(task.elapsed)} passed")
    if not task.finished and task.time_remaining is not None:
        parts.append(f"{_clock(task.time_remaining)} left")
    text = Text.from_markup(str(task.fields.get("text", ""))).plain
    return f"{task.description}: {', '.join([*parts, *([text] if text else [])])}"


def _clock(seconds: float | None) -> str:
    minutes, rest = divmod(int(seconds or 0), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _print_line(line: str) -> None:
    messages.print(line, markup=False, highlight=False, soft_wrap=True)
