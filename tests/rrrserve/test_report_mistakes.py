"""What a report shows of wrong answers."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from rrrbuild.evaluation import Predictions, write_predictions
from rrrnet.data.dataset import TEST_DATA
from rrrserve.report import figures
from rrrserve.report.inputs import files_of_predictions
from rrrserve.report.mistakes import MOST_CLASSES, mistakes, thumbnails


def test_the_surest_wrong_answers_come_first_and_are_shown_small(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for file in files[:2]:
        Image.new("RGB", (300, 150), "red").save(file)
    Image.new("L", (5000, 4000)).save(files[2])  # more pixels than the service takes
    probabilities = np.array([[[0.6, 0.4]], [[0.1, 0.9]], [[0.2, 0.8]], [[0.9, 0.1]]])
    found = mistakes(probabilities, np.array([1, 0, 0, 0]), ("cat", "dog"), files)
    assert found["matrix"] == {"labels": ["cat", "dog"], "counts": [[1, 2], [1, 0]]}
    assert [(row["label"], row["predicted"]) for row in found["images"]] == [
        ("cat", "dog"),
        ("cat", "dog"),
        ("dog", "cat"),
    ]
    shown = thumbnails(found)
    assert [Path(row["file"]).name for row in shown] == ["1.png", "2.png", "0.png"]
    small = Image.open(io.BytesIO(base64.b64decode(shown[0]["source"].partition(",")[2])))
    assert small.size == (shown[0]["width"], shown[0]["height"]) == (96, 48)
    files[2].write_text("no image")
    assert [Path(row["file"]).name for row in thumbnails(found)] == ["1.png", "0.png"]


def test_images_of_a_second_folder_of_tests_are_found_from_the_predictions(tmp_path: Path) -> None:
    paths = (tmp_path / "mine" / "a.png", tmp_path / "theirs" / "b.png")
    labels, probabilities = np.array([0, 1]), np.full((2, 1, 2), 0.5, np.float32)
    found = Predictions(("a.png", f"{TEST_DATA}b.png"), paths, labels, probabilities, tmp_path / "mine", True)
    write_predictions(found, tmp_path / "p.npz")
    assert files_of_predictions(tmp_path / "p.npz", 2) == list(paths)
    assert files_of_predictions(tmp_path / "p.npz", 3) is None


def test_of_many_classes_the_matrix_shows_those_that_are_missed(tmp_path: Path) -> None:
    classes = MOST_CLASSES + 10
    names = tuple(f"class {index}" for index in range(classes))
    answers = np.arange(classes)
    answers[-1] = 3
    found = mistakes(np.eye(classes)[answers][:, None, :], np.arange(classes), names, None)
    assert len(found["matrix"]["labels"]) == MOST_CLASSES
    assert {"class 3", names[-1]} <= set(found["matrix"]["labels"])
    assert thumbnails(found) == []
    drawn = figures.confusion(found)
    assert f"The {MOST_CLASSES} of {classes} classes missed most" in drawn.caption
    assert f"{names[-1]} taken for class 3 1 times" in drawn.svg
