"""One picture of a letter: drawn by FreeType, warped by Pillow's transforms, coloured and put on a background.

The fonts (DejaVu, STIX, Computer Modern) are those that the matplotlib package ships.
"""

import importlib.util
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from rrrnet.errors import IncompatibleError
from rrrnet.glyphs.options import GlyphOptions
from rrrnet.installing import install_line

FloatArray = npt.NDArray[np.float64]
Uint8Array = npt.NDArray[np.uint8]
Color = tuple[int, ...]  # red, green, blue
Factors = dict[str, float | str]  # what was drawn, by column name of labels.csv

_TEXT_FONTS = (
    *(f"DejaVu{face}{style}" for face in ("Sans", "SansMono") for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
# TeX fonts: their character maps are right for ASCII only.
_ASCII_FONTS = ("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10")
_NO_CHARACTER = "\uffff"  # by the Unicode standard; fonts draw it like any letter that they lack
_SCALE = (0.5, 0.9)  # the letter's longer side in parts of the image's
_MARGIN = 0.03  # kept free on every side, in parts of the image's side
_SUPERSAMPLING = 1.5  # of the letter while it is warped
_CELLS = 4  # to a side of the grid of --elastic: at its largest, two neighbouring nodes cannot meet
_CORNERS = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])  # clockwise from the upper left
_COLORS = {"plain": 1, "gradient": 2, "noise": 1, "shapes": 3}  # how many colours each background has


def render_glyph(letter: str, options: GlyphOptions, index: int) -> tuple[Image.Image, dict[str, str]]:
    """Draw picture number `index` of a letter.

    Its generator is seeded by the seed, the letter and the index alone, so the picture depends neither on how many
    others there are nor on their order.

    Returns:
        The picture, RGB (size, size), and its factors by column name of labels.csv: numbers with 6 decimals, colours
        as #rrggbb.

    Raises:
        IncompatibleError: matplotlib (its fonts) is missing.
    """
    rng = np.random.default_rng([options.seed, ord(letter), index])
    fonts = fonts_with(letter)
    font = fonts[rng.integers(len(fonts))]
    mask, shape = draw_shape(font, letter, options, rng)
    image, colors = paint(mask, options, rng)
    factors = {"FONT": f"{font}.ttf", **shape, **colors}
    return image, {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in factors.items()}


@cache
def fonts_with(letter: str) -> tuple[str, ...]:
    """Names of the fonts that can draw `letter`, always in the same order."""
    names = _TEXT_FONTS + (_ASCII_FONTS if letter.isascii() else ())

    def small(name: str, text: str) -> bytes:
        return bytes(_font(name, 16).getmask(text))

    return tuple(name for name in names if small(name, letter) != small(name, _NO_CHARACTER))


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    spec = importlib.util.find_spec("matplotlib")  # not imported, which would take a second
    if spec is None or not spec.submodule_search_locations:
        raise IncompatibleError(
            f"generating glyphs needs the package matplotlib, which is not installed: {install_line('train')}"
        )
    file = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)  # the other is not in every Pillow


def draw_letter(font_name: str, letter: str, side: float, margin: float) -> Image.Image:
    """Coverage of an upright letter, longer side about `side` pixels, in a square with `margin` sides free around."""
    font = _font(font_name, 50)
    left, top, right, bottom = font.getmask(letter).getbbox()  # of the ink; the font's own counts the advance too
    font = font.font_variant(size=50 * side / max(right - left, bottom - top))
    left, top, right, bottom = map(int, font.getbbox(letter))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), letter, fill=255, font=font)
    left, top, right, bottom = drawn.getbbox() or (0, 0, 1, 1)
    # 2 pixels more on each side: Pillow's transforms smooth no edge that lies on the image's.
    frame = int(np.ceil(max(right - left, bottom - top) * (1 + 2 * margin))) + 4
    left, top = (left + right - frame) // 2, (top + bottom - frame) // 2
    return drawn.crop((left, top, left + frame, top + frame))


def draw_shape(font: str, letter: str, options: GlyphOptions, rng: np.random.Generator) -> tuple[Image.Image, Factors]:
    """A warped letter's coverage, mode L, (size, size), and the factors drawn.

    Translations are the middle of the letter's box minus the image's, in parts of the image's side.
    """
    rotation = rng.uniform(-options.rotation, options.rotation)
    shear_x = rng.uniform(-options.shear, options.shear)
    stretch = rng.uniform(-options.stretch, options.stretch)
    elastic = rng.uniform(0, options.elastic)
    scale = rng.uniform(*_SCALE)
    corners = rng.uniform(-options.perspective, options.perspective, (4, 2))
    place = rng.uniform(-options.translation, options.translation, 2)
    image = jitter(draw_letter(font, letter, _SUPERSAMPLING * scale * options.size, elastic), elastic, rng)
    image = project(image, transform(_CORNERS + corners, rotation, shear_x, stretch) * image.width)
    image = image.crop(image.getbbox())
    sides = np.array(image.size)
    # In whole pixels, the same on either side, so that a letter in the middle is exactly there.
    free = np.rint((1 - sides * scale / sides.max()) * options.size / 2).astype(int).clip(max=options.size // 2 - 1)
    shift = np.rint(place * (free - _MARGIN * options.size).clip(min=0)).astype(int)
    width, height = (options.size - 2 * free).tolist()
    mask = Image.new("L", (options.size, options.size))
    mask.paste(image.resize((width, height), Image.Resampling.BILINEAR), tuple((free + shift).tolist()))
    return mask, {
        "ROTATION": rotation,
        "SHEAR_X": shear_x,
        "STRETCH": stretch,
        "ELASTIC": elastic,
        "SCALE": scale,
        "TRANSLATION_X": float(shift[0] / options.size),
        "TRANSLATION_Y": float(shift[1] / options.size),
        "PERSPECTIVE": float(np.sqrt((corners**2).sum(axis=1).mean())),  # RMS shift of the corners
        "PERSPECTIVE_CORNERS": " ".join(f"{value:.6f}" for value in corners.ravel()),
    }


def jitter(image: Image.Image, elastic: float, rng: np.random.Generator) -> Image.Image:
    """Move each node of a grid over a square image by up to `elastic`, in parts of its side."""
    nodes = np.rint(np.linspace(0, image.width, _CELLS + 1)).astype(int)
    sources = np.stack(np.meshgrid(nodes, nodes), axis=-1)  # (row, column, x and y)
    sources = sources + rng.uniform(-elastic, elastic, sources.shape) * image.width
    # Each cell's corners in Pillow's order: upper left, lower left, lower right, upper right.
    quads = np.concatenate([sources[:-1, :-1], sources[1:, :-1], sources[1:, 1:], sources[:-1, 1:]], axis=-1)
    cells = [(left, top, right, bottom) for (top, bottom), (left, right) in product(pairwise(nodes.tolist()), repeat=2)]
    mesh = list(zip(cells, quads.reshape(-1, 8).tolist(), strict=True))
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def transform(points: FloatArray, rotation: float, shear_x: float, stretch: float) -> FloatArray:
    """Stretch (width over height by exp(stretch)), then shear, then rotate (degrees, clockwise) points (P, 2)."""
    x, y = points[:, 0] * np.exp(stretch / 2), points[:, 1] * np.exp(-stretch / 2)
    x = x + shear_x * y
    cosine, sine = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    return np.column_stack([cosine * x - sine * y, sine * x + cosine * y])


def project(image: Image.Image, corners: FloatArray) -> Image.Image:
    """A square image so distorted that its corners lie like the points (4, 2), in an image that just holds them."""
    (x, y), (u, v) = (corners - corners.min(axis=0)).T, (_CORNERS.T + 0.5) * image.width
    one, zero = np.ones(4), np.zeros(4)
    # The 8 coefficients of Pillow's PERSPECTIVE, which maps a point (x, y) of the result to (u, v) of the source.
    equations = np.vstack(
        [
            np.column_stack([x, y, one, zero, zero, zero, -u * x, -u * y]),
            np.column_stack([zero, zero, zero, x, y, one, -v * x, -v * y]),
        ]
    )
    coefficients = np.linalg.solve(equations, np.concatenate([u, v])).tolist()
    size = int(np.ceil(x.max())), int(np.ceil(y.max()))
    return image.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)


def paint(mask: Image.Image, options: GlyphOptions, rng: np.random.Generator) -> tuple[Image.Image, Factors]:
    """Colour a letter and put it on a background.

    Args:
        mask: the letter's coverage, mode L, (size, size).
        options: kinds of background and limits.
        rng: the picture's own generator.

    Returns:
        The picture, RGB, and the factors drawn; BLUR is in pixels.
    """
    kind = options.backgrounds[rng.integers(len(options.backgrounds))]
    blur = rng.uniform(0, options.blur) * options.size / 128
    (text, *ground), contrast = _pick_colors(_COLORS[kind], options.contrast, rng)
    noise = rng.uniform(0, options.noise) if kind == "noise" else 0.0
    image = _background(kind, ground, noise, options.size, rng)
    image.paste(text, (0, 0, *image.size), mask)
    return image.filter(ImageFilter.GaussianBlur(blur)), {
        "BACKGROUND": kind,
        "BACKGROUND_COLORS": " ".join("#" + bytes(color).hex() for color in ground),
        "TEXT_COLOR": "#" + bytes(text).hex(),
        "CONTRAST": contrast,
        "NOISE": noise,
        "BLUR": blur,
    }


def luminance(colors: Uint8Array) -> FloatArray:
    """Relative luminance in [0, 1] of sRGB colours (..., 3), as WCAG 2 defines it."""
    values = colors / 255.0
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    result: FloatArray = (linear * (0.2126, 0.7152, 0.0722)).sum(axis=-1)
    return result


def _pick_colors(count: int, least: float, rng: np.random.Generator) -> tuple[list[Color], float]:
    """A text colour and `count` background colours, and the text's least contrast with one of these, >= `least`."""
    while True:  # ends: at the strictest setting more than one set of a thousand passes
        candidates = rng.integers(0, 256, (64, 1 + count, 3), np.uint8)
        light = luminance(candidates) + 0.05
        ratios = light[:, :1] / light[:, 1:]
        contrasts = np.maximum(ratios, 1 / ratios).min(axis=1)
        good = np.flatnonzero(contrasts >= least)
        if good.size:
            return [tuple(color) for color in candidates[good[0]].tolist()], float(contrasts[good[0]])


def _background(kind: str, colors: list[Color], noise: float, size: int, rng: np.random.Generator) -> Image.Image:
    """A background of size x size pixels."""
    image = Image.new("RGB", (size, size), colors[0])
    if kind == "noise":
        grain = rng.standard_normal((size, size, 3), np.float32) * np.float32(noise * 255)
        return Image.fromarray((colors[0] + grain).clip(0, 255).astype(np.uint8))
    if kind == "gradient":  # from one colour to the other in a random direction
        angle = rng.uniform(0, 2 * np.pi)
        axis = np.linspace(-1, 1, size)
        along = axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)
        share = (along - along.min()) / np.ptp(along)
        image.paste(colors[1], (0, 0, size, size), Image.fromarray(np.rint(share * 255).astype(np.uint8)))
    if kind == "shapes":  # softly edged triangles and squares, like OmniPrint's random colour composition
        draw = ImageDraw.Draw(image)
        for color in colors[1:]:
            (x, y), reach = rng.uniform(0, size, 2).tolist(), rng.uniform(0.3, 0.7) * size
            draw.regular_polygon((x, y, reach), int(rng.integers(3, 5)), rng.uniform(0, 360), fill=color)
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 4) * size / 128))
    return image
