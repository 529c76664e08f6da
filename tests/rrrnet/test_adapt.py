"""`rrr adapt`: a trained network at other image sizes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint, read_weights, write_checkpoint
from rrrnet.data.dataset import read_dataset, split_dataset, write_split
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture, cost
from rrrnet.network.ensemble import RRRNet, export_weights
from rrrnet.training import adapt as adapting
from rrrnet.training.adapt import Adapted, AdaptOptions, at_size, frozen_but, tuned_parts
from rrrserve.cli import run

Capture = pytest.CaptureFixture[str]
LABELS = ("red", "green", "blue")
DUO = Architecture(3, REDUCED_BLOCKS, 2, (8, 8))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Two narrow members of random weights that remember 3 x 10 images at 32 pixels; not to be changed."""
    folder, random = tmp_path_factory.mktemp("adapt"), np.random.default_rng(3)
    for channel, label in enumerate(LABELS):
        (folder / "colours" / label).mkdir(parents=True)
        for index in range(10):
            pixels = random.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(folder / "colours" / label / f"{index}.png")
    images = read_dataset(folder / "colours")
    recorded = {"name": images.name, "path": str(images.root), "sha256": images.sha256}
    training = {"data": recorded, "frozen": ["conv1"], "complete": True}
    checkpoint = Checkpoint(folder / "duo", "duo", "ensemble", DUO, LABELS, Preprocess(32), training, "tests")
    torch.manual_seed(5)
    with sealed.staged(folder / "duo", document=DOCUMENT) as stage:
        write_split(stage / SPLIT, images, split_dataset(images, seed=0, test_fraction=0.3))
        write_checkpoint(checkpoint, dict(export_weights(RRRNet(DUO))), stage)
    return read_checkpoint(folder / "duo")


def adapt(options: AdaptOptions, *, stop: bool = False) -> list[Adapted]:
    silent = {"report": lambda *_: None, "say": lambda _: None, "started": lambda *_: None}
    return adapting.adapt(options, stop=lambda: stop, **silent)  # type: ignore[arg-type]  # one type for three


def test_classifiers_and_last_bns_are_tuned_and_nothing_else() -> None:
    assert tuned_parts(RRRNet(DUO)) == (
        *("members.0.fc", "members.0.layer4.0.bn3", "members.1.fc", "members.1.layer4.0.bn3"),
    )
    whole = RRRNet(Architecture(3, (1, 2, 2, 3), widths=(8, 16)))
    assert tuned_parts(whole) == ("fc", "layer4.2.bn3")
    frozen = frozen_but(whole, tuned_parts(whole))
    left = [name for name, _ in whole.named_parameters() if not name.startswith(frozen)]
    assert left == ["layer4.2.bn3.weight", "layer4.2.bn3.bias", "fc.weight", "fc.bias"]


def test_each_size_has_its_checkpoint_with_only_last_layers_and_statistics_changed(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([0.2, 0.8, 0.2, 0.8])  # before and after at each size
    monkeypatch.setattr(adapting, "accuracies", lambda *_: dict.fromkeys(("val", "test"), next(given)))
    found = adapt(AdaptOptions(source.path, tmp_path / "new", (32, 48), epochs=2))
    assert [one.checkpoint.name for one in found] == ["new-32", "new-48"]
    before = read_weights(source)
    for one, size in zip(found, (32, 48), strict=True):
        written = read_checkpoint(one.checkpoint.path)
        after = read_weights(written)
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        weights = {name for name in changed if not name.endswith(("running_mean", "running_var"))}
        assert weights == {
            f"members.{member}.{part}.{kind}"
            for member in (0, 1)
            for part in ("fc", "layer4.0.bn3")
            for kind in ("weight", "bias")
        }
        assert {"bn1.running_mean", "members.1.layer4.0.bn3.running_var"} <= changed - weights
        assert (written.preprocess.size, one.macs) == (size, cost(DUO, size)["total"]["macs"])
        assert (written.path / SPLIT).read_bytes() == (source.path / SPLIT).read_bytes()
        assert written.training["frozen"] == ["conv1"], "a training that goes on from here freezes what it did before"
        record = written.training["adapted"]
        assert (record["from"]["name"], record["from"]["size"], record["tuned"]) == ("duo", 32, True)
        assert written.training["metrics"]["test"]["images"] == 9


def test_weights_stay_as_they_were_where_tuning_is_worse_on_the_validation_images(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([{"val": 0.9, "test": 0.1}, {"val": 0.8, "test": 0.9}])  # the test images choose nothing
    monkeypatch.setattr(adapting, "accuracies", lambda *_: next(given))
    (one,) = adapt(AdaptOptions(source.path, tmp_path / "new", (48,), epochs=1))
    assert (one.tuned, one.taken) == (False, {"val": 0.9, "test": 0.1})
    before, after = read_weights(source), read_weights(one.checkpoint)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert one.checkpoint.preprocess.size == 48


def test_a_stop_writes_nothing_of_the_size_that_is_being_tuned(source: Checkpoint, tmp_path: Path) -> None:
    assert adapt(AdaptOptions(source.path, tmp_path / "new", (32, 48), epochs=3), stop=True) == []
    assert list(tmp_path.iterdir()) == []


def test_a_crop_is_cut_from_as_much_larger_an_image_as_before() -> None:
    crop = Preprocess(224, mode="crop", resize_size=256)
    assert at_size(crop, 112) == replace(crop, size=112, resize_size=128)
    assert at_size(Preprocess(64), 96) == Preprocess(96)


def test_the_command_shows_accuracy_against_cost_and_names_the_best(
    source: Checkpoint, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "new"
    command = ["adapt", str(source.path), "--size", "32", "--size", "48", "--epochs", "1", "--out", str(out)]
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert "duo: accuracy at this size, as it was -> tuned" in printed
    assert [line.split()[:2] for line in printed.splitlines() if line[:2] in ("32", "48")] == [
        [str(size), f"{cost(DUO, size)['total']['macs'] / 1e6:.1f}"] for size in (32, 48)
    ]
    assert printed.splitlines()[-1] in {f"next: rrr build {out}-{size}" for size in (32, 48)}

    assert run(command) == 2
    assert f"{out}-32 already holds a checkpoint: replace it with --overwrite" in capsys.readouterr().err
    assert run(["adapt", str(source.path), "--size", "48", "--epochs", "1", "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["best"] == str(out)
    assert document["sizes"][0].keys() == {"path", "size", "macs", "milliseconds", "before", "after", "tuned"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "16"], "--size 16: allowed are 32 to 1024 pixels"),
        (["--size", "48", "--epochs", "0"], "--epochs 0: allowed are 1 and more"),
        (["--size", "48", "--lr", "2"], "--lr 2.0: allowed is a number between 0 and 1"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_is_allowed(
    source: Checkpoint, tmp_path: Path, capsys: Capture, words: list[str], said: str
) -> None:
    assert run(["adapt", str(source.path), *words, "--out", str(tmp_path / "new")]) == 2
    assert said in capsys.readouterr().err


def test_a_checkpoint_is_not_replaced_by_its_own_adaptation(source: Checkpoint, capsys: Capture) -> None:
    assert run(["adapt", str(source.path), "--size", "48", "--out", str(source.path), "--overwrite"]) == 2
    assert "is the checkpoint that is adapted: give another name" in capsys.readouterr().err
