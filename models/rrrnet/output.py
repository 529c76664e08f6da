"""What commands print: progress, lines and the next step for people, JSON for programs; tables are in `tables`.

A line is never broken: whoever pastes a path or a command from it gets all of it, however narrow the terminal.
"""

import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, RenderableType
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

_BAR_WIDTH = 24

# Without emoji: `:key:` in a name is no picture.
console = Console(emoji=False)
# Progress and remarks go to standard error, so that `--json` and tables can be piped.
messages = Console(stderr=True, emoji=False)


def say(text: str) -> None:
    """Write a line to standard error as it is: brackets are no markup, and paths and commands are not broken."""
    print_line(text, to=messages)


def print_line(text: str, *, to: Console = console) -> None:
    """Write a line to standard output, or to another console, as it is."""
    to.print(Text(text), soft_wrap=True)


def next_step(*words: object, to: Console = console) -> None:
    """Write `next: COMMAND`, what a person wants to do now: the last line of a command that ended well.

    Args:
        words: of the command, paths as they were given; quoted here, so that a shell takes the line as it stands.
        to: where the command writes what is for people.
    """
    print_line("next: " + quoted(*words), to=to)


def quoted(*words: object) -> str:
    """Words as one line for a shell; what cannot be printed (or is no UTF-8) in `$'...'`, as bash and zsh read it."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    letters = (
        letter if letter.isprintable() and letter not in "\\'" else "".join(f"\\x{byte:02x}" for byte in _bytes(letter))
        for letter in word
    )
    return f"$'{''.join(letters)}'"


def _bytes(letter: str) -> bytes:
    return letter.encode("utf-8", "surrogateescape")


def print_json(document: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def progress_bar(*, refresh_per_second: float = 10, speed_over_seconds: float = 30) -> Progress:
    """A progress bar on standard error with a count, elapsed and remaining time; below it free text (`fields[text]`).

    Where standard error is no terminal: a plain line every 30 s and one at the end.

    Args:
        refresh_per_second: how often it is drawn, which takes the interpreter 1 ms each time.
        speed_over_seconds: the time that is left is told by the speed of the last so many seconds.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(_BAR_WIDTH),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    kind = _Bar if messages.is_terminal else _Lines
    return kind(
        *columns,
        console=messages,
        transient=False,
        refresh_per_second=refresh_per_second,
        speed_estimate_period=speed_over_seconds,
    )


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
            say(f"{Text.from_markup(self._text).plain} ... {now - self._since:.0f} s")


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


class _Bar(Progress):
    """A bar, and each task's text below it: beside it, 80 columns would cut the numbers."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if text := task.fields.get("text"):
                yield Text.from_markup(f"  {text}", emoji=False)


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
                say(_line_of(task))

    def _tell(self) -> None:
        for task in self.tasks:
            if not task.finished or task is self.tasks[-1]:
                say(_line_of(task))


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
