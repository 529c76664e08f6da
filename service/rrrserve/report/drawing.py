"""Matplotlib's drawings as SVG within a page: one drawing is right in light and in dark, and its words stay text."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure as Canvas

from rrrserve.bench.plot import COLORS

WIDTH, HEIGHT = 440, 300
INK, SOFT, GRID, AXIS, LINE = "#1d2327", "#5c666e", "#e6e4de", "#9aa3a9", "#e1dfd8"
VERDICTS = {"pass": "#1d7a46", "fail": "#b3261e", "undecided": "#8a5a00"}
# What is drawn in one of these colours takes, on the page, the variable of style.css, which has another value in dark.
_VARIABLES = dict(zip((INK, SOFT, GRID, AXIS, LINE), ("ink", "soft", "grid", "axis", "line"), strict=True))
_VARIABLES |= {color: name for name, color in VERDICTS.items()} | {color: f"c{at}" for at, color in enumerate(COLORS)}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rrr",
    "text.parse_math": False,
    "font.size": 12,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": AXIS,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
}
_HEAD = re.compile(r'^.*?<svg [^>]*?viewBox="([^"]*)"[^>]*>', re.S)
_GLOBAL_STYLE = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>", re.S)


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Attributes:
        key: its id on the page.
        title: what is shown.
        svg: the drawing.
        caption: how to read it.
        legend: (CSS class of the mark, its name).
        wide: it takes the page's whole width, and on a narrow page it scrolls rather than shrinks.
    """

    key: str
    title: str
    svg: Markup
    caption: str = ""
    legend: Sequence[tuple[str, str]] = field(default=())
    wide: bool = False


class Picture:
    """A drawing of a width and height in CSS pixels; `svg` is there when its block has ended."""

    def __init__(self, width: float, height: float) -> None:
        self.canvas: Any = Canvas(figsize=(width / 72, height / 72), layout="constrained")
        self.svg = Markup()


@contextmanager
def picture(width: float, height: float, told: str) -> Iterator[Picture]:
    """A drawing to fill; `told` says in words what it shows, and is read out in its place."""
    with warnings.catch_warnings(), rc_context(_STYLE):
        warnings.simplefilter("ignore")  # a letter that matplotlib's font lacks: the page's fonts draw the words
        drawn = Picture(width, height)
        yield drawn
        buffer = io.StringIO()
        drawn.canvas.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn.svg = _within_a_page(buffer.getvalue(), told)


def _within_a_page(text: str, told: str) -> Markup:
    """Without what would act on the rest of the page: size, style for all, names that every drawing has."""
    text = _HEAD.sub(lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{escape(told)}">', text, count=1)
    text = _GLOBAL_STYLE.sub("", text)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(
        r"font: ([\d.]+px) [^;\"]*|font-family: [^;\"]*", lambda f: f"font-size: {f[1]}" if f[1] else "", text
    )
    text = re.sub("#[0-9a-f]{6}", lambda f: f"var(--{_VARIABLES[f[0]]})" if f[0] in _VARIABLES else f[0], text)
    return Markup(text.strip())  # noqa: S704  matplotlib has escaped its words, and `told` was above
