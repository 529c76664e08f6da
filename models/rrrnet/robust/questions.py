"""What `rrr robust` is asked; known without torch."""

from dataclasses import dataclass

from rrrnet.errors import UsageError

SECTIONS = ("factors", "corruptions", "attack", "sensitivity")
DEFAULT_IMAGES = 256
# Of the attacks' largest changes, in steps of a pixel's 255.
DEFAULT_EPS = (1.0, 2.0, 4.0, 8.0)
DEFAULT_STEPS = 10


@dataclass(frozen=True)
class Questions:
    """What to measure.

    Attributes:
        only: the sections, of `SECTIONS`.
        images: the most test images that are corrupted and attacked, spread evenly; factors look at all.
        eps: radii of the attacks, ascending, in steps of a pixel's 255.
        steps: of an attack.
        seed: of noise and random starts.
        device: where torch computes.
    """

    only: tuple[str, ...] = SECTIONS
    images: int = DEFAULT_IMAGES
    eps: tuple[float, ...] = DEFAULT_EPS
    steps: int = DEFAULT_STEPS
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.only or not set(self.only) <= set(SECTIONS):
            raise UsageError(f"--only {','.join(self.only)}: allowed are {', '.join(SECTIONS)}, with commas between")
        if self.images < 1 or self.steps < 1:
            raise UsageError(f"--images is {self.images} and --steps {self.steps}: at least 1 of each is needed")
        if not self.eps or not all(0 < eps <= 255 for eps in self.eps) or list(self.eps) != sorted(set(self.eps)):
            told = ",".join(f"{eps:g}" for eps in self.eps)
            raise UsageError(f"--eps is {told!r}: give ascending numbers above 0 and up to 255, e.g. --eps 1,2,4,8")


def eps_of(text: str) -> tuple[float, ...]:
    """Read "1,2,4,8".

    Raises:
        UsageError: something in it is no number.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"--eps is {text!r}: give numbers with commas between, e.g. --eps 1,2,4,8") from error
