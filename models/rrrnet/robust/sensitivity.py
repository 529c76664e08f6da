"""Which module of the network the answer hangs on: the rise of the loss under a worst-case change of its weights.

"MRS-style": after Module Robustness Sensitivity (arXiv 2410.15176), whose formula we did not have; computed as Module
Robust Criticality (RiFT, arXiv 2308.02533, section 3): the rise of the adversarial loss when the weights of one module
move within a ball that is `RADIUS` of their norm, the adversarial images standing still. A few steps of ascent seek
the worst place, so what is found is a lower bound.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rrrnet.network.ensemble import RRRNet
from rrrnet.robust.attack import mean_nll

RADIUS = 0.1
ASCENT_STEPS = 5
_STEP_SHARE = 0.5  # of the ball's radius


class Module(NamedTuple):
    """A part of the network: its stage, the member that it is of (None: the stem's), and itself."""

    stage: str
    member: int | None
    module: nn.Module


def modules_of(model: RRRNet) -> list[Module]:
    """The stem's conv1, layer1 and layer2, then layer3, layer4 and fc of each member."""
    stem = [Module(name, None, model.get_submodule(name)) for name in ("conv1", "layer1", "layer2")]
    tails = enumerate(model.tails())
    return stem + [
        Module(name, index, tail.get_submodule(name)) for index, tail in tails for name in ("layer3", "layer4", "fc")
    ]


def rise(model: RRRNet, module: nn.Module, attacked: Tensor, clean: Tensor, labels: Tensor) -> tuple[float, float]:
    """How much the mean loss rises, on attacked images and on clean ones, at the worst weights found for the first.

    Args:
        model: in eval mode, its parameters without gradients; as it was afterwards.
        module: one of its parts; convolutions and the classifier move, batch normalisation does not.
        attacked: normalised images (N, 3, S, S).
        clean: the same, as they were.
        labels: shape (N,).
    """

    def losses() -> list[float]:
        with torch.no_grad():
            return [float(mean_nll(model(images), labels).mean()) for images in (attacked, clean)]

    with _moving(module) as (weights, originals):
        found = before = losses()
        for _ in range(ASCENT_STEPS):
            gradients = torch.autograd.grad(mean_nll(model(attacked), labels).mean(), weights)
            with torch.no_grad():
                for weight, original, gradient in zip(weights, originals, gradients, strict=True):
                    radius = RADIUS * original.norm()
                    moved = weight - original + _STEP_SHARE * radius * gradient / gradient.norm().clamp_min(1e-12)
                    weight.copy_(original + moved * (radius / moved.norm().clamp_min(1e-12)).clamp(max=1))
            found = max(found, losses())  # the worst on the way: a step may overshoot
    return found[0] - before[0], found[1] - before[1]


@contextmanager
def _moving(module: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The module's weights with gradients, and copies of them; put back at the end."""
    parts = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    weights: list[Tensor] = [part.weight for part in parts]
    originals = [weight.detach().clone() for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield weights, originals
    finally:
        for weight, original in zip(weights, originals, strict=True):
            weight.requires_grad_(False)
            weight.copy_(original)
