"""When a training looks at its validation images, and whether they may decide anything."""

import math

from rrrnet.training.recipes import Recipe

# The best of many epochs on fewer images is mostly luck: at 200 a true 0.8 is seen as 0.74 to 0.86.
LEAST_IMAGES = 200
_MOST_OF_TIME = 0.1
_COST_OF_A_STEP = 3  # forward and backward against forward alone


def epochs_between(training_images: int, validation_images: int) -> int:
    """Epochs from one validation to the next: 1, or so many that validating takes a tenth of the time at most."""
    share = validation_images / (_COST_OF_A_STEP * max(1, training_images))
    return max(1, math.ceil(share / _MOST_OF_TIME))


def decides(recipe: Recipe, validation_images: int, *, wanted: bool) -> bool:
    """Whether validation may end a training and choose its epoch.

    Under a falling learning rate the early epochs say nothing about the last ones, and stopping before the rate has
    fallen throws away what the schedule is for.
    """
    return wanted and recipe.schedule == "constant" and validation_images >= LEAST_IMAGES


def patience(epochs: int) -> int:
    """Epochs without a better validation accuracy after which a training ends."""
    return max(10, epochs // 10)
