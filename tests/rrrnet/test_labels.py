"""`--labels FILE`: the order of the outputs."""

from pathlib import Path

import pytest

from rrrnet.data.dataset import ImageSet
from rrrnet.data.labels import in_order, read_labels
from rrrnet.errors import ArtifactError, UsageError


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text", ["1\n2\n10\n", "1\r\n2\r\n10", "\ufeff1\n2\n10\n\n", '["1", "2", "10"]', "  1 \n2\n10"]
)
def test_lines_and_a_json_list_are_read_in_their_order(tmp_path: Path, text: str) -> None:
    assert read_labels(written(tmp_path, text)) == ("1", "2", "10")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\n\nb\n", "line 2 is blank"),
        ("a\nb\na\n", "'a' is in line 1 and again in line 3"),
        ("a\n", "holds 1 label: at least 2"),
        ("", "line 1 is blank"),
        (b"a\n\xff\n", r"not UTF-8 \(byte 2\)"),
        ('{"0": "a", "1": "b"}', "no list of strings"),
        ('["a", ', "begins like JSON, but cannot be read"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        read_labels(written(tmp_path, text))
    with pytest.raises(UsageError, match="cannot be read"):
        read_labels(tmp_path / "nowhere.txt")


def test_the_data_are_numbered_by_the_files_order_and_other_classes_are_named() -> None:
    images = ImageSet("set", Path("set"), ("a", "b", "c"), (0, 1, 2), ("1", "10", "2"), (), "")
    ordered = in_order(images, ("1", "2", "10"), "--labels file")
    assert (ordered.labels, ordered.classes) == ((0, 2, 1), ("1", "2", "10"))
    accents = ImageSet("set", Path("set"), ("a", "b"), (0, 1), ("caf\u00e9", "tea"), (), "")
    assert in_order(accents, ("tea", "cafe\u0301"), "--labels file").classes == ("tea", "caf\u00e9"), "NFD is NFC"
    with pytest.raises(ArtifactError, match=r"has 3 labels, and the data 2 classes: only --labels file has"):
        in_order(accents, ("tea", "cafe\u0301", "caf\u00e9"), "--labels file")
    with pytest.raises(
        ArtifactError, match=r"has 2 labels, and the data 3 classes: only set has '10', '2'; only .* '3'"
    ):
        in_order(images, ("1", "3"), "--labels file")
