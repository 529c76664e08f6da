"""Preprocessing as torchvision has it: the shorter side resized, a square cut out of the middle."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from rrrnet.errors import ArtifactError
from rrrnet.images.preprocess import MAX_PIXELS, Preprocess, image_to_array, squash_note

CROP = Preprocess(56, mode="crop", resize_size=64)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_torchvisions_rules(image: Image.Image, resize: int, crop: int, resample: Image.Resampling) -> npt.NDArray[Any]:
    """torchvision's Resize(resize) and CenterCrop(crop) of an upright RGB image, in Pillow's words."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = resize, int(resize * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    image = image.resize((new_width, new_height), resample)
    top, left = round((new_height - crop) / 2.0), round((new_width - crop) / 2.0)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


SIZES = [
    (640, 480),
    (480, 641),
    (101, 100),
    (100, 101),
    (64, 64),
    (56, 56),
    (64, 300),
    (31, 17),
    (1, 1),
    (3, 500),
    (700, 2),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_the_crop_equals_torchvisions_to_the_pixel_at_any_aspect_ratio(size: tuple[int, int], name: str) -> None:
    image = noise(*size)
    expected = by_torchvisions_rules(image, 64, 56, Image.Resampling[name.upper()])
    found = image_to_array(encode(image), Preprocess(56, name, mode="crop", resize_size=64))
    assert found.shape == (56, 56, 3)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("resize", "crop"), [(64, 64), (65, 32), (67, 64), (256, 224)])
def test_the_margins_are_rounded_as_torchvision_rounds_them(resize: int, crop: int) -> None:
    image = noise(90, 71)
    expected = by_torchvisions_rules(image, resize, crop, Image.Resampling.BILINEAR)
    assert np.array_equal(image_to_array(encode(image), Preprocess(crop, mode="crop", resize_size=resize)), expected)


def test_a_large_jpeg_is_decoded_in_full_before_it_is_cropped() -> None:
    data = encode(noise(1024, 768), "JPEG", quality=90)
    expected = by_torchvisions_rules(Image.open(io.BytesIO(data)), 64, 56, Image.Resampling.BILINEAR)
    assert np.array_equal(image_to_array(data, CROP), expected)
    assert CROP.jpeg_scale(1024, 768) == 1


def test_an_image_is_turned_upright_before_it_is_cropped() -> None:
    stored = noise(120, 80)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright = stored.transpose(Image.Transpose.ROTATE_270)
    expected = by_torchvisions_rules(upright, 64, 56, Image.Resampling.BILINEAR)
    assert np.array_equal(image_to_array(encode(stored, exif=exif), CROP), expected)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (2, 2**20)])
def test_a_strip_is_not_blown_up_beyond_what_is_kept_of_it(size: tuple[int, int]) -> None:
    """Resized as a whole the first would take 5 GB at 256 pixels; what is kept of it is one grey from side to side."""
    grey = np.linspace(0, 255, max(size)).astype(np.uint8)
    image = Image.fromarray(grey[:, None] if size[0] < size[1] else grey[None, :]).resize(size).convert("RGB")
    rule = Preprocess(224, mode="crop", resize_size=256)
    width, height = rule.resized(*size)
    assert width * height > 60 * MAX_PIXELS
    assert rule.working_pixels(*size) == size[0] * size[1]

    array = image_to_array(encode(image), rule)
    assert array.shape == (224, 224, 3)
    assert np.abs(array.astype(int) - 127).max() <= 1


def test_a_strip_gives_nearly_the_pixels_that_it_would_give_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(90, 700))
    whole = image_to_array(data, CROP).astype(int)
    monkeypatch.setattr("rrrnet.images.preprocess.MAX_PIXELS", 64 * 400)
    assert np.abs(image_to_array(data, CROP, max_pixels=10**6) - whole).max() <= 4


def test_the_rule_survives_its_json_and_older_documents_mean_squash() -> None:
    rule = Preprocess(224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0, "crop", 256, bgr=True)
    assert Preprocess.from_json(rule.to_json()) == rule
    old = {key: value for key, value in Preprocess(96).to_json().items() if key not in ("mode", "resize_size", "bgr")}
    assert Preprocess.from_json(old) == Preprocess(96)


def test_the_rule_is_told_in_words_and_squash_is_noted() -> None:
    rule = Preprocess(224, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.5, 1.0), mode="crop", resize_size=256, bgr=True)
    words = "shorter side to 256 (bicubic), centre crop 224 x 224; BGR, mean 0.5 0.5 0.5, std 0.25 0.5 1"
    assert (rule.describe(), rule.is_default_squash, squash_note(rule)) == (words, False, "")
    squash = Preprocess(224)
    assert squash.describe().startswith("whole image to 224 x 224 (bilinear), no crop; RGB, mean 0.485 0.456 0.406")
    assert squash.is_default_squash
    assert "--preprocess crop --resize 256 --crop 224" in squash_note(squash)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "fit"}, "'fit': allowed are squash, crop"),
        ({"mode": "crop"}, "resize_size is None: allowed are 128 to 2048"),
        ({"mode": "crop", "resize_size": 100}, "resize_size is 100: allowed are 128 to 2048"),
        ({"std": (0.5, 0.0, 0.5)}, "allowed are numbers above 0"),
        ({"mean": (0.5, float("nan"), 0.5)}, "allowed are 3 numbers each"),
        ({"mean": (0.5, 0.5)}, "allowed are 3 numbers each"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Preprocess(**values)
