"""A report's document as a page and as Markdown."""

import html
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rrrserve.report import figures, latency_figures
from rrrserve.report.figures import Figure

_TEMPLATES = "rrrserve.report", "templates"
_MARKDOWN = re.compile(r"([\\`*_\[\]|~])")


def to_html(document: Mapping[str, Any]) -> str:
    """One self-contained page: style and drawings inside, no script, nothing to fetch; every text is escaped."""
    environment = _environment(autoescape=True)
    style = resources.files("rrrserve.report").joinpath("templates", "style.css").read_text()
    return environment.get_template("report.html").render(
        report=document,
        figures=figures_of(document),
        style=Markup(style),  # noqa: S704  a file of this package
        claim_interval=figures.claim_interval,
    )


def to_markdown(document: Mapping[str, Any]) -> str:
    """The same in Markdown, without the drawings."""
    environment = _environment(autoescape=False)
    text = environment.get_template("report.md").render(report=document)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader(*_TEMPLATES),
        autoescape=autoescape,  # noqa: S701  Markdown has its own filter `md`; HTML is escaped
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": _markdown, "mega": _mega, "size": _size, "day": _day}
    return environment


def figures_of(document: Mapping[str, Any]) -> dict[str, list[Figure]]:
    """The drawings of each section, in order."""
    engines = document["engines"]
    scores, found = document["accuracy"], document["calibration"]
    groups = [
        (f"{index}-{place}", group)
        for index, bench in enumerate(document["bench"])
        for place, group in enumerate(bench["groups"])
    ]
    sections: dict[str, list[Figure | None]] = {
        "model": [figures.network(document["model"])],
        "accuracy": [figures.members(scores[-1])] if scores and len(scores[-1]["members"]) > 1 else [],
        "calibration": []
        if found is None
        else [figures.reliability(found["bins"], scores[-1]["ece"]), figures.coverage(found)],
        "engines": [figures.errors(engines), latency_figures.engines(engines)],
        "plans": [latency_figures.plans(engine, index) for index, engine in enumerate(engines)],
        "bench": [draw(group, key) for key, group in groups for draw in (latency_figures.load, latency_figures.tail)],
    }
    return {name: [figure for figure in drawn if figure is not None] for name, drawn in sections.items()}


def _markdown(text: object) -> str:
    """A text that stays text in Markdown: neither HTML, nor a link, nor a table's end."""
    return html.escape(_MARKDOWN.sub(r"\\\1", " ".join(str(text).split())), quote=False)


def _mega(count: float) -> str:
    """Counts in millions with three figures."""
    value = count / 1e6
    return f"{value:,.0f} M" if value >= 100 else f"{value:.3g} M"


def _size(count: float) -> str:
    """Bytes for people, in powers of ten."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _day(moment: str) -> str:
    """Date and minute of an ISO 8601 time."""
    return moment[:16].replace("T", " ")
