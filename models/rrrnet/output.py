"""What commands print: rich tables and progress for people, JSON for programs."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

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

    Args:
        refresh_per_second: how often it is drawn, which takes the interpreter 1 ms each time.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=messages,
        transient=False,
        refresh_per_second=refresh_per_second,
    )
