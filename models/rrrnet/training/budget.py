"""Image size and epochs of a training, chosen before its first step; pure but for `step_seconds`, which times steps.

Without `--minutes` the choice follows from the number of images alone, so the same command trains the same network on
every machine. With it, steps are timed here first.
"""

import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import Architecture
from rrrnet.network.ensemble import RRRNet
from rrrnet.training import validation
from rrrnet.training.recipes import Recipe
from rrrnet.training.train import Training, TrainingPlan

DEFAULT_SIZE = 128
# From scratch, 20 classes of 20 training images, 7 minutes on 2 cores with AVX2: 12.5 to 18.5 % of Thai letters with 20
# epochs of 128 pixels, 58 % with 60 epochs of 64.
SCRATCH_SIZES = (64, 96, 128)
MOST_EPOCHS = 150
# A larger size is worth its time once it gets twice the images that 7 minutes give 64 pixels.
_IMAGES_AT_A_LARGER_SIZE = 48_000
_TIMED_STEPS, _TIMED_SECONDS = 5, 4.0
_FORWARD = 3  # a step takes as long as so many forward passes
_RESERVE = 0.05  # of the minutes: the start of Python, and what else the machine does
_WORTH_A_NEW_START = 1.5  # times the epochs, for what was trained so far is lost


@dataclass(frozen=True)
class Choice:
    """What a training runs with.

    Attributes:
        size: height and width of the network's input.
        epochs: passes over the training images.
        why: the reason in words; empty if both were given.
        step_seconds: of one step here, if it was measured for the choice.
    """

    size: int
    epochs: int
    why: str = ""
    step_seconds: float | None = None


@dataclass(frozen=True)
class Counts:
    """Images to train on, to validate and to test."""

    train: int
    val: int
    test: int


def choose(recipe: Recipe, images: int, *, scratch: bool, size: int | None, epochs: int | None) -> Choice:
    """Size and epochs without a limit of time.

    Args:
        recipe: gives the epochs, unless they are given.
        images: to train on.
        scratch: the network starts from random weights.
        size: as given, None to choose.
        epochs: likewise.
    """
    small = scratch and recipe.epochs is None and epochs != 0
    found = size or (SCRATCH_SIZES[0] if small else DEFAULT_SIZE)
    passes = min(recipe.epochs_for(images, found), MOST_EPOCHS) if recipe.epochs is None else recipe.epochs
    if epochs is not None:
        passes = epochs
    if (size is not None and epochs is not None) or recipe.epochs is not None or epochs == 0:
        return Choice(found, passes)
    start = "from scratch small images seen often teach more than large ones" if small else "pre-trained weights"
    return Choice(
        found, passes, f"{start}; {images} images to train on; --size, --epochs or --minutes choose otherwise"
    )


def fit_into(
    seconds: float,
    recipe: Recipe,
    counts: Counts,
    sizes: Sequence[int],
    step_seconds: Callable[[int], float],
    *,
    frozen: bool = False,
) -> Choice:
    """The size and the epochs that fit into a time: the largest size that sees enough images, else the smallest.

    Args:
        seconds: that are left for training and scoring.
        recipe: gives the batch size.
        counts: of images.
        sizes: to choose from, ascending.
        step_seconds: of a size; asked for the smallest first, and for a larger one only if there may be time for it.
        frozen: a part of the network is frozen, and its statistics are estimated first.
    """
    enough = min(_IMAGES_AT_A_LARGER_SIZE, MOST_EPOCHS * counts.train)
    best: Choice | None = None
    for size in sizes:
        step = step_seconds(size)
        once = training_seconds(0, step, recipe, counts, frozen=frozen)
        epoch = training_seconds(1, step, recipe, counts, frozen=frozen) - once
        epochs = int((seconds - once) / epoch)
        if best is not None and epochs * counts.train < enough:
            return best
        why = f"a step of {recipe.batch_size} images takes {step:.2f} s here"
        if epochs < 1:
            why += f"; one epoch takes {epoch / 60:.1f} minutes, which is more than there are"
        elif epochs > MOST_EPOCHS:
            why += f"; more than {MOST_EPOCHS} epochs hardly help"
        best = Choice(size, min(max(1, epochs), MOST_EPOCHS), why, step)
        if epochs * counts.train < enough:
            return best
    if best is None:
        raise ValueError("no size to choose from")
    return best


def better(
    choice: Choice, step: float, seconds: float, recipe: Recipe, counts: Counts, *, frozen: bool = False
) -> Choice | None:
    """What to start again with where steps turn out so much faster than they were timed; else None.

    Other work beside the few steps that are timed makes them slow, and a training of a few epochs is worth little.

    Args:
        choice: that is being trained.
        step: seconds of one, as they are now.
        seconds: that are left of the time.
        recipe: gives the batch size.
        counts: of images.
        frozen: as in `fit_into`.
    """
    found = fit_into(seconds, recipe, counts, (choice.size,), lambda _: step, frozen=frozen)
    return found if found.epochs >= _WORTH_A_NEW_START * choice.epochs else None


def training_seconds(epochs: int, step: float, recipe: Recipe, counts: Counts, *, frozen: bool = False) -> float:
    """Estimated seconds of so many epochs, with validation and the final scoring, from those of one step."""
    batch = recipe.batch_size
    steps = -(-counts.train // batch)
    forward = step / _FORWARD
    validating = forward * counts.val / batch / validation.epochs_between(counts.train, counts.val)
    first = forward * steps * recipe.bn_passes if frozen else 0.0
    return first + epochs * (recipe.cost * steps * step + validating) + forward * counts.test / batch


def step_seconds(architecture: Architecture, plan: TrainingPlan, size: int, most_steps: int = _TIMED_STEPS) -> float:
    """Seconds of one optimisation step here: the median of up to `most_steps` on noise, of a network made for it.

    torch's generator is left as it was, so that measuring changes no training.
    """
    batch, rng = plan.recipe.batch_size, np.random.default_rng(0)
    noise = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    labels = np.arange(batch, dtype=np.int64) % architecture.num_classes
    timed: list[float] = []
    with torch.random.fork_rng(devices=[]):
        preprocess: Preprocess = replace(plan.preprocess, size=size)
        training = Training(
            RRRNet(architecture), replace(plan, epochs=100, preprocess=preprocess, selects=False), noise, labels
        )
        began = time.perf_counter()
        training.step()  # the first one allocates
        while len(timed) < min(_TIMED_STEPS, most_steps) and (
            not timed or time.perf_counter() - began < _TIMED_SECONDS
        ):
            start = time.perf_counter()
            training.step()
            timed.append(time.perf_counter() - start)
    return statistics.median(timed)


def seconds_left(minutes: float, passed: float) -> float:
    """Seconds of a budget of minutes that are left for training, after so many have passed."""
    return 60 * minutes * (1 - _RESERVE) - passed


def about(seconds: float) -> str:
    """`about 7 minutes`, `about 0.4 minutes`."""
    minutes = seconds / 60
    return f"about {minutes:.0f} minutes" if minutes >= 9.5 else f"about {minutes:.1f} minutes"


def repeating(command: str, choice: Choice, weights: str, *, with_size: bool = True) -> str:
    """The command line that trains the same network again: with what was chosen, without what it was chosen by.

    Args:
        command: as it was given.
        choice: of size and epochs.
        weights: that it starts from; "none" may have come from an unreachable hub.
        with_size: false for cropped images, where another option gives the size.
    """
    kept: list[str] = []
    words = iter(shlex.split(command))
    for word in words:
        name, given, _ = word.partition("=")
        if name in ("--minutes", "--size", "--epochs"):
            if not given:
                next(words, None)
        elif name not in ("--resume", "--overwrite"):
            kept.append(word)
    names = {word.partition("=")[0] for word in kept}
    kept += ["--size", str(choice.size)] if with_size else []
    kept += ["--epochs", str(choice.epochs)]
    if weights == "none" and "--weights" not in names:
        kept += ["--weights", weights]
    return shlex.join(kept)
