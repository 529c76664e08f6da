"""What a generated data set shall be like: validated options with the defaults of OmniPrint and Meta-Album."""

import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rrrnet.errors import UsageError
from rrrnet.glyph_alphabets import LETTERS, pick_letters

BACKGROUNDS = ("plain", "gradient", "noise", "shapes")
# Allowed values, both ends included.
_RANGES: dict[str, tuple[float, float]] = {
    "classes": (2, LETTERS),
    "per_class": (2, 100_000),
    "size": (32, 1024),
    "seed": (0, 2**63 - 1),
    "rotation": (0, 180),
    "shear": (0, 1),
    "stretch": (0, 1),
    "perspective": (0, 0.2),
    "elastic": (0, 0.1),
    "translation": (0, 1),
    "noise": (0, 0.5),
    "blur": (0, 5),
    "contrast": (1, 4.5),
}


@dataclass(frozen=True)
class GlyphOptions:
    """How many images of what, and the strength of each distortion (its values are drawn uniformly).

    Attributes:
        classes: number of letters.
        per_class: images of each letter.
        size: height and width in pixels.
        seed: images of equal seed and options are equal, byte for byte.
        scripts: which alphabets the letters come from, in turn.
        rotation: up to so many degrees to either side.
        shear: horizontal shear factor, up to this to either side.
        stretch: natural logarithm of width over height, up to this to either side.
        perspective: how far each corner of the letter's box moves, in parts of its side.
        elastic: how far each anchor point of the outline moves, in parts of the letter's longer side.
        translation: 1 puts the letter anywhere in the image, 0 in the middle.
        noise: largest standard deviation of a noise background, in parts of full brightness.
        blur: largest standard deviation of the Gaussian blur, in pixels of a 128-pixel image.
        contrast: least luminance contrast (WCAG 2, from 1 to 21) of the letter with every background colour.
        backgrounds: kinds of background to choose from.
    """

    classes: int = 20
    per_class: int = 40
    size: int = 128
    seed: int = 0
    scripts: tuple[str, ...] = ("latin",)
    rotation: float = 30.0
    shear: float = 0.3
    stretch: float = 0.15
    perspective: float = 0.08
    elastic: float = 0.015
    translation: float = 1.0
    noise: float = 0.1
    blur: float = 1.0
    contrast: float = 1.5
    backgrounds: tuple[str, ...] = BACKGROUNDS

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also true for NaN
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} is {value}: allowed are {low} to {high}")
        unknown = [kind for kind in self.backgrounds if kind not in BACKGROUNDS]
        if unknown or not self.backgrounds:
            found = ", ".join(unknown) or "empty"
            raise UsageError(f"--background is {found}: allowed are {', '.join(BACKGROUNDS)}")
        self.letters()

    def letters(self) -> list[tuple[str, str]]:
        """(letter, script) of each class, in the order of the classes."""
        return pick_letters(self.scripts, self.classes)

    def command(self, out: Path) -> str:
        """The command line that makes this data set again."""
        words = ["rrr", "data", "glyphs", str(out)]
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            flag = "--" + field.name.removesuffix("s" if isinstance(value, tuple) else "").replace("_", "-")
            for item in value if isinstance(value, tuple) else (value,):
                words += [flag, str(item)]
        return shlex.join(words)

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict of all options."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
