"""An image as a caller of the library has it: a file's path, encoded bytes, an array or a PIL image.

A file and bytes are read as the service reads them, an array and a PIL image are taken as they are, pixel by pixel.
"""

import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from rrrnet.data.dataset import MAX_PIXELS
from rrrnet.data.reading import read_image
from rrrnet.errors import ImageError, UsageError
from rrrnet.images.preprocess import Preprocess, Uint8Array, image_to_array, load_rgb, to_array

# The array has shape (H, W, 3), RGB, or (H, W), grey; uint8.
ImageLike: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8] | Image.Image


def several(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """The images, also where only one is given; an array of shape (N, H, W, 3) is N images."""
    one = isinstance(images, str | os.PathLike | bytes | Image.Image)
    return [images] if one or (isinstance(images, np.ndarray) and images.ndim < 4) else images  # type: ignore[list-item, return-value]  # told apart by this


def as_input(image: ImageLike, preprocess: Preprocess) -> Uint8Array:
    """The network's input, shape (S, S, 3), uint8.

    Raises:
        ImageError: it cannot be read; says which.
        UsageError: it is no image at all, or an array of another shape or dtype.
    """
    try:
        data = _bytes_of(image)
        if data is None:
            return to_array(_rgb(image), preprocess)
        return image_to_array(data, preprocess, max_pixels=MAX_PIXELS)
    except ImageError as error:
        raise _named(image, error) from error


def as_bytes(image: ImageLike) -> bytes:
    """What to send to a service: the bytes of a file as they are, of the others a PNG, which loses nothing.

    Raises:
        ImageError, UsageError: as of `as_input`; whether bytes are an image is for the service to say.
    """
    try:
        data = _bytes_of(image)
        if data is not None:
            return data
        buffer = BytesIO()
        _rgb(image).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    except ImageError as error:
        raise _named(image, error) from error


def _bytes_of(image: ImageLike) -> bytes | None:
    if isinstance(image, bytes):
        return image
    return read_image(Path(image)) if isinstance(image, str | os.PathLike) else None


def _rgb(image: Any) -> Image.Image:
    """Upright RGB, what is transparent laid on white; the caller's image stays as it is."""
    if isinstance(image, Image.Image):
        try:
            copy = image.copy()
        except Exception as error:  # Pillow reads it only now, and its plugins raise many types
            raise ImageError("bad_image", "the PIL image cannot be loaded") from error
        return load_rgb(copy)
    if not isinstance(image, np.ndarray):
        raise UsageError(
            f"an image is a {type(image).__name__}: allowed are a path, bytes, a uint8 array or a PIL image"
        )
    grey, rgb = image.ndim == 2, image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (grey or rgb) or not image.size:
        raise UsageError(
            f"an image has shape {image.shape} and dtype {image.dtype}: allowed are (H, W, 3), RGB, and (H, W), grey, "
            "of uint8 from 0 to 255"
        )
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")


def _named(image: ImageLike, error: ImageError) -> ImageError:
    return ImageError(error.code, f"{image}: {error}") if isinstance(image, str | os.PathLike) else error
