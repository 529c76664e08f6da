"""Colours and backgrounds: a letter's coverage becomes a picture."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from rrrnet.glyph_options import GlyphOptions

_CANDIDATES = 64
_COLORS = {"plain": 1, "gradient": 2, "noise": 1, "shapes": 3}  # how many colours each background has


@dataclass(frozen=True)
class PaintFactors:
    """What was drawn for one picture. Colours are sRGB, (3,) or (K, 3) uint8; `blur` is in pixels."""

    background: str
    background_colors: npt.NDArray[np.uint8]
    text_color: npt.NDArray[np.uint8]
    contrast: float
    noise: float
    blur: float


def paint(
    mask: npt.NDArray[np.uint8], options: GlyphOptions, rng: np.random.Generator
) -> tuple[Image.Image, PaintFactors]:
    """Colour a letter and put it on a background.

    Args:
        mask: the letter's coverage, (S, S) uint8.
        options: kinds of background and limits.
        rng: the picture's own generator.
    """
    kind = options.backgrounds[rng.integers(len(options.backgrounds))]
    blur = rng.uniform(0, options.blur) * options.size / 128
    text, colors, contrast = _pick_colors(_COLORS[kind], options.contrast, rng)
    noise = rng.uniform(0, options.noise) if kind == "noise" else 0.0
    image = _background(kind, colors, noise, options.size, rng)
    image.paste(_rgb(text), (0, 0, options.size, options.size), Image.fromarray(mask))
    if blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    return image, PaintFactors(kind, colors, text, contrast, noise, blur)


def luminance(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Relative luminance in [0, 1] of sRGB colours (..., 3), as WCAG 2 defines it."""
    values = colors / 255.0
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    result: npt.NDArray[np.float64] = (linear * (0.2126, 0.7152, 0.0722)).sum(axis=-1)
    return result


def _pick_colors(
    count: int, least: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], float]:
    """A text colour (3,), `count` background colours (count, 3), and the least contrast among them, >= `least`."""
    while True:  # ends: at the strictest setting more than one set of a thousand passes
        candidates = rng.integers(0, 256, (_CANDIDATES, 1 + count, 3), np.uint8)
        light = luminance(candidates) + 0.05
        ratios = light[:, :1] / light[:, 1:]
        contrasts = np.maximum(ratios, 1 / ratios).min(axis=1)
        good = np.flatnonzero(contrasts >= least)
        if good.size:
            first = good[0]
            return candidates[first, 0], candidates[first, 1:], float(contrasts[first])


def _background(
    kind: str, colors: npt.NDArray[np.uint8], noise: float, size: int, rng: np.random.Generator
) -> Image.Image:
    """A background of size x size pixels."""
    if kind == "gradient":
        return _gradient(colors, size, rng)
    if kind == "shapes":
        return _shapes(colors, size, rng)
    if kind == "noise":
        grain = rng.standard_normal((size, size, 3), np.float32) * np.float32(noise * 255)
        return Image.fromarray(np.clip(colors[0] + grain, 0, 255).astype(np.uint8))
    return Image.new("RGB", (size, size), _rgb(colors[0]))


def _gradient(colors: npt.NDArray[np.uint8], size: int, rng: np.random.Generator) -> Image.Image:
    """From one colour to the other in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, size)
    along = axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)
    share = (along - along.min()) / np.ptp(along)
    image = Image.new("RGB", (size, size), _rgb(colors[0]))
    image.paste(_rgb(colors[1]), (0, 0, size, size), Image.fromarray(np.rint(share * 255).astype(np.uint8)))
    return image


def _shapes(colors: npt.NDArray[np.uint8], size: int, rng: np.random.Generator) -> Image.Image:
    """Softly edged triangles and quadrangles on a plain ground, like OmniPrint's random colour composition."""
    image = Image.new("RGB", (size, size), _rgb(colors[0]))
    draw = ImageDraw.Draw(image)
    for color in colors[1:]:
        centre = rng.uniform(0, size, 2)
        corners = rng.integers(3, 5)
        angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
        reach = rng.uniform(0.3, 0.7) * size
        points = centre + reach * np.column_stack([np.cos(angles), np.sin(angles)])
        draw.polygon(points.ravel().tolist(), fill=_rgb(color))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 4) * size / 128))


def _rgb(color: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    red, green, blue = color.tolist()
    return red, green, blue
