"""What `rrr advise` is asked for, checked before anything is read, and the run that answers it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rrrbuild.advise.own import Own, flattery, learnt_tests, read_own
from rrrbuild.advise.plan import DEFAULT_MEMBERS, OWN, usable_seconds
from rrrbuild.advise.rows import read_rows, settle_asked
from rrrbuild.advise.run import Advising
from rrrbuild.advise.workshop import Workshop
from rrrbuild.targets import build_obstacle, run_obstacle, target_named
from rrrnet import output
from rrrnet.data.labels import read_labels
from rrrnet.data.training_data import TrainingData, read_training_data
from rrrnet.errors import IncompatibleError, UsageError
from rrrnet.images.preprocess_options import choose_preprocess
from rrrnet.python_api import options_of
from rrrnet.stopping import Stopping
from rrrnet.training.options import Options

_MOST_MINUTES = 7 * 24 * 60


@dataclass(frozen=True)
class Asked:
    """The options of `rrr advise`; see its help.

    Attributes:
        weights: one's own network.
        data: the images.
        out: the folder of the table.
        minutes: in which all is measured.
        target: of all engines; None for the best of this machine.
        members: of the networks compared; None leaves it to the time.
        weights_key: which network in the file of `weights`.
        flags: of `rrr train`: how images are read, split and seen; those that were given.
    """

    weights: str
    data: Path
    out: Path
    minutes: float
    target: str | None = None
    members: tuple[int, ...] | None = None
    weights_key: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= _MOST_MINUTES:
            raise UsageError(f"--minutes {self.minutes:g}: allowed is a number above 0, of at most {_MOST_MINUTES}")
        if self.target is not None:
            target = target_named(self.target)
            if obstacle := build_obstacle(target) or run_obstacle(target):
                raise IncompatibleError(f"{target.name} cannot be measured here: {obstacle}")
        self.options({})

    def flags_beside(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """With those that a checkpoint asks for; those that were given win, and only one of them says who is tested."""
        tested = {"test_data", "test_fraction"}
        replaced = tested if tested & self.flags.keys() else set()
        return {**{name: value for name, value in flags.items() if name not in replaced}, **self.flags}

    def options(self, flags: Mapping[str, Any]) -> Options:
        """What is common to all trainings, with flags that a checkpoint asks for.

        Raises:
            UsageError: a value that is not allowed.
        """
        wanted = {**self.flags_beside(flags), "weights": "none", "method": "full", "epochs": 0}
        return options_of(self.data, self.out / "models" / OWN, wanted)


def measure(asked: Asked, requested: Stopping) -> tuple[Advising, bool]:
    """Measure what the minutes allow, or as much as a person leaves them.

    Returns:
        What was measured, and whether it was stopped before its time.

    Raises:
        UsageError, ArtifactError, IncompatibleError, NoSpaceError, CheckFailedError: see the message.
    """
    began = time.monotonic()
    own, data = read_own(
        asked.weights,
        asked.data,
        key=asked.weights_key,
        ordered="labels" in asked.flags,
        read_data=lambda flags: _read_data(asked.data, asked.options(flags)),
    )
    identity = _identity(asked, own, data)
    target = settle_asked(asked.out, {**identity, "target": asked.target})["target"]
    flags = asked.flags_beside(own.flags)
    with TemporaryDirectory(prefix=".untrained-", dir=asked.out) as scratch:
        shop = Workshop(own, asked.weights_key, data, asked.data, asked.out, flags, Path(scratch), requested)
        advising = Advising(
            read_rows(asked.out),
            shop,
            members=asked.members or DEFAULT_MEMBERS,
            more=asked.members is None,
            target=target,
            until=began + usable_seconds(asked.minutes),
        )
        advising.notes += _notes(own, data)
        advising.flattered = shop.fits and learnt_tests(own, data) > 0
        try:
            advising.run()
        except KeyboardInterrupt:
            stopped = True
        else:
            stopped = False
    output.say(f"took {(time.monotonic() - began) / 60:.1f} of {asked.minutes:g} minutes")
    if advising.target:
        settle_asked(asked.out, {**identity, "target": advising.target})
    return advising, stopped


def _read_data(data: Path, options: Options) -> TrainingData:
    return read_training_data(
        data,
        options.data_options,
        seed=options.seed,
        validate=True,
        max_pixels=options.max_pixels,
        say=output.say,
    )


def _identity(asked: Asked, own: Own, data: TrainingData) -> dict[str, Any]:
    """What all rows of a table have in common."""
    options = asked.options(own.flags)
    return {
        "weights": own.origin if asked.weights_key is None else f"{asked.weights_key} of {own.origin}",
        "data": data.images.sha256,
        "split": {"seed": data.seed, **data.options.settings()},
        "images": choose_preprocess(options.preprocess, options.size).describe(),
        "labels": list(read_labels(options.labels)) if options.labels else [],
    }


def _notes(own: Own, data: TrainingData) -> list[str]:
    """What is to be known of the accuracy of one's own network."""
    told = own.problem and f"{own.problem}: it has to be trained to be compared"
    return [note for note in (told or flattery(own, data),) if note]
