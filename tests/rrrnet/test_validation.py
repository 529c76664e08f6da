"""Validation: how often, when it may decide, and what a training does then."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture
from rrrnet.network.ensemble import RRRNet
from rrrnet.training.recipes import RECIPES
from rrrnet.training.train import Training, TrainingPlan
from rrrnet.training.validation import decides, epochs_between, patience

THIN = Architecture(3, REDUCED_BLOCKS, 2, (8, 8))


def test_validating_takes_a_tenth_of_the_time_at_most() -> None:
    assert epochs_between(360, 40) == 1
    assert epochs_between(400, 400) == 4
    assert epochs_between(0, 0) == 1


@pytest.mark.parametrize(
    ("recipe", "images", "wanted", "decided"),
    [
        ("paper", 200, True, True),
        ("paper", 199, True, False),
        ("paper", 900, False, False),
        ("quick", 900, True, False),
    ],
)
def test_it_decides_only_under_a_constant_rate_with_enough_images(
    recipe: str, images: int, wanted: bool, decided: bool
) -> None:
    assert decides(RECIPES[recipe], images, wanted=wanted) is decided


def make(epochs: int, *, selects: bool, balance: str = "none") -> Training:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), rng.integers(0, 3, 8)
    torch.manual_seed(0)
    recipe = replace(RECIPES["quick"], schedule="constant", batch_size=8)
    plan = TrainingPlan(recipe, epochs, 0, (), Preprocess(32), "cpu", False, balance, selects)
    return Training(RRRNet(THIN), plan, images, labels, (images[:2], labels[:2]))


def test_the_best_epoch_is_kept_and_a_training_that_stands_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.2, 0.6, 0.4, 0.4, 0.6])
    monkeypatch.setattr("rrrnet.training.validation.patience", lambda _: 3)
    training = make(9, selects=True)
    states = []

    def validate() -> float:
        training.select(next(accuracies), training.model, training.progress.epoch + 1)
        states.append(training.model.state_dict()["conv1.weight"].clone())
        return 0.0

    monkeypatch.setattr(training, "_validate", validate)
    assert training.run(lambda progress, steps: None, lambda: False)
    assert (training.progress.epoch, training.progress.best_epoch) == (5, 2)
    assert torch.equal(training.result().state_dict()["conv1.weight"], states[1])


def test_validation_changes_nothing_that_is_trained() -> None:
    watched, blind = make(2, selects=False), make(2, selects=False)
    blind.held_back = None
    for training in (watched, blind):
        training.run(lambda progress, steps: None, lambda: False)
    assert [row["val_accuracy"] is None for row in watched.progress.history] == [False, False]
    assert watched.progress.val_accuracy is not None
    assert blind.progress.val_accuracy is None
    for name, value in watched.model.state_dict().items():
        assert torch.equal(value, blind.model.state_dict()[name]), name


@pytest.mark.parametrize("balance", ["weights", "sampler"])
def test_a_balanced_training_gives_the_same_weights_again(balance: str) -> None:
    first, second = make(1, selects=False, balance=balance), make(1, selects=False, balance=balance)
    plain = make(1, selects=False)
    for training in (first, second, plain):
        training.run(lambda progress, steps: None, lambda: False)
    assert torch.equal(first.model.state_dict()["conv1.weight"], second.model.state_dict()["conv1.weight"])
    assert not torch.equal(first.model.state_dict()["conv1.weight"], plain.model.state_dict()["conv1.weight"])


def test_patience_is_a_tenth_of_the_epochs() -> None:
    assert [patience(epochs) for epochs in (20, 300)] == [10, 30]
