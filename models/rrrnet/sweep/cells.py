"""A cell is one training: a method on a data set with a seed. Its file in the sweep's folder holds what came of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrrnet.errors import ArtifactError, UsageError
from rrrnet.files import write_atomically

FORMAT_VERSION = 1
MATCHED = "-matched"  # behind an ensemble that starts as `rrr train --slices matched` does
TAUGHT = "-taught"  # behind a method, or that, if it learned from a teacher's answers too
_CELLS, _MODELS, _FAILED = "cells", "models", ".failed.json"
_OWN = ("lr", "teacher")  # settings of single cells


@dataclass(frozen=True, order=True)
class Cell:
    """One training.

    Attributes:
        dataset: its folder's name.
        method: of `rrr train`, with `MATCHED` and `TAUGHT` behind where they apply: a column of the table.
        seed: of the split and of all else that is random.
    """

    dataset: str
    method: str
    seed: int

    @property
    def trained_by(self) -> str:
        """What `--method` of `rrr train` is."""
        return self.method.removesuffix(TAUGHT).removesuffix(MATCHED)

    @property
    def matched(self) -> bool:
        """Whether its members start from matched slices."""
        return self.method.removesuffix(TAUGHT).endswith(MATCHED)

    @property
    def taught(self) -> bool:
        """Whether it learns from a teacher."""
        return self.method.endswith(TAUGHT)

    def __str__(self) -> str:
        return f"{self.dataset}/{self.method}-seed{self.seed}"


@dataclass(frozen=True)
class Folder:
    """The folder of a sweep: `cells/DATASET/METHOD-seedN.json`, and the checkpoints that are kept."""

    path: Path

    def result(self, cell: Cell) -> Path:
        """The file of what was measured; there is none before."""
        return self.path / _CELLS / f"{cell}.json"

    def failure(self, cell: Cell) -> Path:
        """The file of why nothing was measured, if the last try failed."""
        return self.path / _CELLS / f"{cell}{_FAILED}"

    def model(self, cell: Cell) -> Path:
        """The checkpoint's folder."""
        return self.path / _MODELS / str(cell)

    def has(self, cell: Cell) -> bool:
        """Whether the cell was measured."""
        return self.result(cell).is_file()

    def write(self, cell: Cell, document: Mapping[str, Any]) -> None:
        """Keep what was measured.

        Raises:
            NoSpaceError: the disk is full.
        """
        _write(self.result(cell), cell, document)
        self.failure(cell).unlink(missing_ok=True)

    def write_failure(self, cell: Cell, document: Mapping[str, Any]) -> None:
        """Keep why a cell failed; it will be tried again."""
        _write(self.failure(cell), cell, document)

    def results(self) -> dict[Cell, dict[str, Any]]:
        """What was measured so far, in the order of data sets, methods and seeds.

        Raises:
            ArtifactError: a file is not what it should be.
        """
        return dict(sorted(_read(file) for file in self._files() if not file.name.endswith(_FAILED)))

    def failures(self) -> dict[Cell, dict[str, Any]]:
        """What failed when it was last tried."""
        return dict(sorted(_read(file) for file in self._files() if file.name.endswith(_FAILED)))

    def _files(self) -> list[Path]:
        return [file for file in (self.path / _CELLS).glob("*/*.json") if not file.name.startswith(".")]


def _write(path: Path, cell: Cell, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {"format_version": FORMAT_VERSION, "dataset": cell.dataset, "method": cell.method, "seed": cell.seed}
    write_atomically(path, (json.dumps({**own, **document}, indent=2, ensure_ascii=False) + "\n").encode())


def _read(path: Path) -> tuple[Cell, dict[str, Any]]:
    remedy = "remove it, and its cell is trained again"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, cell = document["format_version"], Cell(document["dataset"], document["method"], document["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no result of rrr sweep ({error!r}): {remedy}") from error
    if version != FORMAT_VERSION:
        raise ArtifactError(f"{path} has format version {version}, this rrr knows {FORMAT_VERSION}: {remedy}")
    return cell, document


def check_settings(
    measured: Mapping[Cell, Mapping[str, Any]], shared: Mapping[str, Any], own: Mapping[Cell, Mapping[str, Any]]
) -> None:
    """See that what was measured before may stand in one table with what is asked for now.

    Args:
        measured: results that the folder has.
        shared: settings that all cells of a sweep have in common, now.
        own: settings of single cells that are asked for.

    Raises:
        UsageError: a setting differs; names it and both values.
    """
    for cell, document in measured.items():
        not_given = {name: None for name in document["settings"] if name not in _OWN}
        for name, value in {**not_given, **shared, **own.get(cell, {})}.items():
            before = document["settings"].get(name)
            if before != value:
                raise UsageError(
                    f"{cell} was measured with {name} {_told(before)}, now it is {_told(value)}: one table cannot hold "
                    "both; give the same options, or another --out"
                )


def images_of(results: Mapping[Cell, Mapping[str, Any]]) -> dict[str, str]:
    """The digest of each data set's images.

    Raises:
        ArtifactError: two cells of one data set were trained on different images.
    """
    seen: dict[str, str] = {}
    for cell, document in results.items():
        if seen.setdefault(cell.dataset, document["data_sha256"]) != document["data_sha256"]:
            raise ArtifactError(changed(cell))
    return seen


def changed(cell: Cell) -> str:
    """What is said of a cell whose images are not those of the cells before it."""
    return (
        f"{cell} was trained on other images than the cells of {cell.dataset} before it: the data set has "
        "changed; remove its older files from the folder cells, and they are trained again"
    )


def _told(value: Any) -> str:
    return "not given" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
