"""An image as a caller of the library has it: what it becomes, and what is refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rrrnet.data.given import as_bytes, as_input, several
from rrrnet.errors import ImageError, UsageError
from rrrnet.images.preprocess import Preprocess, image_to_array

RULE = Preprocess(32)
PIXELS = np.random.default_rng(1).integers(0, 256, (48, 40, 3), np.uint8)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_paths_bytes_arrays_and_pil_images_of_the_same_pixels_are_the_same_input(tmp_path: Path) -> None:
    path, image = tmp_path / "image.png", Image.fromarray(PIXELS)
    path.write_bytes(png(image))
    wanted = image_to_array(path.read_bytes(), RULE)
    for given in (path, str(path), path.read_bytes(), PIXELS, PIXELS[:, ::-1][:, ::-1], image):
        assert np.array_equal(as_input(given, RULE), wanted)
        assert np.array_equal(image_to_array(as_bytes(given), RULE), wanted), "a service sees the same"
    grey = PIXELS[..., 0]
    assert np.array_equal(as_input(grey, RULE), as_input(np.stack([grey] * 3, axis=2), RULE))


def test_a_pil_image_is_turned_upright_and_laid_on_white_and_stays_as_it_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", quality=95, exif=exif)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    assert np.array_equal(as_input(opened, RULE), image_to_array(buffer.getvalue(), RULE))
    assert opened.size == (40, 48)
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert as_input(clear, RULE).min() == 255
    assert image_to_array(as_bytes(clear), RULE).min() == 255
    assert clear.mode == "RGBA"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PIXELS.astype(np.float32), r"shape \(48, 40, 3\) and dtype float32: allowed are \(H, W, 3\)"),
        (PIXELS[..., :2], r"shape \(48, 40, 2\)"),
        (PIXELS[:0], r"shape \(0, 40, 3\)"),
        (None, "an image is a NoneType: allowed are a path, bytes, a uint8 array or a PIL image"),
    ],
)
def test_what_is_no_image_is_refused_with_what_is_allowed(given: Any, message: str) -> None:
    for use in (lambda: as_input(given, RULE), lambda: as_bytes(given)):
        with pytest.raises(UsageError, match=message):
            use()


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    with pytest.raises(ImageError, match=r"notes\.txt: the bytes are not one of JPEG") as refused:
        as_input(text, RULE)
    assert refused.value.code == "unsupported_image"
    cut = Image.open(io.BytesIO(png(Image.fromarray(PIXELS))[:2000]))
    with pytest.raises(ImageError, match="cannot be loaded"):
        as_input(cut, RULE)


def test_one_image_is_told_from_several() -> None:
    assert list(several("a.png")) == ["a.png"]
    assert len(list(several(PIXELS))) == 1
    assert len(list(several(PIXELS[None].repeat(3, axis=0)))) == 3
    assert list(several(iter(["a.png", "b.png"]))) == ["a.png", "b.png"]
