"""labels.csv as spreadsheets and other systems write it."""

from pathlib import Path

import pytest
from PIL import Image

from rrrnet.data.dataset import ImageSet, read_dataset
from rrrnet.errors import ArtifactError, UsageError

NAMES = ("cat0.jpg", "cat1.jpg", "dog0.jpg", "dog1.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images in images/."""
    (tmp_path / "images").mkdir()
    for index, name in enumerate(NAMES):
        Image.new("RGB", (16, 16), (60 * index, 0, 9)).save(tmp_path / "images" / name)
    return tmp_path


def read(root: Path, text: str) -> ImageSet:
    (root / "labels.csv").write_text(text, encoding="utf-8", newline="")
    return read_dataset(root)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("FILE_NAME,CATEGORY", "{name},{label}"),
        ("FILE_NAME;CATEGORY;SIZE", "{name};{label};1,5"),
        ("sep=;\r\nFILE_NAME;CATEGORY", "{name};{label}\r"),
        ("FILE_NAME\tCATEGORY", "{name}\t{label}"),
        ("FILE_NAME|CATEGORY", "{name}|{label}"),
        ("\ufeffFILE_NAME,CATEGORY", '"{name}","{label}"'),
        ("FILE_NAME, CATEGORY", " {name} , {label} \n,,"),
        ("file_name,Category", "images/{name},{label}"),
        ("FILE_NAME,CATEGORY", r"images\{name},{label}"),
        ("FILE_NAME,CATEGORY", r"C:\Users\me\data\images\{name},{label}"),
        ("FILE_NAME,CATEGORY", r"\\server\share\{name},{label}"),
        ("FILE_NAME,CATEGORY", "/mnt/disk/images/{name},{label}"),
        ("FILE_NAME,CATEGORY", "../images/{name},{label}"),
        ("FILE_NAME,CATEGORY", "file:///Users/me/{name},{label}"),
        ("FILE_NAME,CATEGORY", "~/data/images/{name},{label}"),
        ("FILE_NAME,CATEGORY", "https://example.org/images/{name},{label}"),
    ],
)
def test_a_table_whose_meaning_is_plain_is_read(root: Path, header: str, row: str) -> None:
    text = "\n".join([header, *(row.format(name=name, label=name[:3]) for name in NAMES)])
    images = read(root, text)
    assert images.files == tuple(f"images/{name}" for name in NAMES)
    assert (images.classes, images.labels, images.left_out) == (("cat", "dog"), (0, 0, 1, 1), ())


def test_a_table_in_utf16_of_names_without_endings_is_read(root: Path) -> None:
    rows = "".join(f"{name.removesuffix('.jpg')}\t{name[:3]}\r\n" for name in NAMES)
    (root / "labels.csv").write_bytes(f"FILE_NAME\tCATEGORY\r\n{rows}".encode("utf-16"))
    assert read_dataset(root).files == tuple(f"images/{name}" for name in NAMES)


def test_names_that_differ_in_case_or_accents_only_are_found(root: Path) -> None:
    (root / "images" / "cat0.jpg").rename(root / "images" / "cafe\u0301.jpg")
    images = read(root, "FILE_NAME,CATEGORY\ncaf\u00e9.JPG,cat\nCAT1.jpg,cat\ndog0.jpg,dog\n")
    assert images.files[:2] == ("images/cafe\u0301.jpg", "images/cat1.jpg")
    (root / "labels.csv").rename(root / "Labels.CSV")
    assert read_dataset(root).files == images.files


def test_images_that_the_table_does_not_list_are_told_and_documents_are_not(root: Path) -> None:
    (root / "README.md").write_text("about")
    images = read(root, "FILE_NAME,CATEGORY\ncat0.jpg,cat\ndog0.jpg,dog\n")
    assert [(lost.file, lost.kind) for lost in images.left_out] == [
        ("images/cat1.jpg", "not listed"),
        ("images/dog1.jpg", "not listed"),
    ]
    assert images.junk == {"documents": 1}


def test_an_absolute_path_whose_file_is_gone_is_missing_where_others_are_found(root: Path) -> None:
    images = read(root, "FILE_NAME,CATEGORY\n/a/b/cat0.jpg,cat\n/a/b/cat9.jpg,cat\n/a/b/dog0.jpg,dog\n")
    assert ("images/cat9.jpg", "missing", "the file is missing") in images.left_out
    with pytest.raises(ArtifactError, match=r"line 2: '/a/b/x\.jpg' leads out of the data set, and no file of that"):
        read(root, "FILE_NAME,CATEGORY\n/a/b/x.jpg,cat\ndog0.jpg,dog\n")


def test_a_split_column_in_any_case_gives_the_parts(root: Path) -> None:
    images = read(root, "FILE_NAME,CATEGORY,Split\ncat0.jpg,cat,Training\ncat1.jpg,cat,TEST\ndog0.jpg,dog,valid\n")
    assert images.given == {"images/cat0.jpg": "train", "images/cat1.jpg": "test", "images/dog0.jpg": "val"}
    with pytest.raises(ArtifactError, match=r"line 3: SPLIT is 'fold2'; allowed are train, val and test"):
        read(root, "FILE_NAME,CATEGORY,SPLIT\ncat0.jpg,cat,train\ndog0.jpg,dog,fold2\n")


def test_a_column_of_groups_that_is_not_there_is_refused_with_those_that_are(root: Path) -> None:
    read(root, "FILE_NAME,CATEGORY,ANIMAL\ncat0.jpg,cat,a\ndog0.jpg,dog,b\n")
    assert read_dataset(root, groups="animal").groups == {"images/cat0.jpg": "a", "images/dog0.jpg": "b"}
    with pytest.raises(UsageError, match=r"--groups owner: .* columns are FILE_NAME, CATEGORY, ANIMAL"):
        read_dataset(root, groups="owner")
