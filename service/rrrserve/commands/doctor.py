"""`rrr doctor`: what this machine has, what works here, and what to do about the rest."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from rrrnet import __version__, output, tables
from rrrnet.errors import CheckFailedError

if TYPE_CHECKING:
    from rrrserve.commands.doctor_checks import Check

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    artifacts: Annotated[
        Path, typer.Option(metavar="FOLDER", help="where checkpoints and engines are to be written")
    ] = Path("artifacts"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, CPU, GPU, Triton, ports and disk; exit code 0 if serving works here, 1 if not."""
    from rrrbuild.commands.first_step import first_step
    from rrrbuild.machine import describe
    from rrrserve.commands.doctor_checks import diagnose
    from rrrserve.stamps import environment

    checks = diagnose(artifacts)
    failed = [check.name for check in checks if check.status == "fail"]
    if as_json:
        document = {
            "ok": not failed,
            "checks": [vars(check) for check in checks],
            "versions": {"python": platform.python_version(), **environment.describe()["versions"]},
            "machine": {"system": platform.platform(), **describe()},
        }
        output.print_json(document)
    else:
        tables.print_pairs((check.name, _told(check)) for check in checks)
        output.print_line(f"rrr {__version__}, Python {platform.python_version()}, {platform.platform()}")
        mend = next((check.command for check in checks if check.status == "fail" and check.command), "")
        if not failed:
            output.next_step(*first_step(artifacts))
        elif mend:
            output.print_line(f"next: {mend}")
    if failed:
        raise CheckFailedError(f"serving does not work here: see {', '.join(failed)}")


def _told(check: "Check") -> Text:
    """`ok    what was found`, and for the rest what to do, in one line: a command in it can be pasted."""
    advice = f": {check.advice}" if check.advice else ""
    return Text.assemble((check.status.ljust(6), _COLOURS[check.status]), check.found + advice)
