"""A teacher's part in the loss: members learn its probabilities of the very pictures that they see themselves.

Softened probabilities and the factor T^2: Hinton, Vinyals and Dean, arXiv 1503.02531 section 2. The same crop for both:
Beyer and others, "patient and consistent", arXiv 2106.05237 section 3. Images without a label: Yalniz and others,
arXiv 1905.00546 section 3. Letters in shapes: N images, M members, C classes, H and W pixels.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from rrrnet.checkpoint import Checkpoint
from rrrnet.data.dataset import ImageSet
from rrrnet.images.preprocess import MAX_RESIZE, Preprocess
from rrrnet.network.ensemble import RRRNet, normalise


@dataclass(frozen=True)
class Teaching:
    """A teacher, and how it teaches.

    Attributes:
        checkpoint: the teacher's.
        sha256: of its document, which holds the digests of its other files.
        network: in eval mode, where the members are trained.
        temperature: T, that both sides' logits are divided by; above 1 the lesser classes count for more.
        weight: the teacher's share of the loss of a member; the labels have the rest.
        unlabelled: images of which only the teacher says something; each step has as many of them as of the others.
        trained_on_tested: test images of this training that the teacher was trained on; None: nobody knows.
    """

    checkpoint: Checkpoint
    sha256: str
    network: RRRNet
    temperature: float
    weight: float
    unlabelled: ImageSet | None = None
    trained_on_tested: int | None = None

    def log_probabilities(self, pictures: Tensor) -> Tensor:
        """Logarithm of the plain mean of the teacher's members, which see pictures as they were trained to.

        Shape: (N, 3, H, W) RGB in [0, 1] to (N, C); no gradient.
        """
        rule = self.checkpoint.preprocess
        with torch.no_grad():
            inputs = normalise(resized(pictures, rule.size).permute(0, 2, 3, 1) * 255, rule)
            logits = self.network(inputs.contiguous(memory_format=torch.channels_last)).float()
            return log_of_mean(logits)

    def loss(
        self, own: Tensor, logits: Tensor, teacher: Tensor, class_weights: Tensor | None, labels: Tensor
    ) -> Tensor:
        """The loss of one member: its own on the labelled images, and its distance from the teacher on all.

        Args:
            own: cross-entropy on the labelled images, a scalar.
            logits: (N, C) of the member; the labelled images are the first.
            teacher: (N, C), see `log_probabilities`.
            class_weights: (C,) as of `--balance weights`; where no label is known, the teacher's opinion counts.
            labels: (L,) of the labelled images, L <= N.
        """
        distances = distance(logits, teacher, self.temperature)
        if class_weights is not None:
            weights = torch.cat([class_weights[labels], teacher[len(labels) :].exp() @ class_weights])
            distances = distances * weights
        return (1 - self.weight) * own + self.weight * distances.mean()


def log_of_mean(logits: Tensor) -> Tensor:
    """Logarithm of the mean of the members' probabilities. Shape: (N, M, C) to (N, C)."""
    return logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


def distance(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || member), both softened: arXiv 1503.02531 section 2.

    The factor keeps the size of the gradient, whatever T is.

    Args:
        logits: (N, C) of the member.
        teacher: (N, C) logarithms of probabilities, or logits.
        temperature: T > 0.

    Returns:
        (N,), in nats.
    """
    wanted, found = (teacher / temperature).log_softmax(1), (logits / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(found, wanted, reduction="none", log_target=True).sum(1)


def resized(pictures: Tensor, side: int) -> Tensor:
    """Pictures of `side` x `side` pixels. Shape: (N, 3, H, W) to (N, 3, side, side)."""
    if pictures.shape[2:] == (side, side):
        return pictures
    return F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)


def picture_rule(student: Preprocess, teaching: Teaching | None) -> Preprocess:
    """How images are loaded and augmented: framed as the student's, as large as the larger of the two networks' inputs.

    Of a picture as small as the student's a teacher of larger ones would see a blur.
    """
    if teaching is None or teaching.checkpoint.preprocess.size <= student.size:
        return student
    size = teaching.checkpoint.preprocess.size
    if student.resize_size is None:
        return replace(student, size=size)
    size = min(size, MAX_RESIZE * student.size // student.resize_size)
    return replace(student, size=size, resize_size=round(student.resize_size * size / student.size))


def beside(images: int, step: int, batch: int, count: int, generator: torch.Generator) -> Tensor:
    """Which of `images` images without a label go with a step of an epoch: all in turn, in an order of the epoch's own.

    Args:
        images: how many there are.
        step: of the epoch.
        batch: labelled images in a full step.
        count: of this step.
        generator: of the epoch.

    Returns:
        (count,) indices.
    """
    places = (step * batch + torch.arange(count)) % images
    return torch.randperm(images, generator=generator)[places]
