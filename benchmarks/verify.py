"""Claims about time judged twice over one load: from the service's own histograms, and from a real Prometheus.

.venv/bin/python benchmarks/verify.py                  what `make verify` runs, after `make demo`: two minutes at most
.venv/bin/python benchmarks/verify.py --stamp          the verdicts travel with the engines from then on

The verdicts are left in artifacts/verify.json; --save FILE writes them there too.

It serves the repository with every model side by side, starts Prometheus beside it, and lets `rrr verify --drive` send
the load in turns until both the scraped histograms and Prometheus decide every claim about time. The two have to
agree: no claim may pass in one and fail in the other, and the intervals of each have to overlap. Claims about size and
accuracy are judged once, from the repository; so is, from the scrapes, what Prometheus cannot tell apart
(docs/claims.md).
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from rrrbench.contenders import BIN, rrr_serve
from rrrbench.environment import ROOT, environment, rounded
from rrrbench.servers import ending_on_sigterm, running
from rrrnet.errors import CheckFailedError, RRRError

OBSERVE = ROOT / "deploy" / "prometheus" / "observe.py"
SCRAPED = "rrr_inference_duration_seconds_count"
TIMED = ("speedup", "latency", "throughput")
Verdict = dict[str, Any]


@contextmanager
def prometheus(url: str, logs: Path) -> Iterator[str]:
    """A real Prometheus that scrapes the service every second, and has done so; gives its URL."""
    log = logs / "prometheus.log"

    def address() -> str | None:
        found = re.search(r"^Prometheus: (\S+) scrapes", log.read_text(), re.MULTILINE)
        return found[1] if found else None

    def has_scraped() -> bool:
        server = address()
        if server is None:
            return False
        answer = httpx.get(f"{server}/api/v1/query", params={"query": SCRAPED}, timeout=5, trust_env=False)
        return bool(answer.raise_for_status().json()["data"]["result"])

    command = [sys.executable, str(OBSERVE), "--url", url, "--port", "0", "--interval", "1s"]
    with running(command, url="", ready=has_scraped, log=log):
        yield address() or ""


def judged(arguments: Sequence[str], out: Path) -> list[Verdict]:
    """Run `rrr verify`; its verdicts, whatever they are.

    Raises:
        CheckFailedError: it judged nothing.
    """
    out.unlink(missing_ok=True)
    command = [str(BIN / "rrr"), "verify", *arguments, "--out", str(out)]
    code = subprocess.run(command).returncode
    if code not in (0, 1) or not out.is_file():
        raise CheckFailedError(f"rrr verify ended with exit code {code}; its message is above")
    return list(json.loads(out.read_text())["verdicts"])


def disagreements(scraped: Sequence[Verdict], asked: Sequence[Verdict]) -> list[str]:
    """What the two judgements say differently about the same claim; one of them being undecided is no difference."""
    found = []
    for ours, theirs in zip(scraped, asked, strict=True):
        if {ours["verdict"], theirs["verdict"]} == {"pass", "fail"}:
            found.append(f"{ours['name']}: {ours['verdict']} from scrapes, {theirs['verdict']} from Prometheus")
        intervals = ours["interval"], theirs["interval"]
        if None not in intervals and (intervals[0][0] > intervals[1][1] or intervals[1][0] > intervals[0][1]):
            found.append(f"{ours['name']}: {intervals[0]} from scrapes, {intervals[1]} from Prometheus")
    return found


def show(scraped: Sequence[Verdict], asked: Sequence[Verdict]) -> None:
    """Both judgements side by side; one where there is one."""
    table = Table("claim", "from scrapes", "from Prometheus", "from artifacts", title="Claims, by source")
    for ours, theirs in zip(scraped, asked, strict=True):
        sources = judged_by(theirs)
        words = {"scrapes": _words(ours), "Prometheus": _words(theirs), "artifacts": _words(theirs)}
        table.add_row(ours["sentence"], *(word if source in sources else "" for source, word in words.items()))
    Console().print(table)


def judged_by(verdict: Verdict) -> tuple[str, ...]:
    """What a verdict of the drive rests on."""
    if verdict["kind"] not in TIMED:
        return ("artifacts",)
    return ("scrapes",) if "scrapes_alone" in verdict["evidence"] else ("scrapes", "Prometheus")


def _words(verdict: Verdict) -> str:
    if verdict["interval"] is None:
        return f"{verdict['verdict']} ({verdict['reason']})"
    low, high = verdict["interval"]
    return f"{verdict['verdict']}: {verdict['estimate']:.4g} {verdict['unit']} ({low:.4g} to {high:.4g})"


def main() -> None:
    """Serve, drive, judge, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=ROOT / "artifacts" / "repository")
    parser.add_argument("--claims", type=Path, default=ROOT / "benchmarks" / "claims.yaml")
    parser.add_argument("--seconds", type=int, default=90, help="of load, at most")
    parser.add_argument("--stamp", action="store_true", help="write the verdicts beside the engines")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the verdicts to this file")
    options = parser.parse_args()
    ending_on_sigterm()
    logs = ROOT / "artifacts" / "benchmarks" / "logs"
    artifacts = ["--claims", str(options.claims), "--repository", str(options.repository)]
    stamp = ["--stamp"] if options.stamp else []
    with rrr_serve(options.repository, logs) as service, prometheus(service.url, logs) as address:
        load = ["--scrape", service.url, "--prometheus", address, "--drive", "--seconds", str(options.seconds)]
        asked = judged([*artifacts, *load, *stamp], logs / "verdicts.json")
    scraped = [verdict | verdict["evidence"].get("scraped", {}) for verdict in asked]
    show(scraped, asked)
    document = {"environment": environment(), "scraped": scraped, "prometheus": asked}
    for path in filter(None, (ROOT / "artifacts" / "verify.json", options.save)):
        path.write_text(json.dumps(rounded(document), indent=1) + "\n")
        print(f"written: {path}")
    different = disagreements(scraped, asked)
    if different:
        raise CheckFailedError("the two judgements disagree: " + "; ".join(different))
    missed = [verdict["name"] for verdict in (*scraped, *asked) if verdict["verdict"] != "pass"]
    if missed:
        raise CheckFailedError(f"not every claim passed: {', '.join(dict.fromkeys(missed))}")


if __name__ == "__main__":
    try:
        main()
    except RRRError as error:
        print(f"verify.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
