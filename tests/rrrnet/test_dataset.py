"""Reading, splitting, selecting and loading data sets, with real files only."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from rrrnet.data.dataset import ImageSet, load_arrays, read_dataset, read_split, select, split_dataset, write_split
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.images.preprocess import Preprocess

Rows = list[tuple[str, str]]


def paint(path: Path, value: int = 0, side: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value % 256, 10, 200)).save(path)


def write_table(root: Path, rows: Rows, header: tuple[str, ...] = ("FILE_NAME", "CATEGORY")) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Meta-Album layout: 3 classes, 4 images each; "zebra" appears first."""
    rows = [(f"{label}_{index}.png", label) for index in range(4) for label in ("zebra", "ape", "cow")]
    for number, (name, _) in enumerate(rows):
        paint(tmp_path / "set" / "images" / name, number)
    write_table(tmp_path / "set", rows)
    return tmp_path / "set"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """One folder per class: 2 classes, 3 images each."""
    for number in range(6):
        paint(tmp_path / "animals" / ("zebra", "ape")[number % 2] / f"{number}.jpg", number)
    return tmp_path / "animals"


def test_meta_album_layout_keeps_the_order_of_the_table(table: Path) -> None:
    images = read_dataset(table)
    assert images.classes == ("zebra", "ape", "cow")
    assert images.files[:3] == ("images/zebra_0.png", "images/ape_0.png", "images/cow_0.png")
    assert images.labels == (0, 1, 2) * 4
    assert images.name == "set"
    assert images.root.is_absolute()
    assert images.left_out == ()


def test_info_json_names_the_data_set_and_its_columns(table: Path) -> None:
    rows = [(f"{label}_0.png", label) for label in ("ape", "cow")]
    write_table(table, rows, header=("picture", "animal"))
    info = {"dataset_name": "Zoo", "image_column_name": "picture", "category_column_name": "animal"}
    (table / "info.json").write_text(json.dumps(info))
    images = read_dataset(table)
    assert (images.name, images.classes) == ("Zoo", ("ape", "cow"))


def test_one_folder_per_class_gives_sorted_classes_and_files(folders: Path) -> None:
    (folders / "ape" / "notes.txt").write_text("not an image")
    (folders / ".cache").mkdir()
    images = read_dataset(folders)
    assert images.classes == ("ape", "zebra")
    assert images.files == ("ape/1.jpg", "ape/3.jpg", "ape/5.jpg", "zebra/0.jpg", "zebra/2.jpg", "zebra/4.jpg")
    assert images.labels == (0, 0, 0, 1, 1, 1)


def test_class_folders_may_lie_in_images(folders: Path, tmp_path: Path) -> None:
    root = tmp_path / "outer"
    root.mkdir()
    folders.rename(root / "images")
    assert read_dataset(root).files[0] == "images/ape/1.jpg"


def test_each_class_folder_may_hold_images(tmp_path: Path) -> None:
    for label in ("ape", "zebra"):
        paint(tmp_path / "set" / label / "images" / "0.png")
    assert read_dataset(tmp_path / "set").files == ("ape/images/0.png", "zebra/images/0.png")


def test_files_may_lie_beside_the_table(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    paint(tmp_path / "sub" / "b.png")
    write_table(tmp_path, [("a.png", "A"), ("sub/b.png", "B")])
    assert read_dataset(tmp_path).files == ("a.png", "sub/b.png")


def test_broken_images_are_left_out_and_listed_with_the_reason(table: Path) -> None:
    whole = (table / "images" / "ape_1.png").read_bytes()
    (table / "images" / "ape_0.png").unlink()
    (table / "images" / "ape_1.png").write_bytes(whole[:60])
    (table / "images" / "cow_0.png").write_bytes(b"")
    (table / "images" / "cow_1.png").write_bytes(b"GIF89a, not one of ours")
    images = read_dataset(table)
    reasons = {lost.file: lost.reason for lost in images.left_out}
    assert len(images.files) == 8
    assert list(reasons) == ["images/ape_0.png", "images/cow_0.png", "images/ape_1.png", "images/cow_1.png"]
    assert reasons["images/ape_0.png"] == "the file is missing"
    assert "cut short" in reasons["images/ape_1.png"] or "damaged" in reasons["images/ape_1.png"]
    assert reasons["images/cow_0.png"] == "the image has 0 bytes"
    assert "JPEG, PNG, WEBP" in reasons["images/cow_1.png"]
    assert [lost.kind for lost in images.left_out] == ["missing", "empty", "damaged", "GIF"]


def test_a_pipe_among_the_images_is_broken_and_does_not_block(table: Path) -> None:
    (table / "images" / "ape_0.png").unlink()
    os.mkfifo(table / "images" / "ape_0.png")
    assert read_dataset(table).left_out == (("images/ape_0.png", "special file", "not a regular file"),)


def test_a_class_whose_images_are_all_broken_is_named_with_its_first_files(table: Path) -> None:
    for index in range(4):
        (table / "images" / f"cow_{index}.png").write_bytes(b"no picture")
    with pytest.raises(ArtifactError, match=r"no image of class cow .*4 text: .*cow_0\.png, .*cow_2\.png and 1 more"):
        read_dataset(table)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("../secret.png", "A"), ("b.png", "B")], r"line 2: '\.\./secret\.png' leads out of the data set"),
        ([("a.png", "A"), ("/etc/passwd", "B")], r"line 3: '/etc/passwd' leads out of the data set"),
        ([("a.png", "A"), ("b.png", "B"), ("./a.png", "B")], r"lists \./a\.png twice \(lines 2 and 4\)"),
        ([("a.png", "A"), ("", "B")], r"line 3: FILE_NAME is empty"),
        ([("a.png", "A"), ("b.png", " ")], r"line 3: CATEGORY is empty"),
        ([("a.png", "A"), ("b.png", "A")], r"one class only \(A\)"),
        ([("a.png", "A"), ("b" * 400, "B")], r"no image of class B can be used: 1 unreadable: images/b+ \(.*too long"),
        ([], r"a header but no rows"),
    ],
)
def test_a_bad_table_is_refused_with_the_line(tmp_path: Path, rows: Rows, message: str) -> None:
    for name in ("a.png", "b.png"):
        paint(tmp_path / "images" / name)
    write_table(tmp_path, rows)
    with pytest.raises(ArtifactError, match=message):
        read_dataset(tmp_path)


def test_a_table_without_the_columns_is_refused_with_those_it_has(tmp_path: Path) -> None:
    write_table(tmp_path, [("a.png", "A")], header=("file", "class"))
    with pytest.raises(ArtifactError, match="lacks the columns FILE_NAME and CATEGORY: its columns are file, class"):
        read_dataset(tmp_path)


def test_a_table_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\x00\x80\x81")
    with pytest.raises(ArtifactError, match=r"labels\.csv is not a UTF-8 csv file"):
        read_dataset(tmp_path)


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    paint(tmp_path / "images" / "a.png")
    paint(tmp_path / "images" / "b.png")
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbfFILE_NAME,CATEGORY\r\na.png,\xc3\xa4\r\nb.png,B\r\n")
    assert read_dataset(tmp_path).classes == ("ä", "B")


def test_a_damaged_info_json_is_refused_by_name(table: Path) -> None:
    (table / "info.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"info\.json is not JSON"):
        read_dataset(table)


def test_folders_that_are_no_data_set_are_refused_with_what_is_expected(tmp_path: Path, folders: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    unlabelled = tmp_path / "unlabelled"
    paint(unlabelled / "images" / "a.png")
    loose = tmp_path / "loose"
    paint(loose / "a.png")
    nested = tmp_path / "nested"
    nested.mkdir()
    folders.rename(nested / "all")
    for root, message in [
        (tmp_path / "absent", "absent does not exist: .*rrr data glyphs"),
        (loose / "a.png", "is not a folder"),
        (empty, r"is empty: expected labels\.csv"),
        (unlabelled, r"has images/ but no labels\.csv"),
        (loose, r"has neither labels\.csv nor folders"),
        (nested, r"one class only \(all\).*it holds folders \(ape, zebra\): perhaps give --data .*/nested/all"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            read_dataset(root)


def test_an_empty_class_folder_is_refused(folders: Path) -> None:
    (folders / "cow").mkdir()
    with pytest.raises(ArtifactError, match=r"the class folder cow holds no images: remove it or fill it"):
        read_dataset(folders)


def test_the_digest_follows_bytes_and_labels_but_not_the_place(table: Path, tmp_path: Path) -> None:
    first = read_dataset(table).sha256
    moved = table.rename(tmp_path / "moved")
    assert read_dataset(moved).sha256 == first
    rows = [(f"{label}_{index}.png", label) for index in range(4) for label in ("zebra", "ape", "cow")]
    write_table(moved, [("ape_0.png", "cow") if name == "ape_0.png" else (name, label) for name, label in rows])
    relabelled = read_dataset(moved).sha256
    paint(moved / "images" / "cow_3.png", 255)
    assert len({first, relabelled, read_dataset(moved).sha256}) == 3


def make_set(counts: dict[str, int]) -> ImageSet:
    """An ImageSet without files: splitting needs names and labels only."""
    pairs = [(f"{name}/{index}.png", label) for label, name in enumerate(counts) for index in range(counts[name])]
    files, labels = zip(*pairs, strict=True)
    return ImageSet("x", Path("/x"), files, labels, tuple(counts), (), "0" * 64)


def test_the_split_is_stratified_and_leaves_both_parts_in_every_class() -> None:
    images = make_set({"a": 40, "b": 2, "c": 7})
    parts = split_dataset(images, seed=0)
    tests = Counter(label for label, part in zip(images.labels, parts, strict=True) if part == "test")
    assert tests == {0: 20, 1: 1, 2: 4}
    few = split_dataset(images, seed=0, test_fraction=0.01)
    many = split_dataset(images, seed=0, test_fraction=0.99)
    assert (few.count("test"), many.count("train")) == (3, 3)


def test_the_split_depends_on_the_seed_but_not_on_order_or_other_classes() -> None:
    images = make_set({"a": 20, "b": 20})
    parts = dict(zip(images.files, split_dataset(images, seed=3), strict=True))
    backwards = ImageSet("x", Path("/x"), images.files[::-1], images.labels[::-1], images.classes, (), "")
    assert dict(zip(backwards.files, split_dataset(backwards, seed=3), strict=True)) == parts
    more = make_set({"z": 5, "a": 20, "b": 20})
    again = dict(zip(more.files, split_dataset(more, seed=3), strict=True))
    assert {file: again[file] for file in parts} == parts
    assert dict(zip(images.files, split_dataset(images, seed=4), strict=True)) != parts


def test_a_class_with_one_image_cannot_be_split() -> None:
    with pytest.raises(ArtifactError, match="class b has 1 usable image"):
        split_dataset(make_set({"a": 4, "b": 1}), seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_a_test_fraction_outside_0_and_1_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="allowed is more than 0 and less than 1"):
        split_dataset(make_set({"a": 4, "b": 4}), seed=0, test_fraction=fraction)


def test_a_recorded_split_is_read_back_and_selects_disjoint_parts(table: Path, tmp_path: Path) -> None:
    images = read_dataset(table)
    parts = split_dataset(images, seed=1)
    write_split(tmp_path / "split.csv", images, parts)
    recorded = read_split(tmp_path / "split.csv")
    assert recorded == dict(zip(images.files, parts, strict=True))
    train, test = select(images, recorded, "train"), select(images, recorded, "test")
    val = select(images, recorded, "val")
    assert (len(train.files), len(val.files), len(test.files)) == (3, 3, 6)
    assert set(train.files) | set(val.files) | set(test.files) == set(images.files)
    assert (train.classes, train.sha256) == (images.classes, images.sha256)
    assert select(images, recorded, "all") is images


def test_a_split_of_another_data_set_is_refused_with_advice(table: Path) -> None:
    with pytest.raises(ArtifactError, match=r"recorded test split \(1 files, e\.g\. other\.png\).*--split all"):
        select(read_dataset(table), {"other.png": "test"}, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its columns must be file_name, label, split"),
        ("file,label\n", "its columns must be file_name, label, split"),
        ("file_name,label,split\na.png,A,valid\n", "line 2: 'a.png,A,valid' does not end in train, val or test"),
        ("file_name,label,split\na.png\n", "line 2: 'a.png' does not end in train, val or test"),
    ],
)
def test_a_file_that_is_no_split_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_split(tmp_path / "split.csv")


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"split\.csv cannot be read"):
        read_split(tmp_path / "split.csv")


def test_arrays_have_the_networks_size_and_the_files_pixels(table: Path) -> None:
    images = read_dataset(table)
    done: list[int] = []
    arrays, labels = load_arrays(images, Preprocess(size=48), progress=done.append)
    assert arrays.shape == (12, 48, 48, 3)
    assert (arrays.dtype.name, labels.dtype.name) == ("uint8", "int64")
    assert arrays[:, 0, 0].tolist() == [[number, 10, 200] for number in range(12)]
    assert labels.tolist() == [0, 1, 2] * 4
    assert done == list(range(1, 13))


def test_a_file_that_vanishes_after_reading_is_named(table: Path) -> None:
    images = read_dataset(table)
    (table / "images" / "cow_2.png").unlink()
    with pytest.raises(ArtifactError, match=r"cow_2\.png was readable a moment ago, but now the file is missing"):
        load_arrays(images, Preprocess(size=32))
