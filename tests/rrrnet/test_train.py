"""Training: every member on its own loss, seeds that reproduce, a stop that loses nothing."""

import csv
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

from rrrnet.checkpoint import Checkpoint, read_checkpoint, read_weights
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.glyphs.generate import generate_glyphs
from rrrnet.glyphs.options import GlyphOptions
from rrrnet.images.preprocess import Preprocess
from rrrnet.images.preprocess_options import PreprocessOptions
from rrrnet.inference import predictor
from rrrnet.network import architecture as shapes
from rrrnet.network.ensemble import RRRNet, normalise
from rrrnet.training import budget, threads
from rrrnet.training.augment import make_augmentation
from rrrnet.training.fit import Outcome, fit
from rrrnet.training.options import Options
from rrrnet.training.recipes import RECIPES, learning_rate
from rrrnet.training.train import Training, TrainingPlan


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "letters"
    generate_glyphs(folder, GlyphOptions(classes=3, per_class=12, size=32))
    return folder


def run(options: Options, *, steps: int | None = None, say: Callable[[str], None] = lambda line: None) -> Outcome:
    """Train; stop after `steps` steps if given."""
    counter = itertools.count(1)
    return fit(
        options,
        report=lambda progress, total: None,
        stop=lambda: steps is not None and next(counter) >= steps,
        say=say,
        started=lambda epochs, steps: None,
    )


def options(data: Path, out: Path) -> Options:
    return Options(data, out, members=2, weights="none", epochs=2, size=32, batch_size=6, precision="fp32")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """What a training that was not disturbed gives; not to be changed."""
    return run(options(data, tmp_path_factory.mktemp("whole") / "net")).checkpoint


def assert_same_weights(first: Checkpoint, second: Checkpoint) -> None:
    left, right = read_weights(first), read_weights(second)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_a_checkpoint_says_how_it_came_to_be(whole: Checkpoint) -> None:
    checkpoint = read_checkpoint(whole.path)
    assert (checkpoint.name, checkpoint.method, len(checkpoint.labels)) == ("net", "ensemble", 3)
    assert checkpoint.architecture == shapes.ensemble(3, 2)
    training = checkpoint.training
    assert training["complete"] is True
    assert training["weights"]["origin"] == "none: random, conv1 edge filters"
    counts = [training["split"][f"{part}_images"] for part in ("train", "val", "test")]
    assert counts == [15, 3, 18]
    assert training["data"]["left_out_by_kind"] == {}
    assert training["data"]["junk"] == {"documents": 1}
    assert training["metrics"]["test"]["images"] == 18
    assert len(training["metrics"]["test"]["members"]) == 2


def test_the_learning_curve_is_written_as_csv_and_png(whole: Checkpoint) -> None:
    rows = list(csv.DictReader((whole.path / "learning_curve.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert "val_accuracy" in rows[0]
    assert (whole.path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_another_seed_gives_other_weights(data: Path, whole: Checkpoint, tmp_path: Path) -> None:
    other = run(replace(options(data, tmp_path / "other"), seed=1)).checkpoint
    assert not np.array_equal(read_weights(whole)["conv1.weight"], read_weights(other)["conv1.weight"])


nightly = pytest.mark.nightly


@pytest.mark.parametrize("steps", [pytest.param(2, marks=nightly), 3, pytest.param(5, marks=nightly)])
def test_a_stopped_training_goes_on_to_the_same_end(data: Path, whole: Checkpoint, tmp_path: Path, steps: int) -> None:
    stopped = run(options(data, tmp_path / "parts"), steps=steps)
    assert not stopped.complete
    assert (tmp_path / "parts" / "resume.safetensors").exists()
    resumed = run(replace(options(data, tmp_path / "parts"), resume=True))
    assert resumed.complete
    assert not (tmp_path / "parts" / "resume.safetensors").exists()
    assert_same_weights(whole, resumed.checkpoint)


def test_a_stopped_trainings_checkpoint_can_be_used_as_it_is(data: Path, tmp_path: Path) -> None:
    run(options(data, tmp_path / "net"), steps=2)
    checkpoint = read_checkpoint(tmp_path / "net")
    assert (checkpoint.training["complete"], checkpoint.training["stopped"]) == (False, True)
    probabilities = predictor(checkpoint)(np.zeros((2, 32, 32, 3), np.uint8))
    np.testing.assert_allclose(probabilities.sum(axis=2), np.ones((2, 2)), rtol=1e-5)


def test_resuming_with_other_settings_names_the_difference(data: Path, tmp_path: Path) -> None:
    run(options(data, tmp_path / "net"), steps=2)
    stopped = replace(options(data, tmp_path / "net"), resume=True)
    with pytest.raises(UsageError, match="members was 2, now 4"):
        run(replace(stopped, members=4))
    with pytest.raises(UsageError, match="size was 32, now 48; balance was none, now weights"):
        run(replace(stopped, size=48, balance="weights"))
    with pytest.raises(UsageError, match=r"--resume: what .* is trained from is a ResNet152, not a ResNet50"):
        run(replace(stopped, backbone="resnet50"))


def test_a_training_whose_steps_were_timed_beside_other_work_starts_again_with_more_epochs(
    whole: Checkpoint, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "step_seconds", lambda *_: 90.0)  # so that one epoch fits into three minutes
    monkeypatch.setattr(budget, "MOST_EPOCHS", 2)
    said: list[str] = []
    asked = replace(options(data, tmp_path / "net"), epochs=None, minutes=3, command="rrr train --minutes 3")
    checkpoint = run(asked, say=said.append).checkpoint
    assert "steps are faster than they were when they were timed (90.00 s): starting again" in said
    assert checkpoint.command == "rrr train --size 32 --epochs 2 --weights none"
    for name, tensor in read_weights(checkpoint).items():
        torch.testing.assert_close(tensor, read_weights(whole)[name], rtol=0, atol=0)


def test_minutes_are_kept_by_a_resumed_training_and_by_the_command_that_repeats_it(data: Path, tmp_path: Path) -> None:
    asked = replace(
        options(data, tmp_path / "net"), epochs=None, minutes=0.02, command="rrr train --minutes 0.02 --seed 0"
    )
    stopped = run(asked, steps=1).checkpoint.training
    assert (stopped["minutes"], stopped["epochs"] > 0, stopped["complete"]) == (0.02, True, False)
    command = f"rrr train --seed 0 --size 32 --epochs {stopped['epochs']} --weights none"
    assert read_checkpoint(tmp_path / "net").command == command
    with pytest.raises(UsageError, match=r"minutes was 0\.02, now 5"):
        run(replace(asked, minutes=5, resume=True), steps=1)
    given = replace(asked, minutes=None, epochs=stopped["epochs"], resume=True)
    assert run(given, steps=1).checkpoint.training["epochs"] == stopped["epochs"]


def test_a_finished_checkpoint_is_replaced_only_when_told_and_the_same_seed_gives_the_same_weights(
    data: Path, whole: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(whole.path, tmp_path / "net")
    with pytest.raises(UsageError, match="already holds a checkpoint: replace it with --overwrite"):
        run(options(data, tmp_path / "net"))
    with pytest.raises(UsageError, match=r"--resume: the checkpoint .* is complete"):
        run(replace(options(data, tmp_path / "net"), resume=True))
    again = run(replace(options(data, tmp_path / "net"), overwrite=True)).checkpoint
    assert_same_weights(whole, again)


def finish(training: Training) -> None:
    training.run(lambda progress, total: None, lambda: False)


def training(recipe: str, frozen: tuple[str, ...] = (), members: int = 2) -> Training:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), rng.integers(0, 3, 12)
    torch.manual_seed(0)
    model = RRRNet(shapes.ensemble(3, members))
    small = replace(RECIPES[recipe], batch_size=6)
    return Training(model, TrainingPlan(small, 5, 0, frozen, Preprocess(32), "cpu", False), images, labels)


@pytest.mark.parametrize("bgr", [False, True])
def test_training_normalises_as_inference_does(*, bgr: bool) -> None:
    run_ = training("quick")
    rule = Preprocess(32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), bgr=bgr)
    run_.plan = replace(run_.plan, preprocess=rule)
    found = run_._normalise(run_.images.permute(0, 3, 1, 2).float() / 255)
    assert torch.allclose(found, normalise(run_.images, rule), atol=1e-5)


STEM = ("conv1", "bn1", "layer1", "layer2")


@pytest.mark.parametrize("recipe", [pytest.param("paper", marks=pytest.mark.nightly), "quick"])
def test_a_members_weights_do_not_depend_on_the_other_members(recipe: str) -> None:
    """The last of three ends the same whatever the others are, as long as the shared stem does not move."""
    results = []
    for disturb in (False, True):
        run_ = training(recipe, STEM, members=3)
        if disturb:
            with torch.no_grad():
                for parameter in run_.model.members[0].parameters():
                    parameter.mul_(0.5)
        finish(run_)
        results.append({name: value.clone() for name, value in run_.model.members[2].state_dict().items()})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def test_a_frozen_stem_keeps_its_weights_and_has_its_statistics_re_estimated() -> None:
    run_ = training("paper", STEM)
    before = {name: value.clone() for name, value in run_.model.state_dict().items()}
    finish(run_)
    after = run_.model.state_dict()
    assert torch.equal(after["layer2.0.conv2.weight"], before["layer2.0.conv2.weight"])
    assert torch.equal(after["bn1.weight"], before["bn1.weight"])
    assert not torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(after["members.0.fc.weight"], before["members.0.fc.weight"])


def test_from_scratch_the_stem_trains_too() -> None:
    run_ = training("quick")
    before = run_.model.state_dict()["layer1.0.conv2.weight"].clone()
    finish(run_)
    assert not torch.equal(run_.model.state_dict()["layer1.0.conv2.weight"], before)


def test_the_papers_average_covers_the_last_fifth_of_the_epochs() -> None:
    recipe = RECIPES["paper"]
    assert (recipe.epochs, recipe.ema_epochs(300), recipe.lr, recipe.batch_size) == (300, 60, 1e-3, 32)
    run_ = training("paper", STEM)
    finish(run_)
    assert run_.progress.averaged == 1  # of 5 epochs
    assert run_.result() is not run_.model


def test_one_cycle_rises_to_its_peak_and_falls_to_zero() -> None:
    recipe = RECIPES["quick"]
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[9] == recipe.lr == max(rates)
    assert rates[0] == pytest.approx(recipe.lr / 10)
    assert rates[-1] < recipe.lr / 1000


@pytest.mark.parametrize("name", ["paper", "quick", "scratch"])
def test_augmentation_keeps_shape_and_range_and_follows_the_seed(name: str) -> None:
    augment = make_augmentation(name)  # type: ignore[arg-type]
    images = torch.rand(16, 3, 32, 32)
    torch.manual_seed(1)
    first = augment(images)
    torch.manual_seed(1)
    second = augment(images)
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images))


def test_augmentation_none_leaves_images_as_they_are() -> None:
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(make_augmentation("none")(images), images)


def test_zero_epochs_of_a_random_network_give_finite_varied_answers(data: Path, tmp_path: Path) -> None:
    outcome = run(replace(options(data, tmp_path / "full"), method="full", epochs=0))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    probabilities = predictor(outcome.checkpoint)(images)
    assert probabilities.shape == (4, 1, 3)
    assert np.isfinite(probabilities).all()
    assert 0.34 < probabilities.max() < 0.9999


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "tiny"}, UsageError, "--method tiny: no such method; allowed are head, full, reduced, ensemble"),
        ({"recipe": "slow"}, UsageError, "--recipe slow: no such recipe; allowed are paper, quick"),
        ({"epochs": -1}, UsageError, "--epochs -1"),
        ({"size": 16}, UsageError, "allowed are 32 to 1024"),
        ({"members": 0}, UsageError, "--members 0"),
        ({"balance": "yes"}, UsageError, "--balance yes: no such way; allowed are none, weights, sampler"),
        ({"minutes": 0}, UsageError, "--minutes 0: allowed is a number above 0"),
        ({"minutes": 3}, UsageError, "leave out --minutes or --epochs 2"),
        ({"data": Path("nowhere")}, ArtifactError, "nowhere"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    data: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(replace(options(data, tmp_path / "net"), **change))
    assert not (tmp_path / "net").exists()


def test_a_checkpoint_can_be_gone_on_with_at_another_size(data: Path, whole: Checkpoint, tmp_path: Path) -> None:
    run(replace(options(data, tmp_path / "large"), size=48, weights=str(whole.path), epochs=0))
    large = read_checkpoint(tmp_path / "large")
    assert (large.preprocess.size, large.training["frozen"]) == (48, [])
    assert large.training["weights"]["origin"].startswith("checkpoint net, sha256 ")
    assert large.training["weights"]["fresh_tensors"] == 0
    assert_same_weights(whole, large)


def test_a_rule_of_ones_own_travels_and_is_kept_when_training_goes_on(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    own = PreprocessOptions(resize=40, crop=32, interpolation="bicubic", mean="0.5,0.4,0.3", std="1,0.5,0.25", bgr=True)
    first = replace(options(data, tmp_path / "first"), size=None, preprocess=own, epochs=0)
    run(first, say=said.append)
    rule = Preprocess(32, "bicubic", (0.5, 0.4, 0.3), (1.0, 0.5, 0.25), 0, "crop", 40, bgr=True)
    assert read_checkpoint(tmp_path / "first").preprocess == rule
    assert f"images: {rule.describe()}" in said

    run(replace(options(data, tmp_path / "next"), size=None, weights=str(tmp_path / "first"), epochs=0))
    assert read_checkpoint(tmp_path / "next").preprocess == rule


def test_images_over_max_pixels_are_left_out_of_training(data: Path, tmp_path: Path) -> None:
    larger = tmp_path / "data"
    shutil.copytree(data, larger)
    name = sorted(path.name for path in (larger / "images").iterdir())[0]
    Image.new("RGB", (64, 32)).save(larger / "images" / name)
    outcome = run(replace(options(larger, tmp_path / "net"), epochs=0, max_pixels=64 * 32 - 1))
    recorded = outcome.checkpoint.training["data"]
    assert (recorded["left_out"], recorded["max_pixels"]) == ([f"images/{name}"], 2047)


def test_a_checkpoint_of_another_network_is_refused_with_both_shapes(data: Path, tmp_path: Path) -> None:
    run(replace(options(data, tmp_path / "two"), epochs=0))
    three = replace(options(data, tmp_path / "three"), members=3, weights=str(tmp_path / "two"))
    with pytest.raises(UsageError, match=r"members there is 2, of this network 3"):
        run(three)
    with pytest.raises(UsageError, match=r"two: what it was trained from is a ResNet152, not a ResNet101: leave out"):
        run(replace(three, members=2, backbone="resnet101"))
    assert not (tmp_path / "three").exists()


def test_torch_gets_no_more_threads_than_cores_to_keep_busy_and_never_more_than_it_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for usable, expected in ((8, 3), (2, 2), (1, 1), (3, 1)):
            monkeypatch.setattr(threads, "cores", lambda usable=usable: usable)
            threads.configure_threads()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
