"""Accuracy by what labels.csv says of each image beside its class: OmniPrint's font, rotation, shear and the like."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrnet.proportions import proportion

LEAST_IMAGES = 10  # of a value that has a row of its own
_ALPHA = 0.05
_QUARTILES = 4
_MOST_VALUES = 12

Right = npt.NDArray[np.bool_]
Group = Mapping[str, Any]


def accuracy(right: Right) -> dict[str, Any]:
    """Images, at least one, accuracy and its 95 % interval."""
    found = proportion(int(right.sum()), len(right), _ALPHA)
    return {"images": len(right), "accuracy": found.value, "interval": [found.low, found.high]}


def by_factor(columns: Mapping[str, Sequence[str]], right: Right) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Accuracy by each column's values: numbers by quartile, words by value.

    Args:
        columns: N cells by column.
        right: shape (N,), whether the answer to the image is right.

    Returns:
        For each column that tells something `column`, `kind` (`quartiles` or `values`) and `groups`: `value`, `images`,
        `accuracy`, `interval`; with `differs`, whether two intervals are apart. And the columns that tell nothing, each
        with the reason.
    """
    told, left_out = [], {}
    for column, cells in columns.items():
        reason, kind, keys = _grouped(cells)
        if reason:
            left_out[column] = reason
            continue
        groups = [{"value": name[1], **accuracy(right[[key == name for key in keys]])} for name in sorted(set(keys))]
        worst, best = ends(groups)
        differs = worst["interval"][1] < best["interval"][0]
        told.append({"column": column, "kind": kind, "groups": groups, "differs": differs})
    # What the images tell apart comes first.
    return sorted(told, key=lambda column: not column["differs"]), left_out


def ends(groups: Sequence[Group]) -> tuple[Group, Group]:
    """A worse and a better group: whose intervals lie furthest apart, or of least and largest accuracy if none are.

    A group of few images may be the least accurate by luck, so it must not hide that two large ones are apart.
    """
    worst = min(groups, key=lambda group: float(group["interval"][1]))
    best = max(groups, key=lambda group: float(group["interval"][0]))
    if worst["interval"][1] < best["interval"][0]:
        return worst, best
    ranked = sorted(groups, key=lambda group: float(group["accuracy"]))
    return ranked[0], ranked[-1]


Key = tuple[int, str]  # where the group stands, and what it is called


def _grouped(cells: Sequence[str]) -> tuple[str, str, list[Key]]:
    """Why a column tells nothing, or else how it is grouped and each image's group."""
    counts = Counter(cells)
    if len(counts) == 1:
        return f"the same for all images ({next(iter(counts)) or 'empty'})", "", []
    numbers = [_number(cell) for cell in cells]
    known = [number for number in numbers if number is not None]
    if len(known) == sum(cell != "" for cell in cells) and len(set(known)) > _QUARTILES:
        return "", "quartiles", _quartiles(numbers)
    large = [value for value, count in counts.most_common(_MOST_VALUES) if count >= LEAST_IMAGES]
    if not large:
        return f"{len(counts)} values, none of which {LEAST_IMAGES} images have", "", []
    others = len(counts) - len(large)
    if len(large) + (others > 0) < 2:
        return "one value only", "", []
    order = {value: index for index, value in enumerate(sorted(large))}
    rest = (len(large), f"{others} others")
    return "", "values", [(order[cell], cell or "(empty)") if cell in order else rest for cell in cells]


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _quartiles(numbers: Sequence[float | None]) -> list[Key]:
    known = np.array([number for number in numbers if number is not None])
    bounds = np.unique(np.quantile(known, np.linspace(0, 1, _QUARTILES + 1)))
    names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(bounds)]
    keys = []
    for number in numbers:
        if number is None:
            keys.append((len(names), "(empty)"))
            continue
        place = min(int(np.searchsorted(bounds, number, side="right")) - 1, len(names) - 1)
        keys.append((place, names[place]))
    return keys
