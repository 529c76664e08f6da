"""Charts as inline SVG: shapes, scales and axes. Colours are CSS classes: one drawing is right in light and dark.

ElementTree escapes every text. A plotting library would bring colours and fonts of its own, and a dependency to each
machine that only serves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from markupsafe import Markup

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]
WIDTH, HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44
_MAX_LETTERS = 28
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def short(text: str, letters: int = _MAX_LETTERS) -> str:
    """A text that fits beside an axis."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def number(value: float) -> str:
    """A tick's number: no more digits than it needs."""
    if 0 < value < 0.001:
        power = math.log10(value)
        if math.isclose(power, round(power)):
            return f"10{str(round(power)).translate(_RAISED)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Drawing:
    """An SVG of a fixed view box."""

    def __init__(self, width: float, height: float, description: str) -> None:
        """Start it.

        Args:
            width: of the view box.
            height: of the view box.
            description: what it shows, in words: read out in place of the picture.
        """
        box = f"0 0 {width:g} {height:g}"
        self.root = ElementTree.Element("svg", {"viewBox": box, "role": "img", "aria-label": description})

    def shape(self, tag: str, css: str, tooltip: str = "", **attributes: float | str) -> None:
        """Any element; `tooltip` is shown where the pointer rests on it."""
        texts = {
            key.replace("_", "-"): value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
            for key, value in attributes.items()
        }
        element = ElementTree.SubElement(self.root, tag, {"class": css, **texts})
        if tooltip:
            ElementTree.SubElement(element, "title").text = tooltip

    def line(self, start: Point, end: Point, css: str) -> None:
        """A straight line."""
        self.shape("line", css, x1=start[0], y1=start[1], x2=end[0], y2=end[1])

    def path(self, points: Sequence[Point], css: str, *, closed: bool = False) -> None:
        """A line through points, or the area within."""
        steps = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
        self.shape("path", css, d=steps + ("Z" if closed else ""))

    def dot(self, place: Point, css: str, tooltip: str = "", radius: float = 3.5) -> None:
        """A filled circle."""
        self.shape("circle", css, tooltip, cx=place[0], cy=place[1], r=radius)

    def bar(self, left: float, top: float, width: float, height: float, css: str, tooltip: str = "") -> None:
        """A rectangle."""
        self.shape("rect", css, tooltip, x=left, y=top, width=max(width, 0.5), height=max(height, 0.5), rx=1.5)

    def text(self, place: Point, words: str, css: str = "t", anchor: Anchor = "start") -> None:
        """Words at a point of their base line."""
        element = ElementTree.SubElement(
            self.root, "text", {"class": css, "x": f"{place[0]:.1f}", "y": f"{place[1]:.1f}", "text-anchor": anchor}
        )
        element.text = words

    def turned(self, place: Point, words: str) -> None:
        """The title of a vertical axis, read from below."""
        x, y = f"{place[0]:.1f}", f"{place[1]:.1f}"
        turn = {"class": "t", "x": x, "y": y, "text-anchor": "middle", "transform": f"rotate(-90 {x} {y})"}
        ElementTree.SubElement(self.root, "text", turn).text = words

    def markup(self) -> Markup:
        """The element, safe to put into a page."""
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))  # noqa: S704  ElementTree has escaped it


@dataclass(frozen=True)
class Scale:
    """Values to places along an axis.

    Attributes:
        low: the value at `start`; may be the larger one.
        high: the value at `end`.
        start: where the axis begins.
        end: where it ends.
        log: whether equal ratios are equal distances.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, value = (
            (math.log(item) for item in (self.low, self.high, value))
            if self.log
            else (
                self.low,
                self.high,
                value,
            )
        )
        share = (value - low) / (high - low) if high != low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Four to eight round values."""
        if not self.log:
            return linear_ticks(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [step * 10.0**decade for decade in decades for step in steps]
            found = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
            if len(found) <= 8:
                break
        return found if len(found) > 1 else [self.low, self.high]


def linear_ticks(low: float, high: float) -> list[float]:
    """Round values from low to high, at most seven."""
    span = high - low or 1.0
    step = math.pow(10, math.floor(math.log10(span / 4)))
    step *= next(factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if span / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def room(values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = False) -> Scale:
    """A scale that holds all values with some space around; from zero with `zero`."""
    low, high = min(values), max(values)
    if log:
        low = max(low, 1e-9)
        return Scale(low / 1.15, max(high, low) * 1.15, start, end, log=True)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 0.5
    return Scale(0.0 if zero else low - margin, high + margin, start, end)


class Chart(Drawing):
    """A drawing with a plot area and axes."""

    right, top = float(WIDTH - _RIGHT), float(_TOP)

    def __init__(self, description: str, *, height: float = HEIGHT, left: float = _LEFT) -> None:
        """Start it with an empty plot area, `left` from the edge."""
        super().__init__(WIDTH, height, description)
        self.left, self.bottom = left, height - _BOTTOM

    def x_axis(self, scale: Scale, title: str, *, percent: bool = False, ticks: Sequence[float] = ()) -> None:
        """Ticks, thin lines across and a title below."""
        for value in ticks or scale.ticks():
            x = scale(value)
            self.line((x, self.top), (x, self.bottom), "grid")
            self.text((x, self.bottom + 16), f"{100 * value:.3g}" if percent else number(value), "tick", "middle")
        self.line((self.left, self.bottom), (self.right, self.bottom), "axis")
        self.text(((self.left + self.right) / 2, self.bottom + 36), title, "t", "middle")

    def y_axis(self, scale: Scale, title: str, *, percent: bool = False) -> None:
        """Ticks, thin lines across and a title at the left."""
        for value in scale.ticks():
            y = scale(value)
            self.line((self.left, y), (self.right, y), "grid")
            self.text((self.left - 7, y + 4), f"{100 * value:.3g}" if percent else number(value), "tick", "end")
        self.turned((13, (self.top + self.bottom) / 2), title)
