"""What an AVIF really holds is told before it is decoded."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rrrnet.errors import ImageError
from rrrnet.images import avif_boxes
from rrrnet.images.preprocess import decode


def avif(width: int, height: int, **options: Any) -> bytes:
    """A picture with a soft alpha channel, so that it holds two coded pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "AVIF", speed=10, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (333, 77)])
@pytest.mark.parametrize("quality", [30, 100])
def test_the_size_of_every_coded_picture_is_found(size: tuple[int, int], quality: int) -> None:
    data = avif(*size, quality=quality)
    meta = dict(avif_boxes._boxes(data, 0, len(data)))[b"meta"]
    units = [unit for item in avif_boxes._coded_items(data, meta) for unit in avif_boxes._units(item)]
    assert [avif_boxes._largest_frame(body) for kind, body in units if kind == 1] == [size, size]
    assert avif_boxes.problem_of(data, *size) is None
    assert decode(data).size == size


def test_a_picture_larger_than_the_file_claims_is_refused_before_it_is_decoded() -> None:
    data = avif(256, 300)
    lying = data.replace(struct.pack(">II", 256, 300), struct.pack(">II", 64, 64))
    assert lying != data
    with pytest.raises(ImageError, match="holds a picture of 256 x 300 pixels, and claims to be 64 x 64") as caught:
        decode(lying)
    assert caught.value.code == "bad_image"


@pytest.mark.parametrize("kept", [40, 200, -10])
def test_a_file_that_is_cut_is_told_from_a_damaged_one(kept: int) -> None:
    with pytest.raises(ImageError, match="cut short") as caught:
        decode(avif(64, 64)[:kept])
    assert caught.value.code == "truncated_image"


def test_a_film_is_refused_in_words() -> None:
    with pytest.raises(ImageError, match="film") as caught:
        decode(avif(16, 16, save_all=True, append_images=[Image.new("RGBA", (16, 16), "red")]))
    assert caught.value.code == "unsupported_image"


def test_a_header_with_timing_and_two_operating_points_is_read() -> None:
    fields = [
        *((0, 3), (0, 1), (0, 1)),  # profile, still picture, reduced header
        *((1, 1), (1, 32), (25, 32), (1, 1), (0b00101, 5)),  # timing, equal interval of 4 ticks
        *((1, 1), (9, 5), (1, 32), (9, 5), (9, 5)),  # decoder model
        *((1, 1), (1, 5)),  # display delay, two operating points
        *((0, 12), (8, 5), (1, 1), (1, 1), (0, 21), (1, 1), (3, 4)),
        *((0, 12), (4, 5), (0, 1), (0, 1)),
        *((10, 4), (9, 4), (1919, 11), (1023, 10)),
    ]
    bits = "".join(f"{value:0{count}b}" for value, count in fields)
    body = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    assert avif_boxes._largest_frame(body) == (1920, 1024)


def box(kind: bytes, *content: bytes) -> bytes:
    body = kind + b"".join(content)
    return (len(body) + 4).to_bytes(4) + body


def hostile() -> dict[str, bytes]:
    head, data = box(b"ftyp", b"avif", bytes(4)), avif(8, 8)
    nothing = box(b"iloc", bytes(4), b"\0\0", b"\xff\xff", (bytes(4) + b"\xff\xff") * 65535)
    return {
        "no boxes": head,
        "cut in its boxes": data[:200],
        "a box beyond the end": head + b"\0\0\1\0meta",
        "a box of no length": head + b"\0\0\0\2meta" * 1000,
        "many boxes": head + box(b"free") * 100_000,
        "two of one kind": data + box(b"meta", bytes(4)),
        "items without end": head + box(b"meta", bytes(4), box(b"iinf", bytes(6)), nothing),
    }


@pytest.mark.parametrize("case", hostile())
def test_boxes_that_cannot_be_read_are_no_image(case: str) -> None:
    assert avif_boxes.problem_of(hostile()[case], 8, 8) == ("bad_image", "the AVIF header cannot be read")
