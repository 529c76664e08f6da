"""Projected gradient descent on the ensemble's answer: the known white-box attack.

Madry et al., arXiv 1706.06083, section 2: random start in the l_inf ball, then steps along the sign of the gradient,
each put back into the ball and into [0, 255]. It attacks the mean of the members' probabilities, which is what is
served. Written here: torchattacks 3.5.1 pins `requests` 2.25, and foolbox brings GitPython for the same few lines.
"""

import torch
from torch import Tensor

from rrrnet.images.preprocess import Preprocess
from rrrnet.network.ensemble import RRRNet, normalise
from rrrnet.training.distill import log_of_mean

_STEP_SHARE = 0.25  # of the ball's radius: 2/255 of 8/255, as in that paper


def mean_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of the mean of the members' probabilities, each image's: (N, M, C) and (N,) to (N,)."""
    return -log_of_mean(logits).gather(1, labels[:, None])[:, 0]


def attacked(
    model: RRRNet, preprocess: Preprocess, images: Tensor, labels: Tensor, *, eps: float, seed: int, steps: int
) -> Tensor:
    """Images that differ by at most `eps` from those given, and that the network takes for something else if it can.

    Args:
        model: in eval mode, its parameters without gradients.
        preprocess: how its images are normalised.
        images: shape (N, S, S, 3), uint8 RGB.
        labels: shape (N,), the right classes.
        eps: radius of the ball, of pixels in [0, 255].
        seed: of the random start.
        steps: gradient steps.

    Returns:
        Shape (N, S, S, 3), float32 in [0, 255]; not rounded, as in the paper.
    """
    clean = images.float()
    random = torch.Generator().manual_seed(seed)
    start = (torch.rand(clean.shape, generator=random) * 2 - 1).to(clean.device) * eps
    found = (clean + start).clamp(0, 255)
    for _ in range(steps):
        found.requires_grad_(True)
        (gradient,) = torch.autograd.grad(mean_nll(model(normalise(found, preprocess)), labels).sum(), found)
        moved = found.detach() + _STEP_SHARE * eps * gradient.sign()
        found = moved.clamp(clean - eps, clean + eps).clamp(0, 255)
    return found.detach()
