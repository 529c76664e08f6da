"""The options of `rrr train` for preprocessing: what they make, and which are refused."""

from typing import Any

import pytest

from rrrnet.errors import UsageError
from rrrnet.images.preprocess import IMAGENET_MEAN, Preprocess
from rrrnet.images.preprocess_options import PreprocessOptions, choose_preprocess

TRAINED = Preprocess(96, "bicubic", (0.1, 0.2, 0.3), (0.5, 0.5, 0.5), 0, "crop", 112, bgr=True)


def test_nothing_given_squashes_to_128_pixels() -> None:
    assert choose_preprocess(PreprocessOptions(), None) == Preprocess(128)
    assert choose_preprocess(PreprocessOptions(preprocess="squash"), 64) == Preprocess(64)


@pytest.mark.parametrize("given", [{"preprocess": "crop"}, {"resize": 256, "crop": 224}])
def test_resize_and_crop_imply_crop_which_by_itself_is_imagenets(given: dict[str, Any]) -> None:
    rule = choose_preprocess(PreprocessOptions(**given), None)
    assert (rule.mode, rule.resize_size, rule.size, rule.jpeg_oversize) == ("crop", 256, 224, 0)
    assert rule.mean == IMAGENET_MEAN


def test_mean_std_filter_and_colour_order_are_taken_as_given() -> None:
    options = PreprocessOptions(interpolation="bicubic", mean="0.5,0.4,0.3", std="0.00392157,1,0.5", bgr=True)
    rule = choose_preprocess(options, 32)
    assert rule == Preprocess(32, "bicubic", (0.5, 0.4, 0.3), (0.00392157, 1, 0.5), bgr=True)


def test_going_on_from_a_checkpoint_keeps_what_is_not_said_anew() -> None:
    assert choose_preprocess(PreprocessOptions(), None, TRAINED) == TRAINED
    larger = choose_preprocess(PreprocessOptions(resize=256, crop=224, bgr=False), None, TRAINED)
    assert (larger.size, larger.mean, larger.resize, larger.bgr) == (224, TRAINED.mean, "bicubic", False)
    assert choose_preprocess(PreprocessOptions(), None, Preprocess(64)).size == 128
    with pytest.raises(UsageError, match="trained with --resize 112 --crop 96; leave --size out to keep that"):
        choose_preprocess(PreprocessOptions(), 128, TRAINED)


@pytest.mark.parametrize(
    ("given", "size", "message"),
    [
        ({"preprocess": "fit"}, None, "--preprocess fit: allowed are squash, crop"),
        ({"preprocess": "squash", "crop": 224}, None, "goes without --resize and --crop: its size is --size"),
        ({"preprocess": "crop"}, 224, "--size 224: it excludes --preprocess crop.* --crop 224"),
        ({"resize": 256, "crop": 224}, 128, "--size 128: it excludes"),
        ({"crop": 224}, None, "--resize is missing: give both"),
        ({"resize": 256}, None, "--crop is missing: give both"),
        ({"resize": 200, "crop": 224}, None, r"--resize 200: allowed are 224 \(the --crop\) to 2048"),
        ({"resize": 256, "crop": 16}, None, "--crop 16: allowed are 32 to 1024"),
        ({}, 16, "--size 16: allowed are 32 to 1024"),
        ({"interpolation": "lanczos"}, None, "--interpolation lanczos: allowed are bilinear, bicubic"),
        ({"mean": "0.5,0.5"}, None, "--mean 0.5,0.5: expected three numbers"),
        ({"mean": "0.5,half,0.5"}, None, "expected three numbers"),
        ({"mean": "0.5,nan,0.5"}, None, "allowed are numbers from 0 to 1"),
        ({"std": "0.5,0,0.5"}, None, "--std 0.5,0,0.5: allowed are numbers above 0"),
        ({"mean": "-0.5,0,0.5"}, None, "allowed are numbers from 0 to 1"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(given: dict[str, Any], size: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_preprocess(PreprocessOptions(**given), size)


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        (
            {"mean": "123.675,116.28,103.53", "std": "58.395,57.12,57.375"},
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        ),
        (
            {"mean": "123.675,116.28,103.53", "std": "1,1,1"},
            "--mean 0.485,0.456,0.406 --std 0.00392157,0.00392157,0.0039",
        ),
        ({"mean": "0.485,0.456,0.406", "std": "58.395,57.12,57.375"}, "divided by 255: --std 0.229,0.224,0.225"),
    ],
)
def test_means_and_deviations_of_pixels_from_0_to_255_come_back_divided(given: dict[str, Any], mended: str) -> None:
    with pytest.raises(UsageError, match="look like pixels from 0 to 255") as caught:
        choose_preprocess(PreprocessOptions(**given), None)
    assert mended in str(caught.value)
