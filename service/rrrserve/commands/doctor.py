"""`rrr doctor`: what this machine has, what works here, and what to do about the rest."""

import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from rrrnet import __version__, output
from rrrnet.errors import CheckFailedError

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    artifacts: Annotated[
        Path, typer.Option(metavar="FOLDER", help="where checkpoints and engines are to be written")
    ] = Path("artifacts"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, CPU, GPU, Triton, ports and disk; exit code 0 if serving works here, 1 if not."""
    from rrrbuild.machine import describe
    from rrrserve.commands.doctor_checks import Check, diagnose
    from rrrserve.stamps import environment

    checks: list[Check] = diagnose(artifacts)
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
        table = Table("check", "", Column("found", overflow="fold"), Column("what to do", overflow="fold"))
        for check in checks:
            colour = _COLOURS[check.status]
            table.add_row(check.name, f"[{colour}]{check.status}[/]", escape(check.found), escape(check.advice))
        output.console.print(table)
        output.console.print(f"rrr {__version__}, Python {platform.python_version()}, {platform.platform()}")
    if failed:
        raise CheckFailedError(f"serving does not work here: see {', '.join(failed)}")
