"""Which networks are compared, and how the minutes are divided among their trainings. Pure functions of numbers."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rrrnet.errors import UsageError
from rrrnet.network.architecture import MAX_MEMBERS

OWN = "own"
DEFAULT_MEMBERS = (1, 4, 8)
# Tried where the others leave time, and nobody has said which numbers of members are wanted.
MORE_MEMBERS = (16, 2)
_RESERVE = 0.05  # of the minutes: what else the machine does, and the last table
_FORWARD = 3  # a step takes as long as so many forward passes (as in `rrrnet.training.budget`)


@dataclass(frozen=True)
class Candidate:
    """A network of the table.

    Attributes:
        name: of the row, and of the checkpoint's folder.
        method: "full", "reduced" or "ensemble".
        members: of it.
        teacher: one's own network teaches it.
    """

    name: str
    method: str
    members: int = 1
    teacher: bool = False

    def flags(self) -> dict[str, object]:
        """Those of `rrr train` that make it."""
        return {"method": self.method, **({"members": self.members} if self.method == "ensemble" else {})}

    def taught(self) -> "Candidate":
        """The same network, with a teacher."""
        return replace(self, name=f"{self.name}-taught", teacher=True)


@dataclass(frozen=True)
class Cost:
    """What a training takes here.

    Attributes:
        once_seconds: whatever the epochs: reading and scoring; where its engine counts, building and testing that.
        epoch_seconds: of each epoch.
    """

    once_seconds: float
    epoch_seconds: float

    def seconds(self, epochs: int) -> float:
        """Of so many epochs."""
        return self.once_seconds + epochs * self.epoch_seconds


@dataclass(frozen=True)
class Shares:
    """What the minutes are spent on: epochs of one's own network (0: it is not trained), and of each of `names`."""

    own: int
    epochs: int
    names: tuple[str, ...]


def parse_members(text: str) -> tuple[int, ...]:
    """Read "1,4,8".

    Raises:
        UsageError: not whole numbers from 1 to `MAX_MEMBERS`.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= MAX_MEMBERS for word in words):
        raise UsageError(
            f"--members {text}: give numbers of members from 1 to {MAX_MEMBERS}, like --members 1,4,8 (1 is the "
            "reduced network)"
        )
    return tuple(dict.fromkeys(int(word) for word in words))


def candidates(members: Sequence[int]) -> list[Candidate]:
    """The networks without a teacher: one's own, then the reduced one (1) and ensembles as they are asked for."""
    return [Candidate(OWN, "full"), *(candidate(number) for number in members)]


def candidate(members: int) -> Candidate:
    """The reduced network, or the ensemble of so many members."""
    return Candidate("reduced", "reduced") if members == 1 else Candidate(f"members-{members}", "ensemble", members)


def divide(seconds: float, own: Cost | None, rows: Mapping[str, Cost], most: int, *, taught: Cost | None) -> Shares:
    """How many epochs fit into a time.

    All rows get the same number, so that they can be compared; the last ones get none where there is not time for one
    epoch of each. One's own network, where it has to be trained, gets half of the time, or what the others leave.

    Args:
        seconds: that are left.
        own: what training one's own network costs; None where it needs none.
        rows: what the others cost, the most wanted first.
        most: epochs that nothing gets more than.
        taught: what the row with a teacher will cost; None where there will be none.
    """
    left = seconds
    own_epochs = 0
    if own is not None:
        others = _sum([*rows.values(), *([] if taught is None else [taught])]).seconds(most)
        own_epochs = fitting(max(seconds / 2, seconds - others), own, most)
        left -= own.seconds(own_epochs) if own_epochs else 0.0
    names = list(rows)
    reserved = [] if taught is None or (own is not None and not own_epochs) else [taught]
    while names:
        epochs = fitting(left, _sum([*(rows[name] for name in names), *reserved]), most)
        if epochs:
            return Shares(own_epochs, epochs, tuple(names))
        if reserved:
            reserved = []
        else:
            names.pop()
    return Shares(own_epochs, 0, ())


def _sum(costs: Collection[Cost]) -> Cost:
    return Cost(sum(cost.once_seconds for cost in costs), sum(cost.epoch_seconds for cost in costs))


def fitting(seconds: float, cost: Cost, most: int) -> int:
    """Epochs that fit, `most` at most; 0 where not even one does."""
    if cost.epoch_seconds <= 0:
        return most
    return max(0, min(most, math.floor((seconds - cost.once_seconds) / cost.epoch_seconds)))


def with_teacher(student: Cost, student_macs: int, teacher_macs: int) -> Cost:
    """What the same training costs with a teacher, which is asked about every image in each step.

    Args:
        student: its cost alone.
        student_macs: multiply-accumulates of an image.
        teacher_macs: of the teacher.
    """
    return replace(student, epoch_seconds=student.epoch_seconds * (1 + teacher_macs / student_macs / _FORWARD))


def usable_seconds(minutes: float) -> float:
    """Of the minutes, without a reserve."""
    return 60 * minutes * (1 - _RESERVE)


def worth_training(times_as_fast: float | None) -> bool:
    """Whether a network can be recommended at all: one that is no faster than one's own cannot.

    Args:
        times_as_fast: as one's own; None where that could not be measured before training.
    """
    return times_as_fast is None or times_as_fast > 1
