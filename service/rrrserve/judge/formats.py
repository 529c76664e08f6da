"""Verdicts for people and machines: a table, Markdown, JUnit XML."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from rich.markup import escape
from rich.table import Column, Table

from rrrserve.bench.result import early_text
from rrrserve.judge.verdicts import FAIL, PASS, UNDECIDED, figure

_COLORS = {PASS: "green", FAIL: "red", UNDECIDED: "yellow"}
_HEADER = ("verdict", "claim", "measured", "interval", "why")


def counts_text(verdicts: Sequence[dict[str, Any]]) -> str:
    """Like "3 pass, 1 undecided"."""
    counts = Counter(verdict["verdict"] for verdict in verdicts)
    return ", ".join(f"{counts[word]} {word}" for word in (PASS, FAIL, UNDECIDED) if counts[word])


def table(document: dict[str, Any]) -> Table:
    """A table for a terminal; `reasons` says the rest."""
    found = Table("verdict", "claim", Column("measured", no_wrap=True), title=counts_text(document["verdicts"]))
    for verdict in document["verdicts"]:
        color = _COLORS[verdict["verdict"]]
        measured, interval = _numbers(verdict)
        found.add_row(
            f"[{color}]{verdict['verdict']}[/{color}]",
            f"[bold]{escape(verdict['name'])}[/bold]\n{escape(verdict['sentence'])}",
            f"{measured}\n({interval})" if measured else "",
        )
    return found


def reasons(document: dict[str, Any]) -> list[str]:
    """A line for each claim that does not hold, or holds on one source fewer than was asked for: why."""
    return [
        f"{verdict['name']}: {verdict['reason']}: {verdict['explanation']}"
        for verdict in document["verdicts"]
        if verdict["verdict"] != PASS or "scrapes_alone" in verdict["evidence"]
    ]


def early_answers(document: dict[str, Any], *, generated: bool) -> list[str]:
    """A line for each cascade that was driven: which share its first members answered, and whether that tells much.

    Args:
        document: of verdicts.
        generated: whether it was sent a generated image.
    """
    lines: dict[str, str] = {}
    for verdict in document["verdicts"]:
        for model, tally in verdict["evidence"].get("client", {}).items():
            if (text := early_text(tally.get("answered_by", []))) is not None:
                lines[model] = f"{model}: {text}"
    warning = (
        "warning: a generated image tells little of a cascade's speed, which depends on how many images its first "
        "members settle: send real ones with --data DIR"
    )
    return [*lines.values(), *([warning] if lines and generated else [])]


def markdown(document: dict[str, Any]) -> str:
    """A table in GitHub's Markdown, and what reproduces each verdict."""
    lines = [
        f"# {counts_text(document['verdicts'])}",
        "",
        f"`{document['claims']['path']}`, {document['started']}, {document['confidence']:.0%} intervals.",
        "",
        "| " + " | ".join(_HEADER) + " |",
        "|" + " --- |" * len(_HEADER),
    ]
    for verdict in document["verdicts"]:
        cells = [verdict["verdict"], f"**{verdict['name']}**: {verdict['sentence']}", *_numbers(verdict)]
        cells.append(f"`{verdict['reason']}`: {verdict['explanation']}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    lines += ["", "## To reproduce", ""]
    for verdict in document["verdicts"]:
        lines += [f"{verdict['name']}:", "", "```", *verdict["queries"], "```", ""]
    return "\n".join(lines)


def junit(document: dict[str, Any]) -> str:
    """JUnit XML: a claim is a test case, a failed one a failure, an undecided one an error."""
    verdicts = document["verdicts"]
    counts = Counter(verdict["verdict"] for verdict in verdicts)
    totals = {"tests": str(len(verdicts)), "failures": str(counts[FAIL]), "errors": str(counts[UNDECIDED])}
    suites = ElementTree.Element("testsuites", {"name": "rrr verify", **totals})
    suite = ElementTree.SubElement(
        suites,
        "testsuite",
        {"name": _printable(document["claims"]["path"]), "timestamp": document["started"], **totals},
    )
    for verdict in verdicts:
        name = _printable(verdict["name"])
        case = ElementTree.SubElement(suite, "testcase", {"name": name, "classname": verdict["kind"], "time": "0"})
        if verdict["verdict"] != PASS:
            tag = "failure" if verdict["verdict"] == FAIL else "error"
            message = {"type": verdict["reason"], "message": _printable(verdict["explanation"])}
            ElementTree.SubElement(case, tag, message).text = _printable(verdict["sentence"])
        lines = [verdict["sentence"], verdict["explanation"], *verdict["queries"]]
        ElementTree.SubElement(case, "system-out").text = _printable("\n".join(lines))
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _numbers(verdict: dict[str, Any]) -> tuple[str, str]:
    if verdict["estimate"] is None:
        return "", ""
    low, high = verdict["interval"]
    return f"{figure(verdict['estimate'])} {verdict['unit']}".rstrip(), f"{figure(low)} to {figure(high)}"


def _printable(text: str) -> str:
    """XML has no way to write control characters."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
