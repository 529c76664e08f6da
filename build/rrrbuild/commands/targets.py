"""`rrr targets`: every target, whether it works here, and if not, what to do about it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rrrbuild.commands.first_step import first_step
from rrrbuild.targets import TARGETS, Target, build_obstacle, run_obstacle
from rrrnet import output, tables


def targets(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show every target: available here? If not, why and what to install."""
    rows = [_row(target) for target in TARGETS.values()]
    if as_json:
        output.print_json({"targets": rows})
        return
    table = Table("target", "build here", "run here")
    for row in rows:
        table.add_row(row["name"], *("yes" if row[key] else "no" for key in ("can_build", "can_run")))
    tables.print_table(table)
    for line in (*_obstacle_lines(rows), *_plan_lines(rows)):
        output.print_line(line)
    output.next_step(*first_step(Path("artifacts")))


def _obstacle_lines(rows: list[dict[str, Any]]) -> list[str]:
    """What is in the way and what to do, one line for targets that have the same."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        obstacles = dict.fromkeys(text for text in (row["build_obstacle"], row["run_obstacle"]) if text)
        if obstacles:
            groups.setdefault("; ".join(obstacles), []).append(row["name"])
    return [f"{', '.join(names)}: {obstacles}" for obstacles, names in groups.items()]


def _plan_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The plans, one line for targets that have the same; then why they lack one."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        lacks = "".join(f"; not {plan}: {reason}" for plan, reason in row["plans_not_expressible"].items())
        groups.setdefault(", ".join(row["plans"]) + lacks, []).append(row["name"])
    return [f"plans of {', '.join(names)}: {plans}" for plans, names in groups.items()]


def _row(target: Target) -> dict[str, Any]:
    build, run = build_obstacle(target), run_obstacle(target)
    return {
        "name": target.name,
        "family": target.family,
        "precision": target.precision,
        "plans": [plan.name for plan in target.plans],
        "plans_not_expressible": target.lacks,
        "tolerance": vars(target.tolerance),
        "can_build": build is None,
        "build_obstacle": build,
        "can_run": run is None,
        "run_obstacle": run,
    }
