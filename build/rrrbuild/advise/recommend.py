"""What the measurements say: differences with their intervals, and which network to take. Pure functions of rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rrrbuild.advise.rows import Row
from rrrnet.proportions import Interval, changed, proportion

ALPHA = 0.05
_POINTS = 100.0


@dataclass(frozen=True)
class Advice:
    """Which network to take.

    Attributes:
        name: of its row; one's own where nothing else will do, None where nothing can be said.
        sure: the interval shows that it loses no more than is allowed.
        why: in words.
    """

    name: str | None
    sure: bool
    why: str


def accuracy(row: Row) -> Interval:
    """Share of the test images that it answers rightly, with Wilson's interval."""
    return proportion(row.right, row.images, ALPHA)


def difference(row: Row, own: Row, alpha: float = ALPHA) -> Interval:
    """Accuracy less that of one's own network on the same images, in percentage points."""
    wrong, own_wrong = set(row.wrong), set(own.wrong)
    found = changed(len(own_wrong) - len(wrong), len(own_wrong ^ wrong), row.images, alpha)
    return Interval(_POINTS * found.value, _POINTS * found.low, _POINTS * found.high)


def visible_points(images: int) -> float:
    """The least difference that so many images can show: all that changed are on one side, and the interval is too."""
    fewest = next(
        count for count in range(1, images + 1) if count == images or changed(count, count, images, ALPHA).low > 0
    )
    return _POINTS * fewest / images


def recommend(rows: Sequence[Row], own: Row, max_drop: float, *, flattered: bool = False) -> Advice:
    """The fastest network that is about as good as one's own, surely if that can be told.

    Its intervals hold for all faster networks together (Bonferroni): of several, one may seem good enough by chance.

    Args:
        rows: of the others.
        own: that of one's own network.
        max_drop: percentage points of accuracy that may be lost.
        flattered: one's own network was trained on some of the test images: nothing is sure.
    """
    found = _recommend(rows, own, max_drop)
    if not flattered:
        return found
    why = f"{found.why}; that is not sure, for your network was trained on some of the test images"
    return replace(found, sure=False, why=why)


def _recommend(rows: Sequence[Row], own: Row, max_drop: float) -> Advice:
    tested = [row for row in rows if row.images and row.times_as_fast is not None]
    if not tested:
        return Advice(None, False, "nothing smaller was trained and tested: give more --minutes")
    if not own.images:
        best = max(tested, key=lambda row: (row.right, row.times_as_fast or 0.0))
        why = f"how good your network is on these images is not known; of the others {_told(best)} is the most accurate"
        return Advice(best.name, False, f"{why}, {accuracy(best).value:.1%}")
    faster = sorted(
        (row for row in tested if (row.times_as_fast or 0.0) > 1), key=lambda row: -(row.times_as_fast or 0.0)
    )
    differences = {row.name: difference(row, own, ALPHA / len(faster)) for row in faster}
    near = [row for row in faster if differences[row.name].value >= -max_drop]
    shown = [row for row in near if differences[row.name].low >= -max_drop]
    allowed = f"{max_drop:g} point{'s' * (max_drop != 1)}"
    if shown:
        taken = shown[0]
        why = f"{_told(taken)} loses no more than {allowed} of accuracy: {_points(differences[taken.name])}"
        others = [row.name for row in near[: near.index(taken)]]
        more = f"; faster ones may do too, which these images cannot show: {', '.join(others)}" if others else ""
        return Advice(taken.name, True, why + more)
    seen = f"{own.images} test images: differences below {visible_points(own.images):.0f} points cannot be seen"
    if near:
        taken = near[0]
        found = _points(differences[taken.name])
        why = f"{_told(taken)} seems to lose no more than {allowed}, {found}, but that is not shown ({seen})"
        return Advice(taken.name, False, f"{why}; more test images would tell")
    if not faster:
        return Advice(own.name, True, "keep your network: nothing that was tried is faster")
    best = max(faster, key=lambda row: row.right)
    return Advice(
        own.name,
        differences[best.name].high < -max_drop,
        f"keep your network: nothing faster comes within {allowed} of it. The nearest is {_told(best)} at "
        f"{_points(differences[best.name])} ({seen}); more --minutes (with another --out), more images or a larger "
        "--max-drop may do",
    )


def _told(row: Row) -> str:
    return f"{row.name}, {row.times_as_fast:.1f} times as fast as your network,"


def _points(found: Interval) -> str:
    return f"{found.value:+.1f} points ({found.low:+.1f} to {found.high:+.1f})"
