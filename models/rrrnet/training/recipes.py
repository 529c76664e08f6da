"""Training recipes as tables of numbers: `paper` (arXiv 2310.01157 and its authors' code) and `quick` (ours)."""

import math
from dataclasses import dataclass
from typing import Literal

from rrrnet.errors import UsageError

Method = Literal["head", "full", "reduced", "ensemble"]
Augmentations = Literal["paper", "quick", "scratch", "none"]
AUGMENTATIONS: tuple[Augmentations, ...] = ("paper", "quick", "scratch", "none")
METHODS: tuple[Method, ...] = ("head", "full", "reduced", "ensemble")  # the paper's [A], [B], [C], [D]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: "paper" or "quick".
        epochs: passes over the training images; None: as many as `megapixels` pays for.
        megapixels: how much `epochs=None` computes on, so that `quick` takes minutes at any image size.
        batch_size: images in a step.
        lr: peak learning rate of AdamW.
        weight_decay: AdamW's, decoupled.
        schedule: "constant", or "one-cycle" (linear warm-up over the first tenth, then cosine to zero).
        label_smoothing: share of the target spread over all classes.
        ema_share: last share of the training whose weights are averaged exponentially; the average is the result.
        ema_every: "epoch" or "step".
        own_batches: each member draws its own order and augmentation (the paper), or all see the same batch.
        bn_passes: passes over the training images that re-estimate the frozen part's BN statistics.
        augmentation: name of a pipeline in `augment`.
        small_share: first share of the epochs that is trained at `small_scale` times the size; 0: none.
        small_scale: of that share.
    """

    name: str
    epochs: int | None
    megapixels: float
    batch_size: int
    lr: float
    weight_decay: float
    schedule: Literal["constant", "one-cycle"]
    label_smoothing: float
    ema_share: float
    ema_every: Literal["epoch", "step"]
    own_batches: bool
    bn_passes: int
    augmentation: Augmentations
    small_share: float = 0.0
    small_scale: float = 0.75

    def epochs_for(self, images: int, image_size: int) -> int:
        """Epochs for a training set of this many images of `image_size` x `image_size` pixels."""
        if self.epochs is not None:
            return self.epochs
        images_seen = min(_MOST_IMAGES_SEEN, self.megapixels * 1e6 / image_size**2)
        return max(3, round(images_seen / max(1, images)))

    @property
    def cost(self) -> float:
        """Of the training, relative to one whose every epoch has the full image size."""
        return 1 - self.small_share * (1 - self.small_scale**2)

    def ema_epochs(self, epochs: int) -> int:
        """How many of the last epochs are averaged (60 of the paper's 300)."""
        return math.ceil(self.ema_share * epochs)


ADAPT_EPOCHS, ADAPT_LR = 10, 1e-3  # what rrr adapt takes for each size unless it is told otherwise
_OFTEN = 20  # epochs
_MOST_IMAGES_SEEN = 16_000  # small images are not a reason to train for ever

RECIPES = {
    "paper": Recipe(
        name="paper",
        epochs=300,
        megapixels=0,
        batch_size=32,
        lr=1e-3,
        weight_decay=0.01,
        schedule="constant",
        label_smoothing=0.0,
        ema_share=0.2,
        ema_every="epoch",
        own_batches=True,
        bn_passes=10,
        augmentation="paper",
    ),
    "quick": Recipe(
        name="quick",
        epochs=None,
        megapixels=130,
        batch_size=32,
        lr=1.5e-3,
        weight_decay=0.05,
        schedule="one-cycle",
        label_smoothing=0.05,
        ema_share=0.2,
        ema_every="step",
        own_batches=False,
        bn_passes=2,
        augmentation="quick",
    ),
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UsageError: no such recipe; lists them.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: no such recipe; allowed are {', '.join(RECIPES)}")
    return RECIPES[name]


def augmentation_of(recipe: Recipe, epochs: int, *, scratch: bool) -> Augmentations:
    """The recipe's; `scratch` for `quick` from scratch where images are seen so often as to be learned by heart."""
    return "scratch" if scratch and recipe.augmentation == "quick" and epochs >= _OFTEN else recipe.augmentation


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate of optimisation step `step` of `steps`."""
    if recipe.schedule == "constant":
        return recipe.lr
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return recipe.lr * (step + 1) / warm_up
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
