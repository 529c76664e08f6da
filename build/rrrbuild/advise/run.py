"""From minutes to rows: speed first, which needs no training, then trainings in what time is left.

What trains, builds and measures is a `Shop`; here is only the order of the work and the clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rrrbuild.advise.plan import (
    MORE_MEMBERS,
    OWN,
    Candidate,
    Cost,
    Shares,
    candidate,
    candidates,
    divide,
    fitting,
    with_teacher,
    worth_training,
)
from rrrbuild.advise.rows import Row, Rows
from rrrnet.errors import CheckFailedError, IncompatibleError

_TURN_SECONDS = 3.0  # of each engine in the last turns
_BUILD_SECONDS = 30.0  # of an engine, where none like it was built


@dataclass(frozen=True)
class Built:
    """An engine: folder, target, size, the network's costs, the command that builds it again, and how long it took."""

    path: Path
    target: str
    engine_bytes: int
    parameters: int
    macs: int
    command: str
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A checkpoint.

    Attributes:
        path: its folder.
        epochs: 0 for an import.
        command: that trains it again.
        complete: unless time or a person stopped its training.
        val_accuracy: on the validation images; None where there were none.
    """

    path: Path
    epochs: int
    command: str
    complete: bool = True
    val_accuracy: float | None = None


class Shop(Protocol):
    """What does the work; `clock` is in seconds."""

    fits: bool
    most_epochs: int

    def clock(self) -> float:
        """Seconds since some moment."""

    def say(self, text: str) -> None:
        """Tell a line of progress."""

    def train(self, wanted: Candidate, epochs: int, until: float) -> Trained:
        """Train it, or go on with it; 0 epochs import one's own network. Stops when the clock is at `until`."""

    def untrained(self, wanted: Candidate) -> Path:
        """A checkpoint of its shape with random weights."""

    def build(self, wanted: Candidate, checkpoint: Path, target: str | None, *, trained: bool) -> Built:
        """Its engine; without a target for the best one of this machine."""

    def kept(self, wanted: Candidate) -> tuple[Path, str] | None:
        """The engine of an earlier run and its target; None where there is none."""

    def in_turns(self, engines: Mapping[str, Path]) -> dict[str, dict[str, float]]:
        """Milliseconds of a call at batch 1, by name; all take turns."""

    def cost(self, wanted: Candidate) -> Cost:
        """What its training costs here, without its engine; without a teacher's part."""

    def test(self, model: Path) -> tuple[int, tuple[str, ...]]:
        """Of an engine or a checkpoint: number of test images, and the names of those that it answers wrongly."""


class Advising:
    """One run; its `rows` hold what was measured, whatever interrupts it."""

    def __init__(
        self, rows: Rows, shop: Shop, *, members: Sequence[int], more: bool, target: str | None, until: float
    ) -> None:
        """Nothing is measured yet.

        Args:
            rows: what an earlier run measured is kept.
            shop: does the work.
            members: of the networks that are compared.
            more: other numbers of members may be tried where there is time.
            target: of all engines; None for the best of this machine.
            until: when the clock shows that, no more work is begun.
        """
        self.rows, self.target = rows, target or ""
        self.notes: list[str] = []
        self.flattered = False  # one's own network was trained on test images
        self._shop, self._more, self._until = shop, more, until
        own, *self._others = candidates(members)
        self._own = rows.of(own)
        for other in self._others:
            rows.of(other)
        self._engines: dict[str, Path] = {}
        self._build_seconds: dict[str, float] = {}
        self._costs: dict[str, Cost] = {}
        self._slow = 1.0  # how long trainings take without their engines, as against what was estimated

    def table(self) -> list[Row]:
        """One's own network, then those that were asked for or measured, by their members."""
        wanted = {OWN, *(other.name for other in self._others)}
        shown = [row for row in self.rows.by_name.values() if row.name in wanted or row.images or row.note]
        return sorted(shown, key=lambda row: (row.name != OWN, row.candidate.members, row.candidate.teacher))

    def run(self) -> None:
        """Measure all there is time for.

        Raises:
            KeyboardInterrupt: by a person; the rows are as they were measured until then.
            RRRError: one's own network cannot be built at all.
        """
        asked_for = (self._own.name, *(other.name for other in self._others))
        for row in self.rows.by_name.values():
            if row.name in asked_for:  # of the others it stays true until they are trained
                row.note = ""
            self._keep(row)
        self._measure_own()
        self._measure_speed()
        shares = self._share_out()
        self._train_all(shares)
        self._teach()
        self._try_more(shares.epochs or self._kept_epochs())
        if any(row.trained_engine for row in self.rows.by_name.values() if row is not self._own):
            self._take_turns()  # with trained engines in place of random ones: all ratios are of one run

    @property
    def _left(self) -> float:
        return self._until - self._shop.clock()

    def _keep(self, row: Row) -> None:
        """What an earlier run measured is not measured again, if its engine is still there."""
        found = self._shop.kept(row.candidate) if row.images else None
        if found is None or found[1] != (self.target or found[1]):
            row.images, row.wrong = 0, ()
        else:
            self._shop.say(f"{row.name}: kept, as it was measured before")
            self._engines[row.name], self.target = found

    def _measure_own(self) -> None:
        """One's own network: imported and tested where its classifier fits, else only built."""
        own, shop = self._own, self._shop
        if own.images:
            return
        if shop.fits:
            self._finish(own, shop.train(own.candidate, 0, self._until))
        else:
            self._build(own, shop.untrained(own.candidate), trained=False)
        self.rows.write(own)

    def _measure_speed(self) -> None:
        """How fast all others are: that needs no training."""
        for other in self._others:
            row = self.rows.of(other)
            if row.images:
                continue
            if self._left <= 0:
                row.note = "not built: no time was left"
                continue
            try:
                self._build(row, self._shop.untrained(other), trained=False)
            except (CheckFailedError, IncompatibleError) as error:  # of random weights: the trained engine may pass
                self._shop.say(f"{row.name}: no speed before it is trained: {error}")
        self._take_turns()

    def _build(self, row: Row, checkpoint: Path, *, trained: bool) -> None:
        built = self._shop.build(row.candidate, checkpoint, self.target or None, trained=trained)
        self._build_seconds[row.name] = built.seconds
        self.target = built.target
        self._engines[row.name] = built.path
        row.engine_bytes, row.parameters, row.macs = built.engine_bytes, built.parameters, built.macs
        row.trained_engine, row.build = trained, built.command if trained else ""

    def _take_turns(self) -> None:
        self._shop.say(f"measuring {', '.join(self._engines)} in turns")
        found = self._shop.in_turns(self._engines)
        for name, speed in found.items():
            row = self.rows.by_name[name]
            row.speed, row.times_as_fast = speed, found[OWN]["median"] / speed["median"]
            self.rows.write(row)

    def _share_out(self) -> Shares:
        """Epochs for what is not trained yet, told."""
        own, costs = self._own, {}
        for other in self._others:
            row = self.rows.of(other)
            if not row.images and not row.note:
                if worth_training(row.times_as_fast):
                    costs[row.name] = self._with_engine(row.name, self._cost(other))
                else:
                    self._leave(row, "not trained: it is not faster than your network")
        own_cost = None if own.images or own.note else self._with_engine(OWN, self._cost(own.candidate))
        taught = None
        if costs:
            dearest = max(costs, key=lambda name: costs[name].epoch_seconds)
            taught = with_teacher(costs[dearest], self.rows.by_name[dearest].macs or own.macs, own.macs)
        last_turns = _TURN_SECONDS * (len(self._engines) + 1)
        shares = divide(self._left - last_turns, own_cost, costs, self._shop.most_epochs, taught=taught)
        parts = [f"own: {_epochs(shares.own)}"] if shares.own and own_cost and own_cost.epoch_seconds else []
        parts += [f"{', '.join(shares.names)}: {_epochs(shares.epochs)}"] * bool(shares.names)
        if parts:
            self._shop.say(f"{max(0.0, self._left) / 60:.1f} minutes are left to train {'; '.join(parts)}")
        return shares

    def _cost(self, wanted: Candidate) -> Cost:
        """Of a training, as estimated; steps are timed once."""
        if wanted.name not in self._costs:
            self._costs[wanted.name] = self._shop.cost(wanted)
        return self._costs[wanted.name]

    def _with_engine(self, name: str, training: Cost) -> Cost:
        """Of a training and its engine, if it is as much slower than estimated as the last one."""
        build = self._build_seconds.get(name, max(self._build_seconds.values(), default=_BUILD_SECONDS))
        return Cost(build + self._slow * training.once_seconds, self._slow * training.epoch_seconds)

    def _train_all(self, shares: Shares) -> None:
        own = self._own
        if not own.images and not own.note:
            if shares.own:
                self._train(own, shares.own, self._cost(own.candidate))
            else:
                self._leave(own, "not trained: there is not time for one epoch, so only its speed is compared")
        for other in self._others:
            row = self.rows.of(other)
            if row.name in shares.names:
                self._train(row, shares.epochs, self._cost(other))
            elif not row.images and not row.note:
                self._leave(row, "not trained: there is not time for one epoch")

    def _leave(self, row: Row, note: str) -> None:
        row.note = note
        self.rows.write(row)

    def _train(self, row: Row, epochs: int, cost: Cost) -> None:
        """Train, build and test one network, with fewer epochs where trainings turned out slower.

        Args:
            row: its row.
            epochs: that it gets if they fit.
            cost: of its training, as estimated.
        """
        row.note = ""
        possible = fitting(self._left, self._with_engine(row.name, cost), epochs)
        if not possible:
            self._leave(row, "not trained: no time was left")
            return
        if possible < epochs:
            self._shop.say(f"{row.name}: {_epochs(possible)}, for trainings take longer than was estimated")
        began = self._shop.clock()
        trained = self._shop.train(row.candidate, possible, self._until)
        if trained.complete:
            if cost.epoch_seconds > 0:  # else it was trained before, and took no time
                self._slow = (self._shop.clock() - began) / cost.seconds(possible)
            self._finish(row, trained)
        else:
            row.note = "not trained: the time ended before its last epoch; the same command again goes on"
        self.rows.write(row)

    def _finish(self, row: Row, trained: Trained) -> None:
        """Build and test what was trained or imported."""
        row.epochs, row.command, row.val_accuracy = trained.epochs, trained.command, trained.val_accuracy
        try:
            self._build(row, trained.path, trained=True)
        except CheckFailedError as error:
            if OWN not in self._engines:  # there would be nothing to compare with
                raise
            row.note = f"{self.target} is refused: {error}"
            if row is not self._own:
                return
            row.note = f"its accuracy is that of PyTorch, for {row.note}"  # else nothing could be compared with it
            row.images, row.wrong = self._shop.test(trained.path)
        else:
            row.images, row.wrong = self._shop.test(self._engines[row.name])
        self._shop.say(f"{row.name}: {row.right} of {row.images} test images are right")

    def _teach(self) -> None:
        """The best of the others once more, with one's own network as its teacher, if there is something to learn."""
        own = self._own
        others = [row for row in self.rows.by_name.values() if row is not own and not row.candidate.teacher]
        best = _most_accurate([row for row in others if row.images])
        if not own.images or best is None:
            return
        if own.right <= best.right:
            self.notes.append(f"nothing was trained with a teacher: your network is no more accurate than {best.name}")
            return
        row = self.rows.of(best.candidate.taught())
        if not row.images:
            cost = with_teacher(self._cost(row.candidate), best.macs, own.macs)
            self._train(row, best.epochs or self._shop.most_epochs, cost)

    def _try_more(self, epochs: int) -> None:
        """Other numbers of members, where there is time for as many epochs."""
        for members in MORE_MEMBERS if self._more and epochs else ():
            other = candidate(members)
            found = self.rows.by_name.get(other.name)
            if found is not None and found.images:
                continue
            training = self._cost(other)
            if fitting(self._left, self._with_engine(other.name, training), epochs) == epochs:
                self._train(self.rows.of(other), epochs, training)

    def _kept_epochs(self) -> int:
        """Of the rows that an earlier run trained; 0 where there are none."""
        return max((self.rows.of(other).epochs or 0 for other in self._others), default=0)


def _most_accurate(rows: Sequence[Row]) -> Row | None:
    """By validation images, so that test images choose nothing; by those where there are no others."""
    validated = {row.name: row.val_accuracy for row in rows if row.val_accuracy is not None}
    found = validated if len(validated) == len(rows) else {row.name: row.right for row in rows}
    return max(rows, key=lambda row: (found[row.name], -row.macs), default=None)


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"
