"""Random changes of training images, by kornia, drawn for each image on its own.

`paper`: the list of the authors' code, applied twice, each time one of twelve changes for each image.
`quick`: one affine warp for every image and the negative of half of them; cheap enough for a CPU.
`scratch`: the same, then other colours for half of the images and a rectangle erased from half; for networks that start
from random weights, which otherwise learn a few hundred images by heart (docs/training.md has what it gains).
`none`: images as they are.
"""

import os
from collections.abc import Callable, Sequence

os.environ.setdefault("KORNIA_CHECK_LOG_LEVEL", "ERROR")

import torch
from kornia import augmentation as kornia
from torch import Tensor, nn

from rrrnet.training.recipes import Augmentations

Augmentation = Callable[[Tensor], Tensor]


def make_augmentation(name: Augmentations) -> Augmentation:
    """The named pipeline. Shape: (N, 3, H, W) float in [0, 1] -> the same."""
    if name == "none":
        return nn.Identity()
    if name == "quick":
        return nn.Sequential(*_quick_changes())
    if name == "scratch":
        colours = kornia.ColorJiggle(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.5, p=0.5)
        return nn.Sequential(*_quick_changes(), colours, kornia.RandomErasing(scale=(0.02, 0.2), p=0.5))
    changes = _paper_changes()
    return lambda images: one_of(changes, one_of(changes, images))


def one_of(changes: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Apply to each image one of `changes`, drawn at random from torch's generator."""
    choice = torch.randint(len(changes), (len(images),))
    result = images.clone()
    for index, change in enumerate(changes):
        chosen = choice == index
        if bool(chosen.any()):
            result[chosen] = change(images[chosen]).to(images.dtype)
    return result.clamp_(0, 1)


def _quick_changes() -> list[nn.Module]:
    """An affine warp of every image, and the negative of every other one."""
    warp = kornia.RandomAffine(
        degrees=15, translate=(0.1, 0.1), scale=(0.85, 1.15), shear=(-12, 12), padding_mode="border", p=1.0
    )
    return [warp, kornia.RandomInvert(p=0.5)]


def _paper_changes() -> list[nn.Module]:
    """The authors' twelve, with their strengths where the two libraries mean the same by them."""
    return [
        kornia.RandomAffine(degrees=0, shear=(-10, 10, -10, 10), p=1.0),
        kornia.RandomAffine(degrees=30, translate=(0.1, 0.1), scale=(0.99, 1.01), p=1.0),
        kornia.RandomRGBShift(15 / 255, 15 / 255, 15 / 255, p=1.0),
        kornia.ColorJiggle(brightness=0.2, contrast=0.2, p=1.0),
        kornia.RandomPosterize(4, p=1.0),
        kornia.RandomMotionBlur((3, 7), 180.0, 0.0, p=1.0),
        kornia.RandomJPEG((60.0, 100.0), p=1.0),
        kornia.RandomGaussianNoise(0.0, 0.03, p=1.0),
        kornia.RandomEqualize(p=1.0),
        kornia.RandomSolarize(0.1, 0.0, p=1.0),
        kornia.RandomSharpness(0.5, p=1.0),
        kornia.RandomInvert(p=1.0),
    ]
