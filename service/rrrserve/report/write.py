"""A report's document as a page and as Markdown."""

import html
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = "rrrserve.report", "templates"
_MARKDOWN = re.compile(r"([\\`*_\[\]|~])")


def to_html(document: Mapping[str, Any]) -> str:
    """One self-contained page: style and drawings inside, no script, nothing to fetch; every text is escaped."""
    from rrrserve.report.figures import claim_interval, figures_of  # matplotlib, which the other forms do without
    from rrrserve.report.mistakes import thumbnails

    style = resources.files("rrrserve.report").joinpath("templates", "style.css").read_text()
    return (
        environment(autoescape=True)
        .get_template("report.html")
        .render(
            report=document,
            figures=figures_of(document),
            thumbnails=thumbnails(document["mistakes"]) if document["mistakes"] else [],
            style=Markup(style),  # noqa: S704  a file of this package
            claim_interval=claim_interval,
        )
    )


def to_markdown(document: Mapping[str, Any]) -> str:
    """The same in Markdown, without the drawings."""
    text = environment(autoescape=False).get_template("report.md").render(report=document)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def environment(*, autoescape: bool) -> Environment:
    """What the templates are read with."""
    found = Environment(
        loader=PackageLoader(*_TEMPLATES),
        autoescape=autoescape,  # noqa: S701  Markdown has its own filter `md`; HTML is escaped
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"md": _markdown, "mega": _mega, "size": _size, "day": _day}
    return found


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
