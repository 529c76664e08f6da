"""Outlines of letters from the TrueType fonts that the matplotlib package ships (DejaVu, STIX, Computer Modern)."""

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrnet.errors import IncompatibleError

FloatArray = npt.NDArray[np.float64]

_TEXT_FONTS = (
    *(f"DejaVu{face}{style}" for face in ("Sans", "SansMono") for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
# TeX fonts: their character maps are right for ASCII only.
_ASCII_FONTS = ("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10")


@dataclass(frozen=True)
class Outline:
    """A letter's closed contours in TrueType form: quadratic splines through on-curve and off-curve anchor points.

    Attributes:
        contours: for each contour its points (P, 2), x to the right and y down, the letter's box centred on 0 and
            its longer side 1.
        on_curve: for each contour (P,) bool.
    """

    contours: tuple[FloatArray, ...]
    on_curve: tuple[npt.NDArray[np.bool_], ...]


def fonts_with(letter: str) -> tuple[str, ...]:
    """Names of the fonts that can draw `letter`, always in the same order."""
    names = _TEXT_FONTS + (_ASCII_FONTS if letter.isascii() else ())
    return tuple(name for name in names if ord(letter) in _load(name)[1])


@lru_cache(maxsize=4096)
def outline(font_name: str, letter: str) -> Outline:
    """The outline of `letter` in one of `fonts_with(letter)`."""
    font, glyph_names = _load(font_name)
    table = font["glyf"]
    coordinates, ends, flags = table[glyph_names[ord(letter)]].getCoordinates(table)
    points = np.asarray(list(coordinates), np.float64) * (1.0, -1.0)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / (high - low).max()
    starts = [end + 1 for end in ends[:-1]]
    on_curve = np.asarray([flag & 1 for flag in flags], np.bool_)
    return Outline(tuple(np.split(points, starts)), tuple(np.split(on_curve, starts)))


@cache
def _load(font_name: str) -> tuple[Any, dict[int, str]]:
    """An open font and its glyph names by code point."""
    try:
        from fontTools.ttLib import TTFont
    except ImportError as error:
        raise IncompatibleError(_advice("fonttools")) from error
    # The TeX fonts hold no real date, which fontTools would remark on for each.
    logging.getLogger("fontTools.ttLib.tables._h_e_a_d").setLevel(logging.ERROR)
    font = TTFont(BytesIO((_font_folder() / f"{font_name}.ttf").read_bytes()), lazy=True)  # leaves no file open
    return font, font.getBestCmap()


@lru_cache(maxsize=1)
def _font_folder() -> Path:
    """Where matplotlib keeps its fonts; found without importing it, which would take a second."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise IncompatibleError(_advice("matplotlib"))
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


def _advice(package: str) -> str:
    return f"generating glyphs needs the package {package}, which is not installed: pip install 'rrrnet-serving[train]'"
