"""Formats told by their first bytes, and transparency laid on white."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rrrnet.errors import ImageError
from rrrnet.images.image_formats import image_format
from rrrnet.images.preprocess import decode, open_image


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_16_bits(colours: int, row: tuple[int, ...], *, clear: bytes = b"") -> bytes:
    """A PNG of 2 x 1 pixels, of colour type `colours`, and the colour that is transparent."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", 2, 1, 16, colours, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(f">{len(row)}H", *row))
    transparency = chunk(b"tRNS", clear) if clear else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparency + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def clear_left_half() -> Image.Image:
    """Black, transparent on the left and half transparent on the right."""
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 128), (4, 0, 8, 4))
    return image


def on_white() -> dict[str, tuple[bytes, list[int]]]:
    """Images, and the greys of their left and right halves."""
    grey = Image.fromarray(np.repeat([[0, 200]], 4, axis=1).repeat(4, axis=0).astype(np.uint8))
    palette = Image.new("P", grey.size)
    palette.putpalette([0, 0, 0, 200, 200, 200])
    palette.paste(1, (4, 0, 8, 4))
    half_clear = clear_left_half()
    return {
        "RGBA": (encode(half_clear), [255, 127]),
        "RGBA in WebP": (encode(half_clear, "WEBP", lossless=True), [255, 127]),
        "RGBA in AVIF": (encode(half_clear, "AVIF", quality=100, subsampling="4:4:4"), [255, 127]),
        "LA": (encode(half_clear.convert("LA")), [255, 127]),
        "palette, one clear colour": (encode(palette, transparency=0), [255, 200]),
        "palette, an alpha for each colour": (encode(palette, transparency=bytes([127, 0])), [127, 255]),
        "grey, one clear value": (encode(grey, transparency=0), [255, 200]),
        "RGB, one clear colour": (encode(grey.convert("RGB"), transparency=(0, 0, 0)), [255, 200]),
        "16-bit RGBA": (png_of_16_bits(6, (0, 0, 0, 0, 0, 0, 0, 32896)), [255, 127]),
        "16-bit LA": (png_of_16_bits(4, (0, 0, 0, 32896)), [255, 127]),
        "16-bit grey": (png_of_16_bits(0, (513, 51200), clear=b"\2\1"), [255, 200]),
        "16-bit RGB": (png_of_16_bits(2, (513,) * 3 + (51200,) * 3, clear=b"\2\1" * 3), [255, 200]),
    }


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((48, 36), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("case", on_white())
def test_what_is_transparent_is_laid_on_white(case: str) -> None:
    data, expected = on_white()[case]
    array = np.asarray(decode(data)).astype(int)
    assert np.abs(array[0, [0, -1]] - np.array(expected)[:, None]).max() <= 1


def box(kind: bytes, major: bytes, *compatible: bytes) -> bytes:
    body = kind + major + bytes(4) + b"".join(compatible)
    return (len(body) + 4).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (box(b"ftyp", b"avif", b"mif1"), "AVIF"),
        (box(b"ftyp", b"avis"), "AVIF"),
        (box(b"ftyp", b"mif1", b"miaf", b"avif"), "AVIF"),
        (box(b"ftyp", b"heic", b"mif1"), "HEIC"),
        (box(b"ftyp", b"mif1", b"heic"), "HEIC"),
        (box(b"ftyp", b"msf1", b"hevc"), "HEIC"),
        (box(b"ftyp", b"isom", b"avif"), None),
        (box(b"ftyp", b"qt  "), None),
        (box(b"ftyp", b"mif1"), None),
        (b"\xff\xff\xff\xffftypmif1", None),
    ],
)
def test_boxed_formats_are_told_by_their_brands(head: bytes, kind: str | None) -> None:
    assert image_format(head) == kind


def test_heic_without_its_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrrnet.images.image_formats._heic_ready", lambda: False)
    with pytest.raises(ImageError, match=r"pip install 'rrrnet-serving\[heif\]'") as caught:
        open_image(box(b"ftyp", b"heic", b"mif1"))
    assert caught.value.code == "unsupported_image"


def test_a_heic_photo_is_read_upright(picture: Image.Image) -> None:
    import pillow_heif

    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    pillow_heif.from_pillow(picture).save(buffer, quality=-1, chroma=444, exif=exif.tobytes())
    assert image_format(buffer.getvalue()) == "HEIC"
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(decode(buffer.getvalue())).astype(int) - np.asarray(upright)).max() <= 3
