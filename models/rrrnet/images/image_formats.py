"""Which encoded images are taken, told by their first bytes, and what must be installed to decode them."""

from functools import cache

from rrrnet.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIC")
IN_WORDS = "JPEG, PNG, WebP, AVIF or HEIC"
# In general words: they reach clients of the service too, whom its paths do not concern.
HEIC_INSTALL = "pip install 'rrrnet-serving[heif]'"

# An AVIF or HEIC begins with a box of brands: its own, a version, then those it is compatible with.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"), "HEIC"),
}
_GENERIC_BRANDS = (b"mif1", b"msf1", b"mif2", b"miaf")
_MOST_BRANDS_BYTES = 256


def image_format(data: bytes) -> str | None:
    """Name of the accepted format whose magic bytes `data` begins with, or None. Labels and names are not trusted.

    The first 256 bytes of a file are enough.
    """
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _format_of_brands(data)
    return None


def _format_of_brands(data: bytes) -> str | None:
    """AVIF or HEIC, by the first brand that is one of theirs; None for a film or anything else in such boxes."""
    own, end = data[8:12], min(int.from_bytes(data[:4], "big"), _MOST_BRANDS_BYTES)
    compatible = (data[start : start + 4] for start in range(16, end, 4)) if own in _GENERIC_BRANDS else ()
    return next((_BRANDS[brand] for brand in (own, *compatible) if brand in _BRANDS), None)


def pillow_format(kind: str) -> str:
    """Pillow's name of a format, once its decoder is at hand.

    Args:
        kind: one of `FORMATS`.

    Raises:
        ImageError: with code `unsupported_image`, where that decoder is not installed.
    """
    if kind == "AVIF" and not _avif_ready():
        message = "AVIF images need a Pillow with libavif, which this one lacks: pip install --force-reinstall pillow"
        raise ImageError("unsupported_image", f"{message}, or save the image as JPEG")
    if kind == "HEIC" and not _heic_ready():
        message = f"HEIC images need a package that is not installed here: {HEIC_INSTALL}, or save the image as JPEG"
        raise ImageError("unsupported_image", message)
    return "HEIF" if kind == "HEIC" else kind


# One thread each: else one image would take every core, where the pool that decodes counts it as one.


@cache
def _avif_ready() -> bool:
    """Whether Pillow reads AVIF."""
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    return AvifImagePlugin.SUPPORTED


@cache
def _heic_ready() -> bool:
    """Teach Pillow HEIC; false without the package. It turns the pixels as the file says, and clears the EXIF entry."""
    try:
        import pillow_heif
    except ImportError:
        return False
    # With thumbnails, `draft` would decode one in place of the image.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True
