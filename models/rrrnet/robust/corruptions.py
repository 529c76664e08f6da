"""Common corruptions of images at five severities, by numpy and Pillow.

Six of ImageNet-C (arXiv 1903.12261, section 3) at its strengths; lengths in pixels are of 224 there and scaled to the
image here. imagecorruptions 1.1.2, the known package, cannot be imported beside current setuptools (`pkg_resources`).
"""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from rrrnet.images.preprocess import Uint8Array

SEVERITIES = (1, 2, 3, 4, 5)
_PIXELS = 224
_STRENGTHS: dict[str, tuple[float, ...]] = {
    "gaussian noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, of pixels in [0, 1]
    "gaussian blur": (1, 2, 3, 4, 6),  # standard deviation in pixels of 224
    "JPEG": (25, 18, 15, 10, 7),  # quality
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added to V of HSV
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # what is left of it
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),  # of each side
}
NAMES = tuple(_STRENGTHS)


def corrupt(images: Uint8Array, name: str, severity: int, seed: int) -> Uint8Array:
    """Images as the network takes them, each corrupted; the same seed gives the same bytes.

    Args:
        images: shape (N, S, S, 3), uint8 RGB.
        name: of `NAMES`.
        severity: 1 to 5.
        seed: of the noise.
    """
    strength = _STRENGTHS[name][severity - 1]
    random = np.random.default_rng([seed, severity])
    works: dict[str, Callable[[Uint8Array], Uint8Array]] = {
        "gaussian noise": partial(_noise, deviation=strength, random=random),
        "gaussian blur": partial(_blur, deviation=strength),
        "JPEG": partial(_jpeg, quality=int(strength)),
        "brightness": partial(_brightness, added=strength),
        "contrast": partial(_contrast, share=strength),
        "pixelate": partial(_pixelate, share=strength),
    }
    return np.stack([works[name](image) for image in images])


def _noise(image: Uint8Array, *, deviation: float, random: np.random.Generator) -> Uint8Array:
    return _bytes(image + 255 * random.normal(0, deviation, image.shape))


def _blur(image: Uint8Array, *, deviation: float) -> Uint8Array:
    radius = deviation * len(image) / _PIXELS  # Pillow's name for the standard deviation
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _jpeg(image: Uint8Array, *, quality: int) -> Uint8Array:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _brightness(image: Uint8Array, *, added: float) -> Uint8Array:
    """V is the largest colour: all three grow by one factor; black, which has none, becomes grey."""
    value = image.max(axis=2, keepdims=True).astype(np.float64)
    brighter = np.minimum(value + 255 * added, 255)
    return _bytes(np.where(value == 0, brighter, image * (brighter / np.maximum(value, 1))))


def _contrast(image: Uint8Array, *, share: float) -> Uint8Array:
    mean = image.mean(axis=(0, 1))
    return _bytes((image - mean) * share + mean)


def _pixelate(image: Uint8Array, *, share: float) -> Uint8Array:
    side = len(image)
    small = max(1, int(side * share))
    picture = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
    return np.asarray(picture.resize((side, side), Image.Resampling.NEAREST))


def _bytes(pixels: npt.NDArray[np.float64]) -> Uint8Array:
    return np.rint(pixels).clip(0, 255).astype(np.uint8)
