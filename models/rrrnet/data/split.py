"""Who is trained on, validated with and tested on: shares of each class, by a hash, copies and groups kept together."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

TRAIN, VAL, TEST = "train", "val", "test"
VAL_FRACTION = 0.1


def units_of(files: Sequence[str], together: Iterable[Sequence[str]]) -> list[list[int]]:
    """Places of the files, in units that must not be torn apart.

    Args:
        files: N names.
        together: sets of names that belong together, directly or by way of others; unknown names are skipped.
    """
    place = {file: index for index, file in enumerate(files)}
    root = list(range(len(files)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for names in together:
        known = [place[name] for name in names if name in place]
        for other in known[1:]:
            root[find(other)] = find(known[0])
    units: dict[int, list[int]] = {}
    for index in range(len(files)):
        units.setdefault(find(index), []).append(index)
    return list(units.values())


class Shares:
    """Moves units out of training, class by class, in the order of a hash of seed, class and file name.

    The order depends on neither that of the files, nor on other classes, nor on a random generator's version.
    """

    def __init__(
        self, files: Sequence[str], labels: Sequence[int], classes: Sequence[str], units: Sequence[Sequence[int]]
    ) -> None:
        self._files, self._labels, self._classes, self._units = files, labels, classes, units
        self._by_class: list[list[int]] = [[] for _ in classes]
        for number, unit in enumerate(units):
            for label in {labels[index] for index in unit}:
                self._by_class[label].append(number)

    def move(self, parts: list[str], part: str, fraction: float, seed: int) -> None:
        """Put a share of each class's training images into `part`, at least one, and leave at least one.

        A class that is one unit stays in training. Units are taken while they bring the share closer to what is
        wanted; where none does, the smallest is taken.

        Args:
            parts: of each file; changed in place.
            part: "test" or "val".
            fraction: of the images of each class that are in training or in `part` already.
            seed: another one gives another order.
        """
        left = Counter(label for label, now in zip(self._labels, parts, strict=True) if now == TRAIN)
        for label, name in enumerate(self._classes):
            taken = sum(parts[index] == part for index in self._places(label))
            total = left[label] + taken
            if total < 2:
                continue
            wanted = min(max(1, round(total * fraction)), total - 1)
            pool = [unit for unit in self._by_class[label] if all(parts[index] == TRAIN for index in self._units[unit])]
            sizes = {unit: sum(self._labels[index] == label for index in self._units[unit]) for unit in pool}
            order = sorted(pool, key=lambda unit: self._rank(unit, label, name, seed))
            smallest = sorted(order, key=lambda unit: sizes[unit])
            for unit in order:
                if taken < wanted and taken + sizes[unit] / 2 < wanted:
                    taken += self._take(unit, parts, part, left, label)
            for unit in smallest:
                if taken == 0:
                    taken += self._take(unit, parts, part, left, label)

    def _places(self, label: int) -> Iterable[int]:
        return (index for unit in self._by_class[label] for index in self._units[unit] if self._labels[index] == label)

    def _rank(self, unit: int, label: int, name: str, seed: int) -> bytes:
        return min(
            hashlib.sha256(f"{seed}\0{name}\0{self._files[index]}".encode()).digest()
            for index in self._units[unit]
            if self._labels[index] == label
        )

    def _take(self, unit: int, parts: list[str], part: str, left: Counter[int], label: int) -> int:
        """Move the unit unless it is the last of some class; how many images of class `label` have moved."""
        counts = Counter(self._labels[index] for index in self._units[unit])
        if any(left[other] <= count for other, count in counts.items()):
            return 0
        for index in self._units[unit]:
            parts[index] = part
        left.subtract(counts)
        return counts[label]


def crossing(units: Iterable[Sequence[str]], parts: Mapping[str, str]) -> list[Sequence[str]]:
    """The units that lie in more than one part."""
    return [unit for unit in units if len({parts[file] for file in unit if file in parts}) > 1]
