"""What a generated data set shall be like: its letters, and validated options with the defaults of OmniPrint.

Left out of the scripts are letters that look like another once size and a small rotation are ignored, within a script
and across all of them (I and l, C and c, the Greek, Cyrillic and Latin A, X and a plus sign, ...). The first letters
of a script are those that are least alike. Every letter is in at least 4 of the fonts.
"""

import shlex
from dataclasses import dataclass, field, fields
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from rrrnet.errors import UsageError

ALL = "all"
BACKGROUNDS = ("plain", "gradient", "noise", "shapes")
SCRIPTS = {
    "latin": "IUm3LXq7WrdYJZPCMANVKbt2SQeyREDfn9a46THG5gBþøßæ",
    "greek": "ωζΞπλγΓΨτβΩεμςΦαΣηΘσ",
    "cyrillic": "ҐЭЊЪЦѪЛЙЩЫЂЧЮЬЖЋЉДЯШ",
    "armenian": "ՀՂԻՃԸՄԽՆՊԿՔՎՌՖԵԺԶՇԲԹԷԾԳՐՒՁ",
    "georgian": "ოქცრლჯწდბუაკჭჩფსეტგშ",
    "asomtavruli": "ႨႺჁႰჃႪႿჄႩჂႲႮႭႽႠჅႵႣႢႧႬႡႸႯႼႤႥႫႦ",
    "hebrew": "טלקבץאשדערהגצפךמכ",
    "arabic": "بذجترهكطسغفمشيونقثلدعزخ",
    "lao": "ງພຖຈສກມຝຂລຊຕຣຜທນຍ",
    "syllabics": (
        "ᙱᒸᓩᒴᔥᔗᓹᓮᓨᑝᒹᓑᓷᐳᐓᕎᒳᕾᒔᐍᖕᙰᔽᔱᓵᓠᐚᔘᔧᖥᔜᓺᑚᖢᑟᔙᐣᔠᐑᖤᔵᔪᑉᖣᓅᔾᔃᓔᐐᐊᐆᔸᕒᒜᓶᖓᔳᔴᑢᖊᓥᐌᕿᑹᑠᖅᔰᓤᐫᔒᔺᑤ"
        "ᐔᕐᕨᔦᓭᔶᑑᑸᐞᐋᔟᕅᐪᖑᓸᒘᑩᔼᓯᑼᙳᖏᐙᖎᑦᔂᕉᔐᐥᓻᔫᔮᐒᒝᖖᔯᔭᑙᐘᕍᒕᖂᐡᒁᓡᕻᔨᐢᑻᒒᒀᕵᑵᔹᔷᕌᒰᑡᓈᐎᖃᖌᐕᖦᑘᐏᔻᓐᒱᒢᐗᙯᔚ"
    ),
    "symbols": (
        "♩✁☄⚚✩☇⚪♨☟⚸♫♡☍☾♮☽⚥⚔⚳✍☉♉⚐☈☡☞♑☝☜☩♬♄♂☢☕♌%☖☰♔✉♪✂&♘☆✆♐♒⚶⚖⚗⚆☀@♤✧♈♊♃☛⚞✌⚟♾✲♎☿⚡♓♳♙☒⚒⚘♇♢$☹⚓☊✎☘✇☚♿⚤☠♍⛁✈"
    ),
}
LETTERS = sum(map(len, SCRIPTS.values()))
Number = TypeVar("Number", int, float)


def _within(default: Number, low: float, high: float) -> Number:
    """A field with allowed values, both ends included."""
    return field(default=default, metadata={"limits": (low, high)})


@dataclass(frozen=True)
class GlyphOptions:
    """How many images of what, and the strength of each distortion (its values are drawn uniformly)."""

    classes: int = _within(20, 2, LETTERS)  # number of letters
    per_class: int = _within(40, 2, 100_000)  # images of each letter
    size: int = _within(128, 32, 1024)  # height and width in pixels
    seed: int = _within(0, 0, 2**63 - 1)  # images of equal seed, options and packages are equal, byte for byte
    scripts: tuple[str, ...] = ("latin",)  # which alphabets the letters come from, in turn
    rotation: float = _within(30.0, 0, 180)  # up to so many degrees to either side
    shear: float = _within(0.3, 0, 1)  # horizontal shear factor, up to this to either side
    stretch: float = _within(0.15, 0, 1)  # natural logarithm of width over height, up to this to either side
    perspective: float = _within(0.08, 0, 0.2)  # how far each corner of the letter's box moves, in parts of its side
    elastic: float = _within(0.015, 0, 0.1)  # how far each node of a grid over the letter moves, in parts of its side
    translation: float = _within(1.0, 0, 1)  # 1 puts the letter anywhere in the image, 0 in the middle
    noise: float = _within(0.1, 0, 0.5)  # largest standard deviation of a noise background, in parts of full brightness
    blur: float = _within(1.0, 0, 5)  # largest standard deviation of the Gaussian blur, in pixels of a 128-pixel image
    contrast: float = _within(1.5, 1, 4.5)  # least luminance contrast (WCAG 2, 1 to 21) with every background colour
    backgrounds: tuple[str, ...] = BACKGROUNDS  # kinds of background to choose from

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, (low, high) = getattr(self, entry.name), entry.metadata.get("limits", (None, None))
            if low is not None and not low <= value <= high:  # also true for NaN
                raise UsageError(f"--{entry.name.replace('_', '-')} is {value}: allowed are {low} to {high}")
        _require("background", self.backgrounds, BACKGROUNDS, ", ".join(BACKGROUNDS))
        _require("script", self.scripts, (*SCRIPTS, ALL), f"{', '.join(SCRIPTS)}, or {ALL} for every one of them")
        chosen = self._alphabets()
        available = sum(len(SCRIPTS[script]) for script in chosen)
        if self.classes > available:
            raise UsageError(
                f"--classes is {self.classes}, but --script {' '.join(chosen)} offers {available} distinct letters: "
                f"ask for fewer, add scripts, or use --script {ALL} for up to {LETTERS}"
            )

    def letters(self) -> list[tuple[str, str]]:
        """(letter, script) of each class: in turn from each script, so that all are equally present."""
        ranked = [(rank, letter, script) for script in self._alphabets() for rank, letter in enumerate(SCRIPTS[script])]
        return [(letter, script) for _, letter, script in sorted(ranked, key=itemgetter(0))[: self.classes]]

    def _alphabets(self) -> tuple[str, ...]:
        return tuple(SCRIPTS) if ALL in self.scripts else tuple(dict.fromkeys(self.scripts))

    def command(self, out: Path) -> str:
        """The command line that makes this data set again."""
        words = ["rrr", "data", "glyphs", str(out)]
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value == entry.default:
                continue
            flag = "--" + entry.name.removesuffix("s" if isinstance(value, tuple) else "").replace("_", "-")
            for item in value if isinstance(value, tuple) else (value,):
                words += [flag, str(item)]
        return shlex.join(words)


def _require(flag: str, chosen: tuple[str, ...], known: tuple[str, ...], allowed: str) -> None:
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise UsageError(f"--{flag} is {', '.join(unknown) or 'empty'}: allowed are {allowed}")
