"""Ask an advisory service about every package that is pinned; what requirements/advisories.toml accepts passes.

    python deploy/supply_chain/audit.py [--pip-audit PROGRAM]

Exit codes: 0 nothing new; 1 a vulnerability that nobody has accepted, or an acceptance that is due for review; 2 the
question could not be asked, which proves nothing.
"""

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ACCEPTED = ROOT / "requirements" / "advisories.toml"
AUDITED = ("constraints.txt", "requirements/serving.lock", "requirements/build.lock")
SERVICES = ("pypi", "osv")
# A vulnerability that every advisory service knows: one that does not has not been reached, whatever it answers.
CONTROL = ("bentoml", "1.4.2", "CVE-2025-27520")


@dataclass(frozen=True)
class Accepted:
    """A vulnerability that is lived with.

    Attributes:
        id: CVE, GHSA or PYSEC.
        package: that has it.
        reason: why it does no harm here.
        date: of the decision.
        review_by: from then on it must be decided anew.
        contained_by: the test that fails when the reason does not hold any more.
    """

    id: str
    package: str
    reason: str
    date: dt.date
    review_by: dt.date
    contained_by: str


@dataclass(frozen=True)
class Finding:
    """A vulnerability that the advisory service knows."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]


def accepted(path: Path = ACCEPTED) -> list[Accepted]:
    """The accept-list."""
    return [Accepted(**item) for item in tomllib.loads(path.read_text())["accepted"]]


def findings(report: dict[str, Any]) -> list[Finding]:
    """What a report of pip-audit holds."""
    return [
        Finding(package["name"], package["version"], (found["id"], *found["aliases"]), tuple(found["fix_versions"]))
        for package in report["dependencies"]
        for found in package.get("vulns", ())
    ]


def judge(found: Iterable[Finding], allowed: list[Accepted], today: dt.date) -> list[str]:
    """One line for each thing that must be seen to; none if all is well."""
    known = {(item.package.lower(), item.id) for item in allowed}
    lines = []
    for item in found:
        if not any((item.package.lower(), identifier) in known for identifier in item.ids):
            fixed = f"fixed in {', '.join(item.fixed_in)}" if item.fixed_in else "no version fixes it yet"
            lines.append(f"{item.package} {item.version}: {' = '.join(item.ids)}; {fixed}")
    lines += [
        f"{item.id} ({item.package}) was accepted on {item.date} and is due for review since {item.review_by}"
        for item in allowed
        if item.review_by <= today
    ]
    return lines


class UnansweredError(Exception):
    """An advisory service that could not be asked, or that does not know what it was asked about."""


def ask(program: str, service: str, pins: Path) -> dict[str, Any]:
    """pip-audit's report about a file of pinned packages.

    Raises:
        UnansweredError: there is none, or not about every package.
    """
    # Hashes are checked when packages are installed; asking about them needs neither pip nor the packages.
    command = [program, "--requirement", str(pins), "--disable-pip", "--no-deps", "--format", "json"]
    command += ["--vulnerability-service", service, "--progress-spinner", "off"]
    answer = subprocess.run(command, capture_output=True, text=True)
    try:
        report: dict[str, Any] = json.loads(answer.stdout)
    except ValueError as error:
        reason = (answer.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnansweredError(reason[:300]) from error
    skipped = [package["name"] for package in report["dependencies"] if "skip_reason" in package]
    if skipped:  # pip-audit counts these as fine
        raise UnansweredError(f"it knows nothing of {len(skipped)} packages, such as {skipped[0]}")
    return report


def audit(program: str, service: str) -> tuple[int, list[Finding]]:
    """Number of entries of all files, and what the service knows of them.

    Raises:
        UnansweredError: see `ask`; or it does not know a vulnerability that everybody does.
    """
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "control.txt"
        name, version, known = CONTROL
        control.write_text(f"{name}=={version}\n")
        if not any(known in item.ids for item in findings(ask(program, service, control))):
            raise UnansweredError(f"it does not know {known} of {name} {version}")
    found: dict[tuple[str, str], Finding] = {}
    number = 0
    for name in AUDITED:
        report = ask(program, service, ROOT / name)
        number += len(report["dependencies"])
        found |= {(item.package, item.ids[0]): item for item in findings(report)}
    return number, list(found.values())


def main() -> None:
    """Audit the pinned packages with the first service that answers."""
    parser = argparse.ArgumentParser(description="Audit the pinned packages.")
    parser.add_argument("--pip-audit", default="pip-audit", metavar="PROGRAM", help="the pip-audit to run")
    program = parser.parse_args().pip_audit
    allowed = accepted()
    for item in allowed:
        print(f"accepted on {item.date}: {item.id} ({item.package}). {item.reason}")
    for service in SERVICES:
        try:
            number, found = audit(program, service)
        except UnansweredError as error:
            print(f"audit: the advisory service {service} could not be asked: {error}")
        else:
            break
    else:
        print("audit: no advisory service could be asked, so nothing is known about the locked packages")
        sys.exit(2)
    lines = judge(found, allowed, dt.datetime.now(dt.UTC).date())
    print("\n".join(lines) or f"{number} entries of {', '.join(AUDITED)}, asked of {service}: nothing new")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
