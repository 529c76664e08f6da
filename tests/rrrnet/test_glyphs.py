"""The generator of printed letters: same seed same bytes, every factor recorded, sensible refusals."""

import csv
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrrnet.data.dataset import read_dataset
from rrrnet.errors import IncompatibleError, UsageError
from rrrnet.glyphs import picture as glyph_picture
from rrrnet.glyphs.generate import generate_glyphs
from rrrnet.glyphs.options import BACKGROUNDS, LETTERS, SCRIPTS, GlyphOptions
from rrrnet.glyphs.picture import (
    draw_letter,
    draw_shape,
    fonts_with,
    jitter,
    luminance,
    paint,
    project,
    render_glyph,
    transform,
)
from rrrnet.installing import install_line

SMALL = GlyphOptions(classes=3, per_class=4, size=32)
STRAIGHT = replace(SMALL, rotation=0, shear=0, stretch=0, perspective=0, elastic=0, translation=0, blur=0)


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of each file that does not depend on the folder's own name."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != "glyphs.json"
    }


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_pictures(tmp_path: Path) -> None:
    first = generate_glyphs(tmp_path / "a", SMALL)
    again = generate_glyphs(tmp_path / "b", SMALL)
    other = generate_glyphs(tmp_path / "c", replace(SMALL, seed=1))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert first.sha256 == again.sha256 != other.sha256


def test_a_picture_depends_neither_on_the_number_of_classes_nor_of_images(tmp_path: Path) -> None:
    generate_glyphs(tmp_path / "few", SMALL)
    generate_glyphs(tmp_path / "many", replace(SMALL, classes=5, per_class=6))
    few, many = digests(tmp_path / "few" / "images"), digests(tmp_path / "many" / "images")
    assert len(few) == 12
    assert {name: many[name] for name in few} == few


def test_the_data_set_has_meta_albums_layout_and_every_factor(tmp_path: Path) -> None:
    options = replace(SMALL, scripts=("latin", "greek"), classes=4)
    done: list[int] = []
    images = generate_glyphs(tmp_path / "set", options, progress=done.append)
    assert done == list(range(1, 17))
    assert images.classes == ("U+0049", "U+03C9", "U+0055", "U+03B6")
    assert (images.left_out, len(images.files)) == ((), 16)
    with (tmp_path / "set" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("FILE_NAME", "CATEGORY", "SUPER_CATEGORY", "FONT", "ROTATION", "SHEAR_X", "STRETCH", "ELASTIC", "SCALE"),
        *("TRANSLATION_X", "TRANSLATION_Y", "PERSPECTIVE", "PERSPECTIVE_CORNERS", "BACKGROUND"),
        *("BACKGROUND_COLORS", "TEXT_COLOR", "CONTRAST", "NOISE", "BLUR"),
    ]
    assert {row["SUPER_CATEGORY"] for row in rows} == {"Latin", "Greek"}
    assert all(abs(float(row["ROTATION"])) <= 30 and abs(float(row["SHEAR_X"])) <= 0.3 for row in rows)
    assert all(float(row["CONTRAST"]) >= 1.5 for row in rows)
    assert len({row["ROTATION"] for row in rows}) == 16
    with Image.open(tmp_path / "set" / "images" / rows[0]["FILE_NAME"]) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_info_json_describes_what_is_there_and_glyphs_json_how_it_was_made(tmp_path: Path) -> None:
    generate_glyphs(tmp_path / "set", replace(SMALL, seed=7))
    info = json.loads((tmp_path / "set" / "info.json").read_text())
    assert info["dataset_name"] == "rrr_glyphs_latin"
    assert (info["total_categories"], info["total_super_categories"]) == (3, 1)
    assert info["median_images_per_category"] == 4.0
    assert info["category_column_name"] == "CATEGORY"
    record = json.loads((tmp_path / "set" / "glyphs.json").read_text())
    assert record["options"]["seed"] == 7
    assert record["command"] == f"rrr data glyphs {tmp_path}/set --classes 3 --per-class 4 --size 32 --seed 7"


def test_a_generated_folder_is_replaced_but_any_other_is_left_alone(tmp_path: Path) -> None:
    generate_glyphs(tmp_path / "set", SMALL)
    assert len(generate_glyphs(tmp_path / "set", replace(SMALL, classes=2)).files) == 8
    (tmp_path / "set" / "glyphs.json").unlink()
    with pytest.raises(UsageError, match=r"exists and holds no glyphs\.json: choose another"):
        generate_glyphs(tmp_path / "set", SMALL)
    assert len(read_dataset(tmp_path / "set").files) == 8


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_glyphs(tmp_path / "set", SMALL, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 1}, f"--classes is 1: allowed are 2 to {LETTERS}"),
        ({"classes": 60}, "--script latin offers 47 distinct letters: .*--script all for up to"),
        ({"per_class": 1}, "--per-class is 1: allowed are 2 to"),
        ({"size": 8}, "--size is 8: allowed are 32 to 1024"),
        ({"seed": -1}, "--seed is -1: allowed are 0 to"),
        ({"rotation": float("nan")}, "--rotation is nan: allowed are 0 to 180"),
        ({"perspective": 0.5}, r"--perspective is 0\.5: allowed are 0 to 0\.2"),
        ({"contrast": 0.5}, r"--contrast is 0\.5: allowed are 1 to 4\.5"),
        ({"scripts": ("klingon",)}, "--script is klingon: allowed are latin, greek"),
        ({"scripts": ()}, "--script is empty"),
        ({"backgrounds": ("sky",)}, "--background is sky: allowed are plain, gradient, noise, shapes"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SMALL, **change)  # type: ignore[arg-type]  # wrong values are the point


def test_letters_come_in_turn_from_each_script() -> None:
    options = replace(SMALL, scripts=("greek", "latin", "greek"))
    assert options.letters() == [("ω", "greek"), ("I", "latin"), ("ζ", "greek")]
    assert len(replace(SMALL, scripts=("all",), classes=LETTERS).letters()) == LETTERS > 400


def test_no_letter_stands_twice_and_each_has_at_least_four_fonts_that_leave_ink() -> None:
    letters = "".join(SCRIPTS.values())
    assert len(set(letters)) == len(letters)
    assert not {"l", "1", "O", "0", "o", "c", "s", "v", "w", "x", "z", "Α", "А"} & set(letters)
    assert [letter for letter in letters if len(fonts_with(letter)) < 4] == []
    assert all(draw_letter(fonts_with(letter)[0], letter, 20, 0).getbbox() for letter in letters)


def test_fonts_that_lack_a_letter_are_left_out() -> None:
    assert fonts_with("A")[-1] == "cmtt10"
    assert len(fonts_with("A")) == 21
    assert fonts_with("ß")[-1] == "STIXGeneralBolIta"  # the TeX fonts draw another letter there
    assert fonts_with("♞")[:2] == ("DejaVuSans", "DejaVuSans-Bold")
    assert not any(font.startswith("STIX") for font in fonts_with("Ⴔ"))


def test_without_matplotlib_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    glyph_picture._font.cache_clear()
    glyph_picture.fonts_with.cache_clear()
    with pytest.raises(IncompatibleError, match="package matplotlib, .*: " + re.escape(install_line("train"))):
        render_glyph("A", SMALL, 0)


def test_the_first_letters_of_a_script_look_different() -> None:
    shapes = []
    for letter, _ in GlyphOptions().letters():
        mask, _ = draw_shape("DejaVuSans", letter, STRAIGHT, np.random.default_rng(0))
        shapes.append(np.asarray(mask, np.float64).ravel() / np.linalg.norm(np.asarray(mask, np.float64)))
    likeness = np.array(shapes) @ np.array(shapes).T - np.eye(len(shapes))
    assert likeness.max() < 0.8


def test_rotation_is_clockwise_and_follows_shear_and_stretch() -> None:
    corner = np.array([(1.0, 0.0), (0.0, 1.0)])
    np.testing.assert_allclose(transform(corner, 90, 0, 0), [(0, 1), (-1, 0)], atol=1e-12)
    np.testing.assert_allclose(transform(corner, 0, 0.3, 0), [(1, 0), (0.3, 1)], atol=1e-12)
    stretched = transform(corner, 0, 0, 0.2)
    assert stretched[0, 0] / stretched[1, 1] == pytest.approx(np.exp(0.2))


def test_perspective_moves_the_corners_as_told_and_keeps_lines_straight() -> None:
    square = Image.new("L", (200, 200), 255)
    square.paste(0, (95, 0, 105, 200))  # a vertical line through the middle
    corners = np.array([(-90.0, -100.0), (100.0, -60.0), (80.0, 90.0), (-100.0, 100.0)])
    pixels = np.asarray(project(square, corners))
    assert pixels.shape == (200, 200)
    inside = corners * 0.94 + 100  # a little inside of each corner, where the square's white is
    outside = np.array([(2, 50), (150, 2), (197, 150)])  # what the moved corners left empty
    assert [int(pixels[int(y), int(x)]) for x, y in inside] == [255] * 4
    assert [int(pixels[y, x]) for x, y in outside] == [0] * 3
    rows = np.arange(60, 160)
    middles = [np.flatnonzero(pixels[row, 40:160] < 128).mean() for row in rows]
    assert np.abs(middles - np.polyval(np.polyfit(rows, middles, 1), rows)).max() < 0.6


def test_elastic_bends_a_letter_within_its_frame_and_zero_leaves_it_alone() -> None:
    letter = draw_letter("DejaVuSans", "H", 100, 0.1)
    assert jitter(letter, 0, np.random.default_rng(0)).tobytes() == letter.tobytes()
    for seed in range(10):
        bent = jitter(letter, 0.1, np.random.default_rng(seed))
        change = np.abs(np.asarray(bent, int) - np.asarray(letter, int)).mean()
        assert 5 < change < 60
        left, top, right, bottom = bent.getbbox() or (0, 0, 0, 0)
        assert min(left, top) > 0
        assert max(right, bottom) < letter.width


def test_a_letter_is_drawn_as_large_as_told_in_the_middle_of_its_frame() -> None:
    for letter in "IWq7":
        image = draw_letter("DejaVuSerif", letter, 150, 0.05)
        left, top, right, bottom = image.getbbox() or (0, 0, 0, 0)
        assert max(right - left, bottom - top) == pytest.approx(150, abs=5)
        assert image.width == image.height == pytest.approx(1.1 * 150 + 4, abs=6)
        assert (left + right, top + bottom) == pytest.approx((image.width, image.height), abs=1)


def test_recorded_translation_is_where_the_letter_is() -> None:
    options = replace(SMALL, size=128)
    for seed in range(5):
        mask, factors = draw_shape("DejaVuSans", "A", options, np.random.default_rng(seed))
        rows, columns = np.nonzero(np.asarray(mask))
        centre = (columns.min() + columns.max() + 1) / 256 - 0.5, (rows.min() + rows.max() + 1) / 256 - 0.5
        assert centre == pytest.approx((factors["TRANSLATION_X"], factors["TRANSLATION_Y"]), abs=0.01)
        assert max(np.ptp(rows), np.ptp(columns)) / 128 == pytest.approx(factors["SCALE"], abs=0.02)


def test_without_distortion_only_the_size_varies() -> None:
    masks = [draw_shape("DejaVuSans", "A", STRAIGHT, np.random.default_rng(seed)) for seed in range(3)]
    assert {(factors["ROTATION"], factors["SHEAR_X"], factors["TRANSLATION_X"]) for _, factors in masks} == {(0, 0, 0)}
    for mask, _ in masks:
        pixels = np.asarray(mask, int)
        np.testing.assert_allclose(pixels, pixels[:, ::-1], atol=80)  # an A is symmetric


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_every_background_keeps_the_contrast_it_records(kind: str) -> None:
    options = replace(SMALL, backgrounds=(kind,), blur=0, noise=0, contrast=3.0)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    for seed in range(20):
        image, factors = paint(mask, options, np.random.default_rng(seed))
        pixels = np.asarray(image)
        light = luminance(pixels) + 0.05
        text, ground = light[16, 16], light[np.asarray(mask) == 0]
        assert "#" + pixels[16, 16].tobytes().hex() == factors["TEXT_COLOR"]
        assert float(factors["CONTRAST"]) >= 3.0
        assert np.maximum(text / ground, ground / text).min() > 2.5  # blends of two colours may lie a little closer


def test_luminance_is_wcags() -> None:
    colors = np.array([(0, 0, 0), (255, 255, 255), (255, 0, 0), (119, 119, 119)], np.uint8)
    np.testing.assert_allclose(luminance(colors), [0, 1, 0.2126, 0.1845], atol=1e-4)


def test_options_of_strength_leave_the_other_factors_as_they_are() -> None:
    _, mild = render_glyph("A", SMALL, 0)
    _, strong = render_glyph("A", replace(SMALL, rotation=60, blur=0), 0)
    assert float(strong["ROTATION"]) == pytest.approx(2 * float(mild["ROTATION"]), abs=1e-5)
    assert strong["BLUR"] == "0.000000"
    assert (strong["FONT"], strong["SHEAR_X"], strong["SCALE"]) == (mild["FONT"], mild["SHEAR_X"], mild["SCALE"])
