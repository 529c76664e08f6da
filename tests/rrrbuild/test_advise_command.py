"""`rrr advise` with real networks: what it refuses at once, what it takes for one's own, and one whole run."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from rrrbuild.advise.ask import Asked
from rrrbuild.advise.indifferent import make_indifferent
from rrrbuild.advise.own import flattery, learnt_tests, read_own
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, WEIGHTS, Checkpoint, read_checkpoint
from rrrnet.data.training_data import DataOptions, TrainingData, read_training_data
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrnet.images.preprocess_options import PreprocessOptions, choose_preprocess, flags_of
from rrrnet.inference import predictor
from rrrnet.network.architecture import full
from rrrnet.network.ensemble import RRRNet
from rrrserve.cli import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a ResNet50 with random weights and a classifier of 5 classes."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(RRRNet(full(5, backbone="resnet50")).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def training_data(data: Path) -> TrainingData:
    return read_training_data(data, DataOptions(), seed=0, validate=True, say=lambda _: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "none"], "--weights none: the question is about a network that is there"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--weights", "hf://me/net"], "files and checkpoints of this machine: hf download me/net"),
        (["--weights", "imagenet", "--minutes", "0"], "--minutes 0: allowed is a number above 0"),
        (["--weights", "imagenet", "--max-drop", "-1"], "--max-drop -1: allowed are 0 and more"),
        (["--weights", "imagenet", "--members", "0"], "--members 0: give numbers of members from 1 to 256"),
        (["--weights", "imagenet", "--target", "tensorflow"], "unknown target 'tensorflow'"),
        (["--weights", "imagenet", "--size", "64", "--crop", "64"], "--size 64"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_read(
    arguments: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    assert run(["advise", "--data", "nowhere", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_file_tells_its_backbone_and_whether_its_classifier_fits(resnet50: Path, training_data: TrainingData) -> None:
    own, data = read_own(str(resnet50), Path("nowhere"), key=None, ordered=False, read_data=lambda _: training_data)
    assert (own.backbone, own.weights, own.body) == ("resnet50", str(resnet50), str(resnet50))
    assert own.problem == "mine.pth: fc has 5 classes, the data have 3"
    assert "--test-data" in flattery(own, data)


def test_a_checkpoint_tells_how_it_sees_images_and_which_of_them_it_knows(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], data: Path, training_data: TrainingData
) -> None:
    whole = make_checkpoint(tmp_path / "mine", full(3, backbone="resnet50"), data=data)
    document = json.loads((whole.path / DOCUMENT).read_text())
    document["training"]["data"]["test_path"] = str(data / "gone")
    document["training"]["split"] = {"test_fraction": 0.25, "groups": None, "min_per_class": 2}
    sealed.seal(whole.path, DOCUMENT, document)
    asked: list[object] = []

    def read(flags: object) -> TrainingData:
        asked.append(flags)
        return training_data

    for folder in (tmp_path, data):  # other images are split as usual
        own, _ = read_own(str(whole.path), folder, key=None, ordered=False, read_data=read)
    assert asked == [{"size": 32, "seed": 0}, {"size": 32, "seed": 0, "test_fraction": 0.25, "min_per_class": 2}]
    assert (own.weights, own.body) == (str(whole.path), str(whole.path / WEIGHTS))
    assert own.problem == ""
    assert flattery(own, training_data) == ""  # half of each class is tested there, a fifth of the same half here
    everything = replace(training_data, parts=("test",) * len(training_data.parts))
    seen = learnt_tests(own, everything)
    assert seen == len(everything.parts) // 2
    assert flattery(own, everything).startswith(f"your network was trained on {seen} of {2 * seen} test images")


def test_a_reduced_network_is_no_network_to_ask_about(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="is a reduced network already: give the whole one"):
        read_own(
            str(checkpoint.path),
            Path("nowhere"),
            key=None,
            ordered=False,
            read_data=lambda _: pytest.fail("images were read"),
        )


def test_a_network_that_is_only_timed_answers_every_image_alike(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], data: Path, images: npt.NDArray[np.uint8]
) -> None:
    random = make_checkpoint(tmp_path / "random", data=data)
    assert np.ptp(predictor(random)(images), axis=2).max() > 0.05
    make_indifferent(random.path)
    assert np.ptp(predictor(read_checkpoint(random.path))(images), axis=2).max() < 0.005


def test_flags_make_the_rule_that_they_were_made_of() -> None:
    crop = Preprocess(
        224, mode="crop", resize_size=256, jpeg_oversize=0, resize="bicubic", mean=(0.5, 0.4, 0.3), bgr=True
    )
    for rule in (Preprocess(96), crop):
        flags = flags_of(rule)
        size = flags.pop("size", None)
        assert choose_preprocess(PreprocessOptions(**flags), size) == rule  # type: ignore[arg-type]  # of any option


def test_what_a_checkpoint_asks_for_gives_way_to_what_a_person_does(tmp_path: Path) -> None:
    asked = Asked("imagenet", tmp_path, tmp_path / "out", 5, flags={"size": 64})
    assert asked.options({"size": 128, "seed": 7}).size == 64
    assert asked.options({"size": 128, "seed": 7}).seed == 7
    tested = Asked("imagenet", tmp_path, tmp_path / "out", 5, flags={"test_data": tmp_path}).options(
        {"test_fraction": 0.2, "groups": "camera"}
    )
    assert tested.data_options.settings() == {"test_data": str(tmp_path), "groups": "camera"}


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # generous: it trains and builds, beside whatever else runs
def test_a_random_resnet50_is_compared_within_the_minutes_and_every_row_can_be_made_again(
    tmp_path: Path, resnet50: Path, many_images: Path, capsys: Capture
) -> None:
    out = tmp_path / "table"
    words = ["advise", "--weights", str(resnet50), "--data", str(many_images), "--out", str(out)]
    words += ["--size", "32", "--members", "1,2", "--target", "openvino-fp32", "--minutes", "3", "--json"]
    assert run(words) == 0

    told = json.loads(capsys.readouterr().out)
    rows = {row["candidate"]["name"]: row for row in told["rows"]}
    assert list(rows)[:3] == ["own", "reduced", "members-2"]
    assert all(row["images"] == told["test_images"] == 60 or row["note"] for row in told["rows"])
    assert rows["reduced"]["times_as_fast"] > 1
    assert rows["reduced"]["images"] == 60
    assert told["recommended"] in rows
    insisting = "" if told["recommended"] == "own" else " --target openvino-fp32"
    assert told["next"] == f"rrr build {out}/models/{told['recommended']}{insisting}"
    weights = out / "models" / "reduced" / WEIGHTS
    before = weights.read_bytes()
    assert run(shlex.split(rows["reduced"]["command"])[1:]) == 0
    assert weights.read_bytes() == before
    assert (out / "models" / "reduced" / DOCUMENT).is_file()
    assert not list(out.glob(".untrained-*"))

    capsys.readouterr()
    assert run(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["wrong"] for row in again["rows"][:3]] == [row["wrong"] for row in told["rows"][:3]]
