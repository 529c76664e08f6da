"""Classes of unequal size: what is said, and what weights and sampler make of it."""

import torch

from rrrnet.training.balance import balanced_order, class_weights, warning

LABELS = torch.tensor([0] * 300 + [1] * 4)


def test_unequal_classes_are_told_with_figures() -> None:
    said = warning(("ok", "defect"), LABELS.tolist(), [0] * 135 + [1], "none")
    assert said is not None
    assert "ok 300 : defect 4 images, 135 : 1 of them to train on" in said
    assert "--balance weights" in said
    assert warning(("a", "b"), [0, 0, 0, 0, 1], [0, 1], "none") is None


def test_weights_are_inverse_to_the_frequency_one_on_average_and_bounded() -> None:
    even = class_weights(torch.tensor([0, 0, 0, 1]), 2)
    torch.testing.assert_close(even, torch.tensor([4 / 6, 2.0]))
    assert float(even[torch.tensor([0, 0, 0, 1])].mean()) == 1
    assert class_weights(LABELS, 2).tolist()[1] == 20
    assert torch.isfinite(class_weights(LABELS, 3)).all()  # a class without training images


def test_the_sampler_draws_classes_equally_and_the_same_again() -> None:
    first = balanced_order(LABELS, 2, torch.Generator().manual_seed(1))
    assert len(first) == len(LABELS)
    assert 0.4 < float((LABELS[first] == 1).float().mean()) < 0.6
    assert torch.equal(first, balanced_order(LABELS, 2, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, balanced_order(LABELS, 2, torch.Generator().manual_seed(2)))
