"""Image bytes to the uint8 array that every engine takes. Used by training, verification and service alike.

The steps: decode (by magic bytes, EXIF orientation applied, what is transparent laid on white, RGB; a JPEG that is many
times too large at a fraction of its size), resize the whole image to `size` x `size` (no crop, as the paper's test
transform) or its shorter side and cut out the centre, keep uint8 NHWC. Mean, std and the order of the colours are the
network's own affair, so that they cannot skew between training and serving. numpy and Pillow only.
"""

import math
import struct
import warnings
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from rrrnet.errors import ArtifactError, ImageError
from rrrnet.images import avif_boxes, jpeg_markers
from rrrnet.images.image_formats import FORMATS, pillow_format
from rrrnet.images.image_formats import image_format as image_format

Uint8Array = npt.NDArray[np.uint8]

# The limit below is stricter than Pillow's, and Pillow's warning cannot be silenced safely in several threads.
Image.MAX_IMAGE_PIXELS = None
# Pillow unpacks a PNG's comments though nobody asks for them: 64 MB out of 64 KB of file, were it not for this.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * PngImagePlugin.MAX_TEXT_CHUNK
# It warns of damaged metadata in words that hold numbers of the file: a log without end, written by whoever sends
# images, and a registry of warnings in memory that grows with it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

MAX_PIXELS = 4096 * 4096
# Of width and height. Pillow keeps a pointer for each row, and weights for each column while it resizes: an image of 16
# million rows takes ten times the memory of a square one.
MAX_SIDE = 2**20
MIN_SIZE, MAX_SIZE = 32, 1024
MAX_RESIZE = 2 * MAX_SIZE
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_JPEG_OVERSIZE = 64

MODES = ("squash", "crop")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
FILTERS = tuple(_FILTERS)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input.

    Attributes:
        size: height and width in pixels of the network's input.
        resize: resampling filter, "bilinear" or "bicubic" (both antialiased).
        mean: per-channel mean of RGB in [0, 1], subtracted inside the network.
        std: per-channel standard deviation of RGB in [0, 1], divided by inside the network.
        jpeg_oversize: a JPEG that is squashed is decoded at 1/8, 1/4 or 1/2 of its size where that leaves at least so
            many times `size` to be resized; 0 decodes in full. At 4 this changes pixels by no more than JPEG's own
            losses do, or by rounding (docs/internals/tuning.md).
        mode: "squash" resizes the whole image to a square, whatever its aspect ratio; "crop" resizes the shorter side
            to `resize_size` and cuts `size` x `size` out of the middle, the pixels of torchvision's Resize, CenterCrop.
        resize_size: pixels of the shorter side, with "crop" alone.
        bgr: the network's first channel is blue, its third red, as OpenCV reads images; turned inside the network.
            `mean` and `std` are in the order of RGB all the same.
    """

    size: int = 128
    resize: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    jpeg_oversize: int = 4
    mode: str = "squash"
    resize_size: int | None = None
    bgr: bool = False

    def __post_init__(self) -> None:
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ArtifactError(f"image size is {self.size}: allowed are {MIN_SIZE} to {MAX_SIZE} pixels")
        if self.resize not in _FILTERS:
            raise ArtifactError(f"resize rule is {self.resize!r}: allowed are {', '.join(_FILTERS)}")
        if not 0 <= self.jpeg_oversize <= MAX_JPEG_OVERSIZE:
            raise ArtifactError(f"jpeg_oversize is {self.jpeg_oversize}: allowed are 0 to {MAX_JPEG_OVERSIZE}")
        if self.mode not in MODES:
            raise ArtifactError(f"preprocessing mode is {self.mode!r}: allowed are {', '.join(MODES)}")
        if self.mode == "crop" and not (self.resize_size and self.size <= self.resize_size <= MAX_RESIZE):
            raise ArtifactError(f"resize_size is {self.resize_size}: allowed are {self.size} to {MAX_RESIZE} pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ArtifactError(f"mean is {self.mean} and std {self.std}: allowed are 3 numbers each")
        if min(self.std) <= 0:
            raise ArtifactError(f"std is {self.std}: allowed are numbers above 0")

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocess":
        """Read what `to_json` wrote. Artifacts from before JPEGs were scaled keep decoding them in full."""
        return cls(
            size=values["size"],
            resize=values["resize"],
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            jpeg_oversize=values.get("jpeg_oversize", 0),
            mode=values.get("mode", "squash"),
            resize_size=values.get("resize_size"),
            bgr=values.get("bgr", False),
        )

    @property
    def is_default_squash(self) -> bool:
        """Whether the whole image is squashed: the rule of the paper, and of few networks trained elsewhere."""
        return self.mode == "squash"

    def describe(self) -> str:
        """The rule in words, for people."""
        if self.mode == "crop":
            pixels = f"shorter side to {self.resize_size} ({self.resize}), centre crop {self.size} x {self.size}"
        else:
            pixels = f"whole image to {self.size} x {self.size} ({self.resize}), no crop"
        mean, std = (" ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"{pixels}; {'BGR' if self.bgr else 'RGB'}, mean {mean}, std {std}"

    def jpeg_scale(self, width: int, height: int) -> int:
        """1, 2, 4 or 8: by how much a JPEG of so many pixels is shrunk by its decoder.

        Only by a number that divides both sides: else the last pixels would stand for fewer than the others.
        """
        least = self.jpeg_oversize * self.size if self.mode == "squash" else 0
        for scale in (8, 4, 2) if least else ():
            if width % scale == height % scale == 0 and min(width, height) >= scale * least:
                return scale
        return 1

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an upright image of `width` x `height` is resized to, before anything is cut off."""
        if self.resize_size is None:
            return self.size, self.size
        # torchvision's rounding: the longer side down, in floating point
        if width <= height:
            return self.resize_size, int(self.resize_size * height / width)
        return int(self.resize_size * width / height), self.resize_size

    def working_pixels(self, width: int, height: int) -> int:
        """Pixels of the largest picture that is held while an image of `width` x `height` becomes an input."""
        resized = math.prod(self.resized(width, height))
        return width * height if resized > MAX_PIXELS else max(width * height, resized)


def squash_note(preprocess: Preprocess) -> str:
    """What to tell whoever imports a network without saying how it saw images; empty where there is nothing to tell."""
    if not preprocess.is_default_squash:
        return ""
    size = preprocess.size
    return (
        f"note: imported networks get our default squash: whole image to {size} x {size} without crop; most fine-tuned "
        "networks were trained with resize + centre crop: give --preprocess crop --resize 256 --crop 224"
    )


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of an image's bytes; the pixels are not decoded yet.

    Args:
        data: the encoded image.
        max_pixels: width x height allowed; checked before memory is spent.

    Raises:
        ImageError: with code `empty_image`, `unsupported_image`, `too_many_pixels`, `truncated_image` or `bad_image`.
    """
    if not data:
        raise ImageError("empty_image", "the image has 0 bytes")
    kind = image_format(data)
    if kind is None:
        raise ImageError(
            "unsupported_image",
            f"the bytes are not one of {', '.join(FORMATS)} (judged by their first bytes)",
        )
    if kind == "PNG" and len(data) >= 24:  # told at once, however damaged the rest of the header is
        width, height = struct.unpack_from(">II", data, 16)
        _check_pixels(width, height, max_pixels)
    pillow_kind = pillow_format(kind)
    if kind == "JPEG" and (problem := jpeg_markers.problem_of(data)) is not None:
        raise ImageError("bad_image", problem)
    if kind in ("AVIF", "HEIC") and avif_boxes.cut_short(data):
        raise ImageError("truncated_image", f"the {kind} data are cut short")
    try:
        opened = Image.open(BytesIO(data), formats=(pillow_kind,))
    except Exception as error:  # Pillow's plugins raise many types on hostile bytes; all mean the same to a client
        # A WebP is read as a whole when it is opened; it tells its length.
        if kind == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
            raise ImageError("truncated_image", "the WEBP data are cut short") from error
        raise ImageError("bad_image", f"the {kind} header cannot be read") from error
    _check_pixels(*opened.size, max_pixels)
    if kind == "AVIF" and (found := avif_boxes.problem_of(data, *opened.size)) is not None:
        raise ImageError(*found)
    return opened


def _check_pixels(width: int, height: int, most: int) -> None:
    if width * height == 0:
        raise ImageError("bad_image", f"the image is {width} x {height} pixels")
    if width * height > most:
        raise ImageError("too_many_pixels", f"the image is {width} x {height} pixels: at most {most} are allowed")
    if max(width, height) > MAX_SIDE:
        raise ImageError("too_many_pixels", f"the image is {width} x {height} pixels: at most {MAX_SIDE} a side")


def load_rgb(opened: Image.Image, preprocess: Preprocess | None = None) -> Image.Image:
    """Decode what `open_image` gave to an upright RGB image.

    Args:
        opened: the image.
        preprocess: shrinks a JPEG as `jpeg_scale` says; None leaves it as large as it is.

    Raises:
        ImageError: with code `truncated_image` or `bad_image`.
    """
    try:
        if preprocess is not None and (scale := preprocess.jpeg_scale(*opened.size)) > 1:
            opened.draft(None, (opened.width // scale, opened.height // scale))  # no other format's draft does anything
        opened.load()
        return _to_rgb(_upright(opened))
    except Exception as error:  # as above
        code = "truncated_image" if "truncated" in str(error).lower() else "bad_image"
        message = f"the {opened.format} data are {'cut short' if code == 'truncated_image' else 'damaged'}"
        raise ImageError(code, message) from error


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Encoded bytes to an upright RGB image: `open_image`, then `load_rgb`, whose errors it raises."""
    return load_rgb(open_image(data, max_pixels=max_pixels))


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says. Damaged EXIF data are no reason to refuse good pixels."""
    try:
        # exif_transpose copies an image that needs no turning too: at 4 megapixels that costs as much as the decoding.
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if upright else ImageOps.exif_transpose(image)
    except Exception:  # the EXIF parser, too, raises many types on hostile bytes
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any Pillow mode, what is transparent laid on white: else a logo on nothing becomes all black.

    16-bit grey is scaled to 8 bit (Pillow's own conversion clips it).
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        grey = (values >> 8).clip(0, 255).astype(np.uint8)
        if (clear := image.info.get("transparency")) is not None:
            grey[values == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.info.get("transparency")
    if (
        isinstance(clear, tuple) and max(clear) > 255
    ):  # of a PNG of 16 bits a channel, of which Pillow keeps the upper 8
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def to_array(image: Image.Image, preprocess: Preprocess) -> Uint8Array:
    """Resize an RGB image to the network's input, and cut it out. Shape: (size, size, 3), uint8."""
    size, resample = preprocess.size, _FILTERS[preprocess.resize]
    width, height = preprocess.resized(*image.size)
    # torchvision's CenterCrop; nothing where the whole image is squashed
    left, top = round((width - size) / 2), round((height - size) / 2)
    if width * height > MAX_PIXELS:  # at once, not as a whole: `working_pixels` counts on it
        # A strip hundreds of times as long as wide: only what is kept is resized. Pillow's weights then differ in their
        # last bits, so not for every image.
        across, down = image.width / width, image.height / height
        right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
        image = image.resize((size, size), resample, (left * across, top * down, right, bottom))
    else:
        if image.size != (width, height):
            image = image.resize((width, height), resample)
        if image.size != (size, size):
            image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, dtype=np.uint8)


def image_to_array(data: bytes, preprocess: Preprocess, *, max_pixels: int = MAX_PIXELS) -> Uint8Array:
    """Encoded bytes to the network's input: decoded, then `to_array`. Shape: (size, size, 3), uint8."""
    return to_array(load_rgb(open_image(data, max_pixels=max_pixels), preprocess), preprocess)
