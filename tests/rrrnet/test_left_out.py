"""No file of a data set is lost in silence: judged by content, counted by kind, named with what mends it."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from rrrnet.data.dataset import read_dataset
from rrrnet.data.file_kinds import REMEDIES, kind_of
from rrrnet.data.training_data import DataOptions, TrainingData, read_training_data
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.installing import install_line

TIFF = b"MM\0*\0\0\0\x08"


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """One folder per class: cat and dog, 6 JPEG files each."""
    for number in range(12):
        path = tmp_path / "animals" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * number, 10, 200)).save(path)
    return tmp_path / "animals"


def read(folder: Path, **options: object) -> tuple[TrainingData, list[str]]:
    said: list[str] = []
    wanted = DataOptions(**options)  # type: ignore[arg-type]
    return read_training_data(folder, wanted, seed=0, validate=True, say=said.append), said


def test_the_first_line_tells_the_three_parts_and_nothing_else_is_said_of_plain_data(animals: Path) -> None:
    assert read(animals)[1] == ["12 images in 2 classes: 8 to train on, 2 to validate, 2 to test"]


def test_images_are_judged_by_content_whatever_their_names_end_in(animals: Path) -> None:
    picture = animals / "dog" / "1.jpg"
    for index, name in enumerate(("noending", "photo.jpg_large", "photo.JPG.1", "really_a_jpeg.gif")):
        shutil.copy(picture, animals / "dog" / name)
        Image.new("RGB", (16, 16), (5, index, 9)).save(animals / "dog" / name, "JPEG")
    assert len(read_dataset(animals).files) == 16


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
        (b"P6\n4 4\n255\n", "PPM"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"BM\x36\0\0\0", "BMP"),
        (b"GIF89a", "GIF"),
        (TIFF, "TIFF"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("Höhe".encode(), "text"),
        ("Höhe".encode("latin1"), "text"),
        (b"PK\x03\x04", "archive"),
        (b"\x01\x02\x00\xff\xfe", "unknown"),
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_first_bytes(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind


def test_each_kind_that_is_not_taken_is_counted_named_and_told_how_to_mend(animals: Path) -> None:
    for index in range(4):
        (animals / "cat" / f"IMG_{index}.jpg").write_bytes(TIFF)
    (animals / "dog" / "scan.ppm").write_bytes(b"P6\n1 1\n255\nabc")
    (animals / "dog" / "notes.txt").write_text("the brown one")
    Image.new("RGB", (16, 16)).save(animals / "loose.png")
    (animals / "README").write_text("about the animals")
    data, (_, *said) = read(animals)
    assert said == [
        "left out 4 TIFF: cat/IMG_0.jpg, cat/IMG_1.jpg, cat/IMG_2.jpg and 1 more; convert them to JPEG, PNG or WebP",
        "left out 1 text: dog/notes.txt; they are no images: move them elsewhere",
        "left out 1 PPM: dog/scan.ppm; convert them to JPEG, PNG or WebP",
        "left out 1 without a class: loose.png; they lie in no folder of a class: move them into one, or remove them",
    ]
    document = data.data_document()
    assert document["left_out_by_kind"] == {"TIFF": 4, "text": 1, "PPM": 1, "without a class": 1}
    assert document["junk"] == {"documents": 1}
    with pytest.raises(
        ArtifactError, match=r"--strict: 7 files of .* cannot be taken: 4 TIFF: .*; mend them, or leave"
    ):
        read(animals, strict=True)


def test_a_class_of_one_unknown_kind_is_refused_with_the_kind_and_the_remedy(animals: Path) -> None:
    for path in (animals / "cat").iterdir():
        path.unlink()
        path.with_suffix(".TIF").write_bytes(TIFF)
    with pytest.raises(ArtifactError, match=r"no image of class cat can be used: 6 TIFF: cat/0\.TIF.*; convert them"):
        read_dataset(animals)
    assert install_line("heif") in REMEDIES["HEIC"]


def test_what_systems_leave_behind_is_counted_and_not_told_and_no_loss(animals: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "cat/desktop.ini", "cat/._0.jpg", "dog/._1.jpg"):
        (animals / name).write_bytes(b"\0\5\x16\7")
    for name in ("__MACOSX/cat", ".ipynb_checkpoints"):
        (animals / name).mkdir(parents=True)
        shutil.copy(animals / "cat" / "0.jpg", animals / name / "a.jpg")
    data, said = read(animals, strict=True)
    assert said == ["12 images in 2 classes: 8 to train on, 2 to validate, 2 to test"]
    assert data.images.junk == {
        "._*": 2,
        ".DS_Store": 1,
        ".ipynb_checkpoints/": 1,
        "Thumbs.db": 1,
        "__MACOSX/": 1,
        "desktop.ini": 1,
    }


def test_a_folder_with_two_underscores_is_a_class_and_subfolders_of_a_class_are_taken(animals: Path) -> None:
    (animals / "cat").rename(animals / "__cat")
    (animals / "dog" / "small" / "white").mkdir(parents=True)
    Image.new("RGB", (16, 16), "white").save(animals / "dog" / "small" / "white" / "a.png")
    (animals / "dog" / "small" / "loop").symlink_to("..")
    images = read_dataset(animals)
    assert (images.classes, len(images.files)) == (("__cat", "dog"), 13)
    assert "dog/small/white/a.png" in images.files


def test_a_class_whose_images_all_lie_deeper_is_told_as_they_may_be_the_classes(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    animals.rename(tmp_path / "set" / "animals")
    (tmp_path / "set" / "plants" / "tree").mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (16, 16), (0, index, 255)).save(tmp_path / "set" / "plants" / "tree" / f"{index}.png")
    _, said = read(tmp_path / "set")
    assert said[1:] == [
        "note: all images of animals/ lie in folders inside it (cat, dog) and are taken as one class; "
        f"if those are the classes, give --data {tmp_path / 'set' / 'animals'}"
    ]


def test_names_that_are_not_utf8_are_told_in_characters_that_can_be_printed(animals: Path) -> None:
    shutil.copy(animals / "cat" / "0.jpg", os.fsdecode(os.fsencode(animals / "cat") + b"/caf\xe9.jpg"))
    data, said = read(animals)
    assert said[1].startswith(r"left out 1 named not in UTF-8: cat/caf\xe9.jpg; rename them")
    assert len(data.images.files) == 12
    (animals / "cat").rename(os.fsdecode(os.fsencode(animals) + b"/caf\xe9"))
    with pytest.raises(ArtifactError, match=r"class folder caf\\xe9 has a name that is not UTF-8: rename it"):
        read_dataset(animals)
    moved = animals.rename(os.fsdecode(os.fsencode(animals) + b"\xff"))
    with pytest.raises(ArtifactError, match=r"animals\\xff is a name that is not UTF-8"):
        read_dataset(moved)


def test_class_names_that_look_equal_are_one_class_and_it_is_told(animals: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (animals / "cat").rename(animals / composed)
    (animals / "dog").rename(animals / decomposed)
    (animals / "zebra").mkdir()
    for index in range(3):
        Image.new("RGB", (16, 16), (index, 255, 0)).save(animals / "zebra" / f"{index}.png")
    data, said = read(animals)
    assert data.images.classes == (composed, "zebra")
    assert said[1].startswith("class café: its name is written in 2 ways that look equal")
    assert said[1].endswith("taken as one class of 12 files")


def test_classes_that_differ_in_case_alone_are_told_and_stay_two(animals: Path) -> None:
    (animals / "Cat").mkdir()
    for name in ("0.jpg", "2.jpg", "4.jpg"):
        (animals / "cat" / name).rename(animals / "Cat" / name)
    data, said = read(animals)
    assert data.images.classes == ("Cat", "cat", "dog")
    told = "note: classes that differ in upper and lower case alone: Cat and cat; if they are one, write it in one way"
    assert said[1:] == [told]


def test_a_picture_that_our_decoders_do_not_read_keeps_its_kind(animals: Path) -> None:
    for name, brand in (("a.HEIC", b"heic"), ("b", b"hevs"), ("c.avif", b"avif")):
        (animals / "cat" / name).write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(200))
    kinds = {lost.kind.removeprefix("damaged ") for lost in read_dataset(animals).left_out}
    assert kinds == {"HEIC", "AVIF"}  # damaged where pillow-heif is installed


def test_small_classes_are_dropped_when_asked(animals: Path) -> None:
    (animals / "rare").mkdir()
    Image.new("RGB", (16, 16), "red").save(animals / "rare" / "only.png")
    with pytest.raises(ArtifactError, match=r"class rare has 1 usable image.*--min-per-class 2"):
        read(animals)
    data, said = read(animals, min_per_class=2)
    assert said == [
        "12 images in 2 classes: 8 to train on, 2 to validate, 2 to test",
        "--min-per-class 2 dropped 1 class: rare (1)",
    ]
    assert data.data_document()["dropped_classes"] == {"rare": 1}
    with pytest.raises(
        ArtifactError,
        match=r"at least 2 classes are needed, and --min-per-class leaves 0, without cat \(6\), dog \(6\)",
    ):
        read(animals, min_per_class=7)
    with pytest.raises(UsageError, match="--min-per-class 0: allowed are 1 and more"):
        DataOptions(min_per_class=0)
