"""Classes of unequal size: the warning before a training, and the two ways to make up for it.

From `weights` each image's loss counts as its class is rare; with `sampler` every class is drawn equally often.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

BALANCES = ("none", "weights", "sampler")
_TOLD_FROM = 5  # times as many images in the largest class as in the smallest
# A class of 2 images among 300 would weigh 75 times as much as the other: two images' noise in every step.
_LARGEST_WEIGHT = 20.0


def warning(classes: Sequence[str], labels: Sequence[int], trained: Sequence[int], balance: str) -> str | None:
    """What to say before training about classes of unequal size; None if there is nothing to say.

    Args:
        classes: names.
        labels: class index of every image of the data set.
        trained: class index of every image that is trained on.
        balance: one of `BALANCES`.
    """
    counts, training = Counter(labels), Counter(trained)
    order = sorted(range(len(classes)), key=lambda index: (-counts[index], index))
    most, least = order[0], order[-1]
    if counts[most] < _TOLD_FROM * counts[least]:
        return None
    says = (
        f"classes of unequal size: {classes[most]} {counts[most]} : {classes[least]} {counts[least]} images, "
        f"{training[most]} : {training[least]} of them to train on"
    )
    if balance != "none":
        return f"{says}; --balance {balance} makes up for it"
    return f"{says}; the rare class may never be answered: --balance weights or --balance sampler helps"


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weight of each class's images in the loss: inversely as their number, 1 on average over the images, at most 20.

    Shape: (N,) class indices to (C,) float32.
    """
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1).float()
    return (len(labels) / (num_classes * counts)).clamp(max=_LARGEST_WEIGHT)


def balanced_order(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Indices of N images for one epoch, drawn so that every class comes equally often; rare images come repeatedly.

    Shape: (N,) class indices to (N,) indices.
    """
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1).double()
    return torch.multinomial((1 / counts)[labels], len(labels), replacement=True, generator=generator)
