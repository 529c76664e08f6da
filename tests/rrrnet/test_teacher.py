"""`rrr train --teacher`: what is refused, what is told, what is recorded, and going on with the same teacher."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_checkpoint, read_weights, write_checkpoint
from rrrnet.data.dataset import read_split
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture
from rrrnet.network.ensemble import RRRNet, export_weights
from rrrnet.training import planning
from rrrnet.training.fit import Outcome, fit
from rrrnet.training.options import Options
from rrrnet.training.training_state import RESUME

CLASSES = ("blue", "green", "red")


def pictures(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "colours"
    for seed, name in enumerate(CLASSES):
        pictures(root / name, 6, seed)
    return root


@pytest.fixture(autouse=True)
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks with few channels in the place of those of the methods, and no plots, which take longer than they do."""
    monkeypatch.setattr("rrrnet.training.curve.write_curve", lambda *_: None)
    monkeypatch.setattr(planning, "choose_architecture", lambda _, classes: _thin(classes, 2))


def _thin(classes: int, members: int) -> Architecture:
    return Architecture(classes, REDUCED_BLOCKS, members, (8, 8))


def imported(folder: Path, labels: tuple[str, ...] = CLASSES, rule: Preprocess | None = None, seed: int = 1) -> Path:
    """A checkpoint that records no data."""
    torch.manual_seed(seed)
    architecture = _thin(len(labels), 1)
    training: dict[str, Any] = {"complete": True, "data": None, "split": None, "epochs": 0, "seed": 0, "metrics": {}}
    checkpoint = Checkpoint(
        folder, folder.name, "full", architecture, labels, rule or Preprocess(40), training, "tests"
    )
    with sealed.staged(folder, document=DOCUMENT) as stage:
        write_checkpoint(checkpoint, dict(export_weights(RRRNet(architecture))), stage)
    return folder


@pytest.fixture(scope="module")
def wise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("teachers") / "wise")


def options(data: Path, out: Path, **more: Any) -> Options:
    plain = Options(data, out, members=2, weights="none", epochs=1, size=32, batch_size=4, precision="fp32")
    return replace(plain, **more)


def run(asked: Options, *, steps: int | None = None, say: Callable[[str], None] = lambda line: None) -> Outcome:
    """Train; stop after `steps` steps if given."""
    counter = itertools.count(1)
    return fit(
        asked,
        report=lambda progress, total: None,
        stop=lambda: steps is not None and next(counter) >= steps,
        say=say,
        started=lambda epochs, steps: None,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": Path("nowhere")}, "--teacher nowhere: no checkpoint lies there"),
        ({"out": "wise"}, "is --out, which this training writes: give another --out"),
        ({"epochs": 0}, "--epochs 0 trains nothing; leave out one of them"),
        ({"teacher_temperature": 0.0}, r"--teacher-temperature 0\.0: allowed is a number above 0, of at most 100"),
        ({"teacher_weight": 1.5}, r"--teacher-weight 1\.5: allowed is a number above 0, of at most 1"),
        ({"unlabelled": Path("nowhere")}, "--unlabelled nowhere: there is no such folder"),
        ({"teacher": None, "unlabelled": Path()}, r"--unlabelled \. is for a teacher: give --teacher CHECKPOINT"),
        ({"teacher": None, "teacher_weight": 0.5}, r"--teacher-weight 0\.5 is for a teacher"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(
    wise: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    out = wise if change.pop("out", None) else tmp_path / "net"
    with pytest.raises(UsageError, match=message):
        options(tmp_path / "no data", out, **{"teacher": wise} | change)


def test_a_teacher_of_other_classes_or_of_another_order_is_refused_with_the_difference(
    data: Path, tmp_path: Path
) -> None:
    other = imported(tmp_path / "other", ("blue", "green", "violet"))
    with pytest.raises(ArtifactError, match=r"only .*colours has 'red'; only --teacher .*other has 'violet'"):
        run(options(data, tmp_path / "net", teacher=other))
    turned = imported(tmp_path / "turned", ("blue", "red", "green"))
    with pytest.raises(
        UsageError, match=r"output 2 is 'red' there and 'green' here; give --labels FILE with .* blue, red, green"
    ):
        run(options(data, tmp_path / "net", teacher=turned))
    assert not (tmp_path / "net").exists()


def test_a_teacher_and_what_it_taught_are_recorded_and_told(data: Path, wise: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    pictures(others / "deep" / "er", 5, seed=9)
    (others / "notes.txt").write_text("no image")
    said: list[str] = []
    outcome = run(options(data, tmp_path / "net", teacher=wise, teacher_weight=0.5, unlabelled=others), say=said.append)
    teacher = read_checkpoint(outcome.checkpoint.path).training["teacher"]
    assert (teacher["name"], teacher["method"], teacher["sha256"]) == (
        "wise",
        "full",
        sealed.sha256_of(wise / DOCUMENT),
    )
    assert (teacher["temperature"], teacher["weight"], teacher["trained_on_test_images"]) == (2, 0.5, None)
    assert (teacher["unlabelled"]["images"], teacher["unlabelled"]["left_out_by_kind"]) == (5, {"text": 1})
    assert f"teacher: wise (full), its accuracy is not known; {Preprocess(40).describe()}" in said
    assert f"--unlabelled {others}: 5 images without a label" in said
    assert f"--unlabelled {others}: left out 1 text: notes.txt; they are no images: move them elsewhere" in said
    assert any(line.startswith("note: what the teacher was trained on is not recorded") for line in said)


def test_images_without_a_label_are_none_of_the_labelled_ones_whatever_their_names(
    data: Path, wise: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    others = tmp_path / "others"
    pictures(others, 2, seed=9)
    for number, path in enumerate(sorted(data.glob("red/*.png"))):
        shutil.copy(path, others / f"red {number}.png")
    asked = options(data, tmp_path / "net", teacher=wise, unlabelled=others)
    assert run(asked, say=said.append).checkpoint.training["teacher"]["unlabelled"]["images"] == 2
    for count, part in (
        ("1 copy", "that are tested"),
        ("1 copy", "that validate"),
        ("4 copies", "that are trained on"),
    ):
        assert any(line.startswith(f"--unlabelled {others}: left out {count} of images {part}") for line in said)
    with pytest.raises(ArtifactError, match="has no image to take: left out 3 copies of images that"):
        run(replace(asked, unlabelled=data, overwrite=True))


def test_a_teacher_that_was_trained_on_images_tested_here_is_told_with_figures(data: Path, tmp_path: Path) -> None:
    taught = run(options(data, tmp_path / "teacher")).checkpoint
    said: list[str] = []
    run(options(data, tmp_path / "same", teacher=taught.path), steps=1, say=said.append)
    assert not any("flatter" in line for line in said)

    moved = shutil.copytree(data, tmp_path / "moved")
    (moved / "red" / "0.png").rename(moved / "red" / "another name.png")
    other = options(moved, tmp_path / "other", teacher=taught.path, seed=4)
    student = run(other, steps=1, say=said.append).checkpoint
    trained = {file for file, part in read_split(taught.path / "split.csv").items() if part == "train"}
    trained |= {"red/another name.png"} if "red/0.png" in trained else set()
    tested = {file for file, part in read_split(student.path / "split.csv").items() if part == "test"}
    seen = len(trained & tested)
    assert seen > 0
    assert student.training["teacher"]["trained_on_test_images"] == seen
    assert any(line.startswith(f"warning: the teacher was trained on {seen} of the 3 test images (") for line in said)
    assert any("with the same --seed (the teacher's is 0)" in line for line in said)


def test_images_framed_otherwise_than_the_teachers_are_told(data: Path, tmp_path: Path) -> None:
    rule = Preprocess(32, mode="crop", resize_size=40)
    said: list[str] = []
    run(options(data, tmp_path / "net", teacher=imported(tmp_path / "crops", rule=rule)), steps=1, say=said.append)
    assert any("framed otherwise than here; --resize 40 --crop 32 frames" in line for line in said)


def test_a_stopped_training_goes_on_to_the_same_end_and_insists_on_its_teacher(
    data: Path, wise: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    pictures(others, 3, seed=9)
    asked = options(data, tmp_path / "net", teacher=wise, unlabelled=others)
    whole = run(replace(asked, out=tmp_path / "whole")).checkpoint
    assert not run(asked, steps=2).complete
    assert (tmp_path / "net" / RESUME).exists()
    resumed = replace(asked, resume=True)
    for change, message in (
        ({"teacher": None, "unlabelled": None}, "teacher was wise, sha256 .*, now None"),
        (
            {"teacher": imported(tmp_path / "twin", seed=2), "teacher_weight": 0.4, "unlabelled": None},
            r"teacher was wise, sha256 .*, now twin, sha256 .*; teacher_weight was 0\.9, now 0\.4; "
            "unlabelled was 3 images, sha256 .*, now None",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            run(replace(resumed, **change))
    moved = shutil.copytree(wise, tmp_path / "moved")
    ended = run(replace(resumed, teacher=moved)).checkpoint
    for name, weights in read_weights(whole).items():
        np.testing.assert_array_equal(weights, read_weights(ended)[name], err_msg=name)
