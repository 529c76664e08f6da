"""The letter's shape: anchor points jittered, outline distorted, then rasterised (OmniPrint's order of steps).

All distortions act on the outline, before there are pixels, so that edges stay sharp at any strength.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rrrnet.glyph_fonts import FloatArray, Outline
from rrrnet.glyph_options import GlyphOptions

_SCALE = (0.5, 0.9)  # the letter's longer side in parts of the image's
_MARGIN = 0.03  # kept free on every side, in parts of the image's side
_SUPERSAMPLING = 4
_CURVE_STEPS = np.linspace(0, 1, 8)[1:-1, None]  # where each quadratic spline is sampled between its ends
_CORNERS = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


@dataclass(frozen=True)
class ShapeFactors:
    """What was drawn for one letter. Translations are the box's centre minus the image's, in parts of its side."""

    rotation: float
    shear_x: float
    stretch: float
    elastic: float
    scale: float
    translation_x: float
    translation_y: float
    corners: FloatArray  # (4, 2), displacement of the box's corners, clockwise from the upper left


def draw_shape(
    outline: Outline, options: GlyphOptions, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], ShapeFactors]:
    """Distort and rasterise a letter. Returns its coverage, (size, size) uint8, and the factors drawn."""
    rotation = rng.uniform(-options.rotation, options.rotation)
    shear_x = rng.uniform(-options.shear, options.shear)
    stretch = rng.uniform(-options.stretch, options.stretch)
    elastic = rng.uniform(0, options.elastic)
    scale = rng.uniform(*_SCALE)
    corners = rng.uniform(-options.perspective, options.perspective, (4, 2))
    place = rng.uniform(-options.translation, options.translation, 2)
    contours = [
        flatten(points + rng.uniform(-elastic, elastic, points.shape), on_curve)
        for points, on_curve in zip(outline.contours, outline.on_curve, strict=True)
    ]
    sizes = np.cumsum([len(contour) for contour in contours])[:-1]
    points = transform(np.concatenate(contours), rotation, shear_x, stretch)
    points = _fit(project(_fit(points, 1.0), corners), scale)
    room = np.maximum(0, (1 - np.ptp(points, axis=0)) / 2 - _MARGIN)
    offset = place * room
    mask = rasterise(np.split(points + offset + 0.5, sizes), options.size)
    factors = ShapeFactors(rotation, shear_x, stretch, elastic, scale, float(offset[0]), float(offset[1]), corners)
    return mask, factors


def flatten(points: FloatArray, on_curve: npt.NDArray[np.bool_]) -> FloatArray:
    """Polygon of a closed TrueType contour.

    Between two neighbouring off-curve points lies an implied on-curve point, halfway (TrueType reference, glyf table).
    """
    following = np.roll(points, -1, axis=0)
    implied = ~on_curve & ~np.roll(on_curve, -1)
    where = np.flatnonzero(implied) + 1
    points = np.insert(points, where, (points + following)[implied] / 2, axis=0)
    on_curve = np.insert(on_curve, where, True)
    before, after = np.roll(points, 1, axis=0)[:, None], np.roll(points, -1, axis=0)[:, None]
    control = points[:, None]  # (P, 1, 2)
    steps = _CURVE_STEPS
    curves = (1 - steps) ** 2 * before + 2 * steps * (1 - steps) * control + steps**2 * after  # (P, steps, 2)
    # An on-curve point stands for itself, as often as a curve has steps: harmless in a polygon.
    return np.where(on_curve[:, None, None], control, curves).reshape(-1, 2)


def transform(points: FloatArray, rotation: float, shear_x: float, stretch: float) -> FloatArray:
    """Stretch (width over height by exp(stretch)), then shear, then rotate (degrees, clockwise) points (P, 2)."""
    # Written out, here and below: a BLAS product of this size costs more in threads than in arithmetic.
    x, y = points[:, 0] * np.exp(stretch / 2), points[:, 1] * np.exp(-stretch / 2)
    x = x + shear_x * y
    cosine, sine = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    return np.column_stack([cosine * x - sine * y, sine * x + cosine * y])


def project(points: FloatArray, displacements: FloatArray) -> FloatArray:
    """Map points (P, 2) by the projective map that moves the corners of the unit square around 0.

    Args:
        points: within that square.
        displacements: of its corners, (4, 2), clockwise from the upper left.

    Source: P. Heckbert, Fundamentals of Texture Mapping and Image Warping, 1989, section 2.2.3.
    """
    upper_left, upper_right, lower_right, lower_left = _CORNERS + displacements
    total = upper_left - upper_right + lower_right - lower_left
    right, bottom = upper_right - lower_right, lower_left - lower_right
    determinant = _cross(right, bottom)
    g, h = _cross(total, bottom) / determinant, _cross(right, total) / determinant
    u, v = points.T[:, :, None] + 0.5  # (P, 1) each, in the unit square from 0 to 1
    along_u = upper_right - upper_left + g * upper_right
    along_v = lower_left - upper_left + h * lower_left
    projected: FloatArray = (along_u * u + along_v * v + upper_left) / (g * u + h * v + 1)
    return projected


def _cross(first: FloatArray, second: FloatArray) -> float:
    return float(first[0] * second[1] - first[1] * second[0])


def _fit(points: FloatArray, side: float) -> FloatArray:
    """Centre the points' box on 0 and give its longer side the length `side`."""
    low, high = points.min(axis=0), points.max(axis=0)
    fitted: FloatArray = (points - (low + high) / 2) * (side / (high - low).max())
    return fitted


def rasterise(contours: list[FloatArray], size: int) -> npt.NDArray[np.uint8]:
    """Coverage (size, size) of closed polygons in the unit square, by the nonzero winding rule, anti-aliased."""
    side = size * _SUPERSAMPLING
    winding = np.zeros((side, side), np.int8)
    for contour in contours:
        layer = Image.new("L", (side, side))
        ImageDraw.Draw(layer).polygon((contour * side).ravel().tolist(), fill=1)
        following = np.roll(contour, -1, axis=0)
        area = (contour[:, 0] * following[:, 1] - contour[:, 1] * following[:, 0]).sum()
        winding += np.asarray(layer, np.int8) * np.int8(np.sign(area))
    return np.asarray(Image.fromarray((winding != 0).astype(np.uint8) * np.uint8(255)).reduce(_SUPERSAMPLING))
