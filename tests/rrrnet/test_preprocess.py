"""Image bytes to network input: formats, modes, orientation, limits."""

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rrrnet.errors import ArtifactError, ImageError
from rrrnet.images import jpeg_markers
from rrrnet.images.preprocess import Preprocess, decode, image_to_array, load_rgb, open_image


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((48, 36), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_the_formats_are_read_and_resized(picture: Image.Image, kind: str) -> None:
    array = image_to_array(encode(picture, kind), Preprocess(32))
    assert array.shape == (32, 32, 3)
    assert array.dtype == np.uint8


def test_an_image_of_the_right_size_is_not_touched(picture: Image.Image) -> None:
    square = picture.resize((32, 32))
    assert np.array_equal(image_to_array(encode(square), Preprocess(32)), np.asarray(square))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_mode_equals_pillows_conversion_to_rgb(picture: Image.Image, mode: str) -> None:
    converted = picture.convert("RGBA").convert(mode) if mode in ("LA",) else picture.convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    data = encode(converted, kind)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(expected))


def test_16_bit_grey_keeps_its_upper_8_bits() -> None:
    grey = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    array = np.asarray(decode(encode(Image.fromarray(grey))))
    assert np.array_equal(array[..., 0], grey >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """Each orientation's stored pixels are made from the upright ones by the inverse turn."""
    upright = Image.new("RGB", (40, 32), "black")
    upright.paste("red", (0, 0, 20, 16))
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose members
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(decode(encode(stored, exif=exif))), np.asarray(upright))


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((1024, 1024), 8),
        ((1023, 1024), 1),  # odd: the last column of a half would stand for one pixel instead of two
        ((1028, 1024), 4),
        ((2048, 1016), 4),
        ((508, 4096), 2),
        ((512, 256), 2),
        ((248, 256), 1),
        ((32, 32), 1),
    ],
)
def test_a_jpeg_is_shrunk_while_decoding_where_four_times_the_networks_size_is_left(
    size: tuple[int, int], scale: int
) -> None:
    assert Preprocess(32).jpeg_scale(*size) == scale
    assert Preprocess(32, jpeg_oversize=0).jpeg_scale(*size) == 1

    opened = open_image(encode(Image.new("RGB", size, "red"), "JPEG"))
    assert load_rgb(opened, Preprocess(32)).size == (size[0] // scale, size[1] // scale)


def test_a_shrunk_jpeg_differs_from_the_full_one_by_little_more_than_rounding_and_other_formats_not_at_all(
    picture: Image.Image,
) -> None:
    noise = np.random.default_rng(0).normal(0, 8, (768, 1024, 3))
    large = Image.fromarray((np.asarray(picture.resize((1024, 768))) + noise).clip(0, 255).astype(np.uint8))
    data = encode(large, "JPEG", quality=90)
    original = np.asarray(large.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)

    shrunk = image_to_array(data, Preprocess(32))
    assert 0 < np.abs(shrunk - full).mean() < 0.2
    assert np.abs(shrunk - full).max() <= 2
    assert np.array_equal(image_to_array(data, Preprocess(32, jpeg_oversize=0)), full)
    assert np.array_equal(image_to_array(encode(large), Preprocess(32)), original)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_are_shrunk_too(mode: str) -> None:
    array = image_to_array(encode(Image.new(mode, (512, 512)), "JPEG"), Preprocess(32))
    assert array.shape == (32, 32, 3)
    assert set(np.unique(array)) == {0 if mode == "L" else 255}


def test_a_shrunk_jpeg_is_turned_as_its_exif_data_say() -> None:
    stored = Image.new("RGB", (512, 256), "black")
    stored.paste("red", (0, 0, 256, 256))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left half comes to the top
    array = image_to_array(encode(stored, "JPEG", exif=exif), Preprocess(32)).astype(int)
    assert array[:14, :, 0].min() > 200
    assert array[18:, :, 0].max() < 50


def test_a_large_jpeg_that_is_cut_short_is_told_from_a_damaged_one() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    with pytest.raises(ImageError) as caught:
        image_to_array(encode(noise, "JPEG")[:-2000], Preprocess(32))
    assert caught.value.code == "truncated_image"


def test_artifacts_from_before_jpegs_were_shrunk_keep_their_rule() -> None:
    values = Preprocess(32).to_json()
    assert values["jpeg_oversize"] == 4
    del values["jpeg_oversize"]
    assert Preprocess.from_json(values) == Preprocess(32, jpeg_oversize=0)


def test_a_jpeg_with_damaged_exif_is_still_read(picture: Image.Image) -> None:
    data = encode(picture, "JPEG", exif=b"Exif\x00\x00garbage that is no TIFF header at all")
    assert decode(data).size == picture.size


def lying_exif(tags: int) -> bytes:
    """EXIF data of many tags, each of which claims to be longer than the file."""
    entries = (struct.pack("<HHII", 0x9000 + tag, 7, 2**20, 0) for tag in range(tags))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, tags) + b"".join(entries) + bytes(4)


def test_damaged_metadata_write_nothing_to_the_log(picture: Image.Image) -> None:
    script = "import sys; from rrrnet.images.preprocess import decode; print(decode(sys.stdin.buffer.read()).size)"
    data = encode(picture, "JPEG", exif=lying_exif(50))
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"(48, 36)\n", b"")


def many_scans(picture: Image.Image) -> bytes:
    """A progressive JPEG with 300 scans more than it needs."""
    data = encode(picture, "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * 300 + data[-2:]


@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_the_end_of_a_jpeg_is_passed_over(picture: Image.Image, *, progressive: bool) -> None:
    data = encode(picture, "JPEG", progressive=progressive)
    film = b"\xff\xda\xff\xc4\xff\xff" * 20_000
    assert np.array_equal(np.asarray(decode(data + film)), np.asarray(decode(data)))


def test_a_jpeg_within_a_jpegs_metadata_is_passed_over(picture: Image.Image) -> None:
    data = encode(picture, "JPEG")
    segment = b"\xff\xe5\xff\xff" + (b"\xff\xda" * 32_767)[:65_533]
    assert jpeg_markers.problem_of(data[:2] + segment * 20 + data[2:]) is None


def test_scans_cannot_be_hidden_behind_what_a_decoder_passes_over(picture: Image.Image) -> None:
    data = many_scans(picture)
    start = data.index(b"\xff\xda")
    for hidden in (
        b"\xff" * 9,
        b"\xff\xd0",
        b"\xff\xff\xd7",
        b"\xff\x01",
        b"\xff\0",
        b"\xff\xfe\0\2",
        b"\xff\xfe\0\4\xff\xd9",
    ):
        assert "scans" in (jpeg_markers.problem_of(data[:start] + hidden + data[start:]) or ""), hidden


@pytest.mark.parametrize(
    "padding", [b"\xff\xfe\0\2" * 100_000, b"\xff" * 400_000, b"\xff\xd0" * 200_000, b"\xff\0" * 200_000]
)
def test_a_jpeg_whose_header_is_long_without_saying_anything_is_refused(picture: Image.Image, padding: bytes) -> None:
    data = encode(picture, "JPEG")
    with pytest.raises(ImageError, match="segments") as caught:
        open_image(data[:2] + padding + data[2:])
    assert caught.value.code == "bad_image"


def chunk(kind: bytes, body: bytes) -> bytes:
    """A piece of a PNG."""
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


@pytest.mark.parametrize("head", [b"zTXt" + b"a\0\0", b"iTXt" + b"a\0\1\0\0\0"])
def test_a_png_whose_comments_unpack_to_many_megabytes_is_refused(picture: Image.Image, head: bytes) -> None:
    data = encode(picture)
    comment = chunk(head[:4], head[4:] + zlib.compress(bytes(2**20 - 100), 9))
    assert decode(data[:33] + comment * 7 + data[33:]).size == picture.size
    with pytest.raises(ImageError) as caught:
        open_image(data[:33] + comment * 9 + data[33:])
    assert caught.value.code == "bad_image"


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds one byte of pixels."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    pixels = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def bad_images() -> dict[str, tuple[bytes, str]]:
    jpeg = encode(Image.new("RGB", (64, 64), "red"), "JPEG")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return {
        "no bytes": (b"", "empty_image"),
        "text": (b"hello, this is text", "unsupported_image"),
        "gif": (encode(Image.new("P", (4, 4)), "GIF"), "unsupported_image"),
        "bmp": (encode(Image.new("RGB", (4, 4)), "BMP"), "unsupported_image"),
        "tiff": (encode(Image.new("RGB", (4, 4)), "TIFF"), "unsupported_image"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_image"),
        "jpeg magic only": (jpeg[:4], "bad_image"),
        "cut jpeg": (encode(noise, "JPEG")[:-200], "truncated_image"),
        "cut png": (encode(noise)[:-2000], "truncated_image"),
        "cut webp": (encode(noise, "WEBP")[:-200], "truncated_image"),
        "webp of its first 20 bytes": (encode(noise, "WEBP")[:20], "truncated_image"),
        "damaged webp": (b"RIFF" + struct.pack("<I", 1004) + b"WEBP" + b"VP8L" + b"x" * 996, "bad_image"),
        "more rows than a side may have": (png_header(1, 2**20 + 1), "too_many_pixels"),
        "more columns than a side may have": (png_header(2**20 + 1, 1), "too_many_pixels"),
        "20000 x 20000 pixels": (png_header(20_000, 20_000), "too_many_pixels"),
        "zero width": (png_header(0, 5), "bad_image"),
    }


@pytest.mark.parametrize("case", bad_images())
def test_unusable_bytes_have_a_code_of_their_own(case: str) -> None:
    data, code = bad_images()[case]
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 16}, "32 to 1024"),
        ({"resize": "nearest"}, "bilinear, bicubic"),
        ({"jpeg_oversize": -1}, "jpeg_oversize is -1: allowed are 0 to 64"),
    ],
)
def test_an_unknown_preprocessing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Preprocess(**values)


def test_preprocessing_survives_its_json() -> None:
    preprocess = Preprocess(96, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 2)
    assert Preprocess.from_json(preprocess.to_json()) == preprocess
