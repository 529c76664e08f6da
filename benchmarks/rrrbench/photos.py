"""Photos that nobody took: cats, dogs and owls of circles and triangles before textured noise, 640 x 480, as JPEG."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 640, 480
_BLUR_PIXELS = 1.2
_NOISE = 7.0
_QUALITY = 88

Random = np.random.Generator
Point = tuple[float, float]
Colour = tuple[int, int, int]


class _Pen:
    """Draws in units of the animal's size around its middle; y goes down."""

    def __init__(self, picture: Image.Image, middle: Point, size: float) -> None:
        self._draw, self._middle, self._size = ImageDraw.Draw(picture), middle, size

    def at(self, x: float, y: float) -> Point:
        return self._middle[0] + x * self._size, self._middle[1] + y * self._size

    def ellipse(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        self._draw.ellipse((*self.at(x - width, y - height), *self.at(x + width, y + height)), fill=colour)

    def polygon(self, *points: Point, colour: Colour) -> None:
        self._draw.polygon([self.at(*point) for point in points], fill=colour)

    def line(self, start: Point, end: Point, colour: Colour) -> None:
        self._draw.line((*self.at(*start), *self.at(*end)), fill=colour, width=3)


def _cat(pen: _Pen, fur: Colour, dark: Colour) -> None:
    for side in (-1, 1):
        pen.polygon((side * 0.95, -1.35), (side * 0.15, -0.75), (side * 0.95, -0.2), colour=fur)
        pen.polygon((side * 0.85, -1.1), (side * 0.4, -0.75), (side * 0.85, -0.45), colour=(230, 160, 160))
    pen.ellipse(0, 0, 1, 0.85, fur)
    for side in (-1, 1):
        pen.ellipse(side * 0.42, -0.15, 0.2, 0.16, (210, 220, 70))
        pen.ellipse(side * 0.42, -0.15, 0.05, 0.15, (10, 10, 10))
        for slope in (-0.12, 0.0, 0.12):
            pen.line((side * 0.25, 0.35), (side * 1.3, 0.3 + slope * 2), (240, 240, 240))
    pen.polygon((-0.1, 0.2), (0.1, 0.2), (0, 0.32), colour=dark)


def _dog(pen: _Pen, fur: Colour, dark: Colour) -> None:
    pen.ellipse(0, 0, 0.8, 1, fur)
    for side in (-1, 1):
        pen.ellipse(side * 0.9, 0.05, 0.26, 0.75, dark)
        pen.ellipse(side * 0.32, -0.25, 0.1, 0.1, (10, 10, 10))
    pen.ellipse(0, 0.45, 0.45, 0.42, (235, 225, 210))
    pen.ellipse(0, 0.25, 0.2, 0.14, (10, 10, 10))
    pen.ellipse(0, 0.85, 0.14, 0.2, (225, 90, 110))


def _owl(pen: _Pen, fur: Colour, dark: Colour) -> None:
    pen.ellipse(0, 0.3, 0.85, 1.2, fur)
    for row in range(4):
        for column in range(-2, 3):
            x, y = column * 0.25, 0.5 + row * 0.22
            pen.polygon((x - 0.1, y), (x + 0.1, y), (x, y + 0.14), colour=dark)
    for side in (-1, 1):
        pen.ellipse(side * 0.36, -0.3, 0.36, 0.36, (245, 245, 235))
        pen.ellipse(side * 0.36, -0.3, 0.18, 0.18, (15, 15, 15))
    pen.polygon((-0.12, -0.1), (0.12, -0.1), (0, 0.2), colour=(240, 150, 30))


ANIMALS: dict[str, Callable[[_Pen, Colour, Colour], None]] = {"cat": _cat, "dog": _dog, "owl": _owl}


def photo(animal: str, seed: int) -> bytes:
    """A JPEG of one of `ANIMALS`: place, size, colours and light are drawn from the seed."""
    random = np.random.default_rng([seed, *animal.encode()])
    picture = Image.fromarray(_background(random))
    size = random.uniform(100, 160)
    middle = (random.uniform(200, WIDTH - 200), random.uniform(200, HEIGHT - 180))
    shade = random.integers(90, 220)
    fur = (int(shade), int(shade * random.uniform(0.7, 0.95)), int(shade * random.uniform(0.45, 0.8)))
    dark = (fur[0] // 2, fur[1] // 2, fur[2] // 2)
    ANIMALS[animal](_Pen(picture, middle, size), fur, dark)
    picture = picture.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
    picture = picture.filter(ImageFilter.GaussianBlur(_BLUR_PIXELS))
    pixels = np.asarray(picture) * random.uniform(0.7, 1.15) + random.normal(0, _NOISE, (HEIGHT, WIDTH, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def write_photos(folder: Path, each: int) -> None:
    """A folder of `each` photos for every animal: `cat/cat_001.jpg`, ..."""
    for animal in ANIMALS:
        (folder / animal).mkdir(parents=True)
        for number in range(1, each + 1):
            (folder / animal / f"{animal}_{number:03}.jpg").write_bytes(photo(animal, number))


def _background(random: Random) -> npt.NDArray[np.uint8]:
    """Soft patches of colour with a coarse grain. Shape (480, 640, 3)."""
    soft = Image.fromarray(random.integers(60, 200, (6, 8, 3), np.uint8))
    grain = Image.fromarray(random.integers(0, 256, (96, 128), np.uint8))
    patches = np.asarray(soft.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float64)
    texture = np.asarray(grain.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float64)
    return (patches + 0.25 * (texture[..., None] - 128)).clip(0, 255).astype(np.uint8)
