"""Own splits, groups, copies and the validation part."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from rrrnet.data.dataset import TEST_DATA, ImageSet, read_again, read_dataset, select, split_dataset
from rrrnet.data.training_data import DataOptions, read_training_data
from rrrnet.errors import ArtifactError, UsageError


def fill(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    """Different images in folders."""
    number = start
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("RGB", (16, 16), (number % 256, number // 256, 77)).save(root / folder / f"{index}.png")
            number += 1
    return root


def parts_of(root: Path, **options: object) -> tuple[dict[str, str], list[str]]:
    said: list[str] = []
    data = read_training_data(root, DataOptions(**options), seed=0, validate=True, say=said.append)  # type: ignore[arg-type]
    return dict(zip(data.images.files, data.parts, strict=True)), said


def made(counts: dict[str, int], **more: object) -> ImageSet:
    pairs = [(f"{name}/{index}.png", label) for label, name in enumerate(counts) for index in range(counts[name])]
    files, labels = zip(*pairs, strict=True)
    return ImageSet("x", Path("/x"), files, labels, tuple(counts), (), "0" * 64, **more)  # type: ignore[arg-type]


def numbers(images: ImageSet, parts: tuple[str, ...], label: int) -> tuple[int, int, int]:
    found = Counter(part for index, part in zip(images.labels, parts, strict=True) if index == label)
    return found["train"], found["val"], found["test"]


def test_a_tenth_of_training_validates_at_least_one_of_each_class_that_has_two() -> None:
    images = made({"a": 80, "b": 4, "c": 3, "d": 2}, test_fraction=0.2)
    parts = split_dataset(images, seed=0)
    assert [numbers(images, parts, label) for label in range(4)] == [(58, 6, 16), (2, 1, 1), (1, 1, 1), (1, 0, 1)]
    without = split_dataset(images, seed=0, val_fraction=0)
    assert [part == "test" for part in without] == [part == "test" for part in parts]
    assert "val" not in without


def test_folders_take_a_fifth_for_testing_and_tables_a_half(tmp_path: Path) -> None:
    root = fill(tmp_path, {"cat": 10, "dog": 10})
    assert Counter(parts_of(root)[0].values()) == {"train": 14, "val": 2, "test": 4}
    assert Counter(parts_of(root, test_fraction=0.3)[0].values())["test"] == 6
    rows = [f"{name}/{index}.png,{name}" for name in ("cat", "dog") for index in range(10)]
    (root / "labels.csv").write_text("\n".join(["FILE_NAME,CATEGORY", *rows]))
    assert Counter(parts_of(root)[0].values()) == {"train": 8, "val": 2, "test": 10}


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "test_set")])
def test_folders_of_parts_are_the_split(tmp_path: Path, names: tuple[str, str, str]) -> None:
    root = fill(tmp_path, {f"{name}/{label}": 3 for name in names for label in ("cat", "dog")})
    parts, said = parts_of(root)
    assert said == ["18 images in 2 classes: 6 to train on, 6 to validate, 6 to test"]
    assert {file.split("/")[0]: part for file, part in parts.items()} == dict(
        zip(names, ("train", "val", "test"), strict=True)
    )
    with pytest.raises(UsageError, match=r"--test-fraction 0\.2: .* has a test part of its own"):
        parts_of(root, test_fraction=0.2)


def test_where_folders_of_parts_lack_one_it_is_split_off_training(tmp_path: Path) -> None:
    root = fill(tmp_path, {f"{part}/{label}": 10 for part in ("train", "val") for label in ("cat", "dog")})
    assert Counter(parts_of(root)[0].values()) == {"train": 16, "val": 20, "test": 4}
    (root / "val").rename(root / "test")
    assert Counter(parts_of(root)[0].values()) == {"train": 18, "val": 2, "test": 20}


def test_parts_without_classes_are_refused_and_a_class_called_train_is_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"train/ are taken for the parts of a split, but no folder of classes"):
        read_dataset(fill(tmp_path / "flat", {"train": 2, "test": 2}))
    assert read_dataset(fill(tmp_path / "vehicles", {"train": 2, "bus": 2})).classes == ("bus", "train")
    unlabelled = fill(tmp_path / "contest", {"train/cat": 4, "train/dog": 4, "test": 2}, start=50)
    parts, said = parts_of(unlabelled)
    assert Counter(parts.values()) == {"train": 4, "val": 2, "test": 2}
    assert "2 without a class: test/0.png, test/1.png" in said[1]


def test_a_class_that_is_only_tested_is_refused_and_one_that_is_not_tested_is_told(tmp_path: Path) -> None:
    root = fill(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2})
    assert "warning: no image is tested of 1 class (dog): the test part has none" in parts_of(root)[1]
    fill(root, {"test/cow": 1}, start=90)
    with pytest.raises(ArtifactError, match="class cow has no image to train on"):
        parts_of(root)


def test_a_second_data_set_is_the_test_part_and_is_found_again(tmp_path: Path) -> None:
    root = fill(tmp_path / "mine", {"cat": 10, "dog": 10, "rare": 1})
    tests = fill(tmp_path / "theirs", {"cat": 3, "rare": 1}, start=100)
    options = DataOptions(test_data=tests, min_per_class=2)
    data = read_training_data(root, options, seed=0, validate=True, say=lambda line: None)
    assert Counter(data.parts) == {"train": 18, "val": 2, "test": 3}
    asked = {name: data.split_document()[name] for name in ("test_fraction", "groups", "min_per_class")}
    assert asked == {"test_fraction": None, "groups": None, "min_per_class": 2}
    again = read_again(data.data_document())
    assert (again.sha256, again.classes) == (data.images.sha256, ("cat", "dog"))
    part = select(again, dict(zip(data.images.files, data.parts, strict=True)), "test")
    assert part.files[0] == f"{TEST_DATA}cat/0.png"
    assert part.path(part.files[0]) == tests / "cat" / "0.png"
    fill(tests, {"cow": 1}, start=200)
    with pytest.raises(ArtifactError, match="has classes that the training data have not: cow"):
        read_dataset(root, test_data=tests)


def test_a_class_of_a_second_data_set_may_write_its_accents_otherwise(tmp_path: Path) -> None:
    root = fill(tmp_path / "mine", {"caf\u00e9": 4, "tea": 4})
    tests = fill(tmp_path / "theirs", {"cafe\u0301": 2, "tea": 1}, start=100)
    images = read_dataset(root, test_data=tests)
    assert [numbers(images, split_dataset(images, seed=0), label)[2] for label in (0, 1)] == [2, 1]


def test_copies_stay_on_one_side_and_are_told_with_those_under_two_labels(tmp_path: Path) -> None:
    root = fill(tmp_path, {"cat": 12, "dog": 12})
    for index in range(6):
        shutil.copy(root / "cat" / f"{index}.png", root / "cat" / f"copy{index}.png")
    shutil.copy(root / "cat" / "7.png", root / "dog" / "same.png")
    parts, said = parts_of(root, test_fraction=0.5)
    assert all(parts[f"cat/{index}.png"] == parts[f"cat/copy{index}.png"] for index in range(6))
    assert parts["cat/7.png"] == parts["dog/same.png"]
    assert Counter(parts.values())["test"] in (15, 16)
    assert said[1].startswith("warning: 14 files are copies of 7 pictures: cat/0.png = cat/copy0.png, ")
    assert said[1].endswith("and 4 more; all copies of a picture are on one side of the split")
    assert said[2] == (
        "warning: copies of 1 picture lie under two labels, one of which must be wrong: cat/7.png = dog/same.png"
    )


def test_a_class_of_copies_of_one_picture_is_trained_on_and_it_is_told() -> None:
    images = made({"a": 4, "b": 6}, duplicates=(("a/0.png", "a/1.png", "a/2.png", "a/3.png"),))
    parts = split_dataset(images, seed=0)
    assert numbers(images, parts, 0) == (4, 0, 0)
    assert numbers(images, parts, 1) == (2, 1, 3)


def test_copies_across_the_parts_of_an_own_split_are_told_and_the_split_is_kept(tmp_path: Path) -> None:
    root = fill(tmp_path, {f"train/{label}": 4 for label in ("cat", "dog")})
    shutil.copytree(root / "train", root / "test")
    parts, said = parts_of(root)
    assert Counter(parts.values()) == {"train": 8, "test": 8}  # no picture that is tested validates
    assert "copies of 8 pictures lie in more than one part of the split given by the folders train/, test/" in said[2]


def test_a_group_is_on_one_side_of_the_split() -> None:
    counts = {"a": 40, "b": 40}
    groups = {f"{name}/{index}.png": f"patient{index // 4}" for name in counts for index in range(40)}
    images = made(counts, groups=groups)
    parts = split_dataset(images, seed=1)
    sides: dict[str, set[str]] = {}
    for file, part in zip(images.files, parts, strict=True):
        sides.setdefault(groups[file], set()).add(part)
    assert all(len(side) == 1 for side in sides.values())
    assert (numbers(images, parts, 0), numbers(images, parts, 1)) == ((16, 4, 20), (16, 4, 20))
    torn = made({"a": 2, "b": 2}, groups={"a/0.png": "x", "a/1.png": "x"}, given={"a/0.png": "test"}, given_by="me")
    with pytest.raises(ArtifactError, match=r"1 groups lie in more than one part of the split given by me, e\.g\. x"):
        split_dataset(torn, seed=0)
