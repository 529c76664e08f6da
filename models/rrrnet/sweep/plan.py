"""Which cells a sweep has, what each is trained with, and which wait for others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rrrnet.errors import UsageError
from rrrnet.names import is_text
from rrrnet.network.branches import SLICES
from rrrnet.sealed import sha256_of
from rrrnet.sweep.cells import MATCHED, TAUGHT, Cell, Folder
from rrrnet.training.command_line import command_line
from rrrnet.training.options import Options
from rrrnet.training.recipes import METHODS
from rrrnet.weights.warm_start import is_checkpoint

STUDENTS = ("reduced", "ensemble")
_FIRST_SEED = 0


@dataclass(frozen=True)
class Plan:
    """What is swept over.

    Attributes:
        data: folders of data sets; their names are the rows of the table.
        folder: of the sweep.
        methods: of `rrr train`, the columns.
        seeds: of each cell: 0 to `seeds` - 1.
        training: flags of `rrr train` that all cells share, by name; those that were not given are absent.
        lrs: learning rates by method; of several the first seed's validation images choose one.
        teacher: the method whose checkpoint teaches `STUDENTS`, or None.
        slices: of ensembles, see `rrrnet.network.branches`; the columns of `matched` ones say so.
        keep: leave every checkpoint in the folder, not the teachers' alone.
    """

    data: tuple[Path, ...]
    folder: Folder
    methods: tuple[str, ...] = METHODS
    seeds: int = 3
    training: Mapping[str, Any] = field(default_factory=dict)
    lrs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    teacher: str | None = None
    slices: str = "first"
    keep: bool = False

    def __post_init__(self) -> None:
        self._check_data()
        if self.seeds < 1:
            raise UsageError(f"--seeds {self.seeds}: allowed are 1 and more")
        teachers = (self.teacher,) if self.teacher else ()
        for flag, given in (("methods", self.methods), ("lr", tuple(self.lrs)), ("teacher", teachers)):
            if unknown := [name for name in given if name not in METHODS]:
                raise UsageError(f"--{flag} {unknown[0]}: no such method; allowed are {', '.join(METHODS)}")
        if self.teacher and not set(self.methods) & set(STUDENTS):
            raise UsageError(f"--teacher teaches {' and '.join(STUDENTS)}, but --methods has none of them")
        if self.slices not in SLICES:
            raise UsageError(f"--slices {self.slices}: no such ones; allowed are {', '.join(SLICES)}")
        self._check_training()

    def _check_data(self) -> None:
        names = [path.resolve().name for path in self.data]
        if not names:
            raise UsageError("no data set is given: name one folder or more")
        for path, name in zip(self.data, names, strict=True):
            if not path.is_dir():
                raise UsageError(f"{path} is no folder: give folders of images as rrr train --data takes them")
            if names.count(name) > 1 or not is_text(name):
                raise UsageError(
                    f"{path}: {name!r} cannot name a data set beside {', '.join(names)}: rename the folder"
                )

    def _check_training(self) -> None:
        weights = self.training.get("weights", "imagenet")
        if weights == "none" and "head" in self.methods:
            others = ",".join(method for method in self.methods if method != "head")
            raise UsageError(
                "--weights none: head trains the classifier of pre-trained weights alone, and from scratch is the same "
                f"as full: give --weights FILE, or --methods {others or 'full'}"
            )
        if is_checkpoint(weights):
            raise UsageError(f"--weights {weights} is a checkpoint, which fits one method alone: give a file, or none")
        if self.training.get("epochs") == 0:
            raise UsageError("--epochs 0 trains nothing: give 1 or more")
        for cell in self.cells():  # each flag, before anything is trained; there is no teacher yet
            untaught = replace(cell, method=cell.trained_by)
            for lr in self.lrs_of(cell):
                self.options(untaught, lr, self.folder.model(cell))

    def cells(self) -> list[Cell]:
        """All cells, a data set after the other and in it a seed after the other; teachers before students."""
        columns = [self._column(method) for method in self.methods if not self.teacher or method not in STUDENTS]
        if self.teacher:
            columns = [*dict.fromkeys([*columns, self.teacher])]
            columns += [self._column(method) + TAUGHT for method in self.methods if method in STUDENTS]
        names = [path.resolve().name for path in self.data]
        return [Cell(name, method, seed) for name in names for seed in range(self.seeds) for method in columns]

    def _column(self, method: str) -> str:
        return method + MATCHED if method == "ensemble" and self.slices == "matched" else method

    def needs(self, cell: Cell) -> list[Cell]:
        """Cells that this one waits for: the first seed, which chooses a learning rate, and the teacher."""
        found = []
        if self.chooses(cell) and cell.seed != _FIRST_SEED:
            found.append(Cell(cell.dataset, cell.method, _FIRST_SEED))
        if cell.taught and self.teacher:
            found.append(Cell(cell.dataset, self.teacher, cell.seed))
        return found

    def chooses(self, cell: Cell) -> bool:
        """Whether its method has several learning rates."""
        return len(self.lrs.get(cell.trained_by, ())) > 1

    def lrs_of(self, cell: Cell) -> tuple[float | None, ...]:
        """The learning rates that are tried; None is the recipe's."""
        return self.lrs.get(cell.trained_by, (None,))

    def keeps(self, cell: Cell) -> bool:
        """Whether its checkpoint stays in the folder."""
        return self.keep or cell.method == self.teacher

    def to_run(self, measured: Mapping[Cell, Any]) -> list[Cell]:
        """Cells to train: those that are not measured, and teachers that a student needs whose checkpoint is gone."""
        left = [cell for cell in self.cells() if cell not in measured]
        teachers = {need for cell in left for need in self.needs(cell) if need.method == self.teacher}
        gone = {cell for cell in teachers if not self.folder.model(cell).is_dir()}
        return [cell for cell in self.cells() if cell not in measured or cell in gone]

    def options(self, cell: Cell, lr: float | None, out: Path) -> Options:
        """What `rrr train` is asked for, with the command line that asks for it.

        Raises:
            UsageError: it cannot be carried out as given.
        """
        data = next(path for path in self.data if path.resolve().name == cell.dataset)
        given: dict[str, Any] = {"method": cell.trained_by, "seed": cell.seed, **self.training}
        if cell.trained_by != "ensemble":
            given.pop("members", None)
        if cell.matched:
            given["slices"] = "matched"
        if lr is not None:
            given["lr"] = lr
        if cell.taught and self.teacher:
            given["teacher"] = self.folder.model(Cell(cell.dataset, self.teacher, cell.seed))
        command = command_line(data, self.folder.model(cell), given)
        return Options(data=data, out=out, overwrite=True, command=command, **given)

    def shared_settings(self) -> dict[str, Any]:
        """What all cells of one table have in common, as their files keep it; a file of weights by its digest."""
        settings = {name: value for name, value in sorted(self.training.items()) if name not in ("precision", "device")}
        weights = str(settings.get("weights", "imagenet"))
        if Path(weights).is_file():
            settings["weights"] = f"sha256 {sha256_of(Path(weights))}"
        return settings

    def own_settings(self, cell: Cell) -> dict[str, Any]:
        """What is said of one cell."""
        lrs = self.lrs.get(cell.trained_by)
        return {"lr": list(lrs) if lrs else None, "teacher": self.teacher if cell.taught else None}


def read_lrs(words: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """`METHOD=VALUE` or `METHOD=VALUE,VALUE,...` of `--lr`, by method.

    Raises:
        UsageError: it is not of that form.
    """
    found: dict[str, tuple[float, ...]] = {}
    for word in words:
        method, _, values = word.partition("=")
        try:
            found[method] = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise UsageError(f"--lr {word}: allowed is METHOD=VALUE[,VALUE...], like full=1e-4,3e-4") from None
    return found
