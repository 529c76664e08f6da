"""How large and how long a training is: chosen by images or minutes, before the first step, and told so."""

import shlex

import numpy as np
import pytest
import torch

from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture
from rrrnet.training.budget import (
    Choice,
    Counts,
    about,
    better,
    choose,
    fit_into,
    repeating,
    step_seconds,
    training_seconds,
)
from rrrnet.training.recipes import RECIPES, Recipe, augmentation_of
from rrrnet.training.train import TrainingPlan

QUICK, PAPER = RECIPES["quick"], RECIPES["paper"]
SMALL = Counts(train=360, val=40, test=400)


def test_a_small_set_from_scratch_gets_small_images_and_many_epochs() -> None:
    chosen = choose(QUICK, 400, scratch=True, size=None, epochs=None)
    assert (chosen.size, chosen.epochs) == (64, 40)
    assert "400 images to train on" in chosen.why
    assert choose(QUICK, 86, scratch=True, size=None, epochs=None).epochs == 150


@pytest.mark.parametrize(
    ("recipe", "scratch", "size", "epochs", "expected"),
    [
        (QUICK, False, None, None, (128, 20)),  # pre-trained
        (QUICK, True, 128, None, (128, 20)),
        (QUICK, True, None, 5, (64, 5)),
        (QUICK, True, None, 0, (128, 0)),  # nothing is trained
        (PAPER, True, None, None, (128, 300)),
        (PAPER, True, 64, 7, (64, 7)),
    ],
)
def test_what_is_given_stays(
    recipe: Recipe, scratch: bool, size: int | None, epochs: int | None, expected: tuple[int, int]
) -> None:
    chosen = choose(recipe, 400, scratch=scratch, size=size, epochs=epochs)
    assert (chosen.size, chosen.epochs) == expected


@pytest.mark.parametrize(
    ("recipe", "epochs", "scratch", "expected"),
    [(QUICK, 45, True, "scratch"), (QUICK, 12, True, "quick"), (QUICK, 45, False, "quick"), (PAPER, 45, True, "paper")],
)
def test_images_that_are_seen_often_from_scratch_are_changed_more(
    recipe: Recipe, epochs: int, scratch: bool, expected: str
) -> None:
    assert augmentation_of(recipe, epochs, scratch=scratch) == expected


def test_minutes_become_epochs_by_the_measured_step() -> None:
    asked: list[int] = []

    def step(size: int) -> float:
        asked.append(size)
        return 0.5 * (size / 64) ** 2

    chosen = fit_into(400, QUICK, SMALL, (64, 96, 128), step)
    assert (chosen.size, asked) == (64, [64])
    assert training_seconds(chosen.epochs, 0.5, QUICK, SMALL) <= 400
    assert training_seconds(chosen.epochs + 1, 0.5, QUICK, SMALL) > 400
    assert "a step of 32 images takes 0.50 s here" in chosen.why
    asked.clear()
    assert fit_into(10_000, QUICK, SMALL, (64, 96, 128), step).size == 128
    assert asked == [64, 96, 128]


def test_a_time_too_short_for_one_epoch_says_so_and_trains_one() -> None:
    chosen = fit_into(5, QUICK, SMALL, (64,), lambda _: 1.0)
    assert chosen.epochs == 1
    assert "one epoch takes 0.2 minutes, which is more than there are" in chosen.why


@pytest.mark.parametrize(("step", "epochs"), [(1.5, None), (1.1, None), (0.5, 60)])
def test_steps_that_become_much_faster_than_they_were_timed_are_a_reason_to_start_again(
    step: float, epochs: int | None
) -> None:
    timed_beside_other_work = fit_into(400, QUICK, SMALL, (64,), lambda _: 1.5)
    found = better(timed_beside_other_work, step, 380, QUICK, SMALL)
    assert (found and (found.size, found.epochs)) == (epochs and (64, epochs))


def test_timing_steps_leaves_the_generator_alone() -> None:
    plan = TrainingPlan(QUICK, 3, 0, (), Preprocess(32), "cpu", False)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    assert step_seconds(Architecture(3, REDUCED_BLOCKS, 2, (8, 8)), plan, 32, 1) > 0
    np.testing.assert_array_equal(torch.rand(3), wanted)


def test_the_repeating_command_has_what_was_chosen_and_not_what_it_was_chosen_by() -> None:
    given = "rrr train --data 'my photos' --out net --minutes=7 --size 96 --overwrite"
    words = shlex.split(repeating(given, Choice(64, 60), "none"))
    assert words == [
        *("rrr", "train", "--data", "my photos", "--out", "net"),
        *("--size", "64", "--epochs", "60", "--weights", "none"),
    ]


def test_times_are_told_in_minutes() -> None:
    assert [about(seconds) for seconds in (12, 130, 1260)] == [
        *("about 0.2 minutes", "about 2.2 minutes", "about 21 minutes"),
    ]
