"""A first layer that sees edges from the start, for training from scratch on few images.

Without pre-trained weights a few hundred images must teach conv1 that a letter is its outline, whatever its colours.
We give it what such layers learn anyway: oriented odd and even derivatives of a Gaussian on a luminance and two
colour-opponent axes, each with its negative, so that after ReLU both signs of contrast are there. All else stays
random, and conv1 goes on learning. docs/internals/training.md tells why.
"""

import math

import torch
from torch import Tensor

from rrrnet.network.ensemble import RRRNet

# Colour axes (RGB) and the number of orientations on each: 2 phases x 2 signs x (8 + 4 + 4) = 64 filters.
_AXES = (((1.0, 1.0, 1.0), 8), ((1.0, -1.0, 0.0), 4), ((0.5, 0.5, -1.0), 4))
_SIGMA_PIXELS = 1.4


def edge_filters(size: int = 7) -> Tensor:
    """64 filters of unit norm and zero mean. Shape: (64, 3, size, size)."""
    offsets = torch.arange(size, dtype=torch.float32) - size // 2
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    filters: list[Tensor] = []
    for color, orientations in _AXES:
        axis = torch.tensor(color) / torch.tensor(color).norm()
        for index in range(orientations):
            angle = math.pi * index / orientations
            across = x * math.cos(angle) + y * math.sin(angle)
            along = y * math.cos(angle) - x * math.sin(angle)
            envelope = torch.exp(-(across**2 + along**2 / 2) / (2 * _SIGMA_PIXELS**2))
            for profile in (across * envelope, (1 - (across / _SIGMA_PIXELS) ** 2) * envelope):
                centred = profile - profile.mean()
                kernel = axis[:, None, None] * centred / centred.norm()
                filters += [kernel, -kernel]
    return torch.stack(filters)


def start_from_edges(model: RRRNet) -> None:
    """Replace conv1's random filters by `edge_filters`, at the random filters' mean norm."""
    weight = model.get_parameter("conv1.weight")
    with torch.no_grad():
        weight.copy_(edge_filters() * weight.flatten(1).norm(dim=1).mean())
