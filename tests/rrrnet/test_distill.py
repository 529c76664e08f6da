"""A teacher's part in the loss, by numbers; and what the teacher sees of a step."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rrrnet.checkpoint import Checkpoint
from rrrnet.data.dataset import ImageSet
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture
from rrrnet.network.ensemble import RRRNet, normalise
from rrrnet.training.budget import step_seconds
from rrrnet.training.distill import Teaching, beside, distance, log_of_mean, picture_rule, resized
from rrrnet.training.recipes import RECIPES
from rrrnet.training.train import Training, TrainingPlan

THIN = Architecture(3, REDUCED_BLOCKS, 2, (8, 8))
SOME = ImageSet("some", Path(), ("1.png",), (0,), ("",), (), "")


class Recorder(RRRNet):
    """A network that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__(THIN)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images)
        assert not torch.is_grad_enabled()
        assert not self.training
        return super().forward(images)


def teaching(size: int = 32, **changes: Any) -> Teaching:
    rule = Preprocess(size, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), bgr=True)
    checkpoint = Checkpoint(Path(), "wise", "full", THIN, ("a", "b", "c"), rule, {}, "tests")
    torch.manual_seed(7)
    return replace(Teaching(checkpoint, "", Recorder().eval(), 2.0, 0.75), **changes)


def shown_to(teacher: Teaching) -> list[Tensor]:
    assert isinstance(teacher.network, Recorder)
    return teacher.network.shown


def logs(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1.0, 0.8 * math.log(1.6) + 0.2 * math.log(0.4)), (2.0, 4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)))],
)
def test_the_distance_is_that_of_softened_probabilities_times_the_temperature_squared(
    temperature: float, expected: float
) -> None:
    sure, undecided = logs(0.8, 0.2), torch.zeros(1, 2)
    assert distance(undecided, sure, temperature).tolist() == pytest.approx([expected])
    assert distance(sure + 5, sure, temperature).tolist() == pytest.approx([0], abs=1e-6)


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    sizes = []
    for temperature in (4.0, 40.0):
        logits = torch.zeros(1, 2, requires_grad=True)
        distance(logits, logs(0.8, 0.2), temperature).sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
        assert logits.grad is not None
        sizes.append(float(logits.grad.abs().max()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_a_teachers_answer_is_the_plain_mean_of_its_members_probabilities() -> None:
    members = torch.stack([logs(0.9, 0.1), logs(0.5, 0.5)], 1)
    torch.testing.assert_close(log_of_mean(members).exp(), torch.tensor([[0.7, 0.3]]))


def test_a_member_has_a_loss_of_its_own_on_labels_and_the_teachers_on_all_images() -> None:
    logits, taught = torch.zeros(2, 2), torch.cat([logs(0.5, 0.5), logs(0.8, 0.2)])
    plain = teaching(temperature=1.0)
    kl = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    loss = plain.loss(torch.tensor(3.0), logits, taught, None, torch.tensor([1]))
    assert float(loss) == pytest.approx(0.25 * 3 + 0.75 * (0 + kl) / 2)


def test_class_weights_count_by_label_and_where_there_is_none_by_what_the_teacher_believes() -> None:
    logits, taught = torch.zeros(2, 2), torch.cat([logs(0.8, 0.2), logs(0.8, 0.2)])
    kl = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    only = teaching(temperature=1.0, weight=1.0)
    loss = only.loss(torch.tensor(3.0), logits, taught, torch.tensor([1.0, 11.0]), torch.tensor([1]))
    assert float(loss) == pytest.approx((11 + (0.8 * 1 + 0.2 * 11)) * kl / 2)


def test_pictures_are_as_large_as_the_larger_input_and_framed_as_the_members_want_them() -> None:
    small, cropped = Preprocess(32), Preprocess(32, mode="crop", resize_size=40)
    assert picture_rule(small, None) == picture_rule(small, teaching(32)) == small
    assert picture_rule(Preprocess(64), teaching(48)) == Preprocess(64)
    assert picture_rule(small, teaching(96)) == Preprocess(96)
    assert picture_rule(cropped, teaching(96)) == Preprocess(96, mode="crop", resize_size=120)


def test_images_without_a_label_come_in_turn() -> None:
    def step(number: int, images: int) -> list[int]:
        return beside(images, number, 4, 4, torch.Generator().manual_seed(1)).tolist()

    assert sorted(step(0, 12) + step(1, 12) + step(2, 12)) == list(range(12))
    assert sorted(step(0, 2)) == [0, 0, 1, 1]  # fewer than a step has


def training(teacher: Teaching, recipe: str = "quick", *, turned: int = 0, balance: str = "none") -> Training:
    """Of 8 images, batches of 4, and 6 images without a label."""
    rng = np.random.default_rng(0)
    side = picture_rule(Preprocess(32), teacher).size
    images, labels = rng.integers(0, 256, (14, side, side, 3), dtype=np.uint8), (np.arange(8) + turned) % 3
    torch.manual_seed(0)
    plan = TrainingPlan(
        replace(RECIPES[recipe], batch_size=4), 1, 0, (), Preprocess(32), "cpu", False, balance, teaching=teacher
    )
    return Training(RRRNet(THIN), plan, images[:8], labels, unlabelled=images[8:])


@pytest.mark.parametrize("size", [32, 48])
def test_teacher_and_members_see_the_same_augmented_picture_each_in_its_own_way(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teaching(size)
    run = training(teacher)
    seen: list[Tensor] = []
    forward = run.model.forward_features

    def keep(images: Tensor) -> Tensor:
        seen.append(images)
        return forward(images)

    monkeypatch.setattr(run.model, "forward_features", keep)
    run.step()
    (shown,) = shown_to(teacher)
    rule = teacher.checkpoint.preprocess
    assert shown.shape == (8, 3, size, size)  # 4 labelled, 4 not
    pictures = shown.flip(1) * torch.tensor(rule.std).view(3, 1, 1) + torch.tensor(rule.mean).view(3, 1, 1)
    members = normalise(resized(pictures, 32).permute(0, 2, 3, 1) * 255, run.plan.preprocess)
    torch.testing.assert_close(seen[0], members, rtol=0, atol=1e-4)


@pytest.mark.parametrize("recipe", ["quick", "paper"])
def test_where_the_teacher_has_all_the_weight_labels_teach_nothing(recipe: str) -> None:
    def trained(weight: float, turned: int) -> Tensor:
        run = training(teaching(weight=weight), recipe, turned=turned)
        run.step()
        assert run.progress.answers == 4 * 2  # of the labelled images, by 2 members
        return next(run.model.tails()[1].get_submodule("fc").parameters()).detach()

    assert torch.equal(trained(1, 0), trained(1, 1))
    assert not torch.equal(trained(0.5, 0), trained(0.5, 1))


@pytest.mark.parametrize("balance", ["weights", "sampler"])
def test_balance_goes_with_a_teacher(balance: str) -> None:
    run = training(teaching(), balance=balance)
    run.step()
    assert 0 < run.progress.loss_sum < 10


def test_timed_steps_include_the_teacher_and_the_images_without_a_label() -> None:
    teacher = teaching(48, unlabelled=SOME)
    plan = TrainingPlan(
        replace(RECIPES["quick"], batch_size=4), 3, 0, (), Preprocess(64), "cpu", False, teaching=teacher
    )
    assert step_seconds(THIN, plan, 32, 1) > 0
    assert [shown.shape for shown in shown_to(teacher)] == [(8, 3, 48, 48)] * 2
