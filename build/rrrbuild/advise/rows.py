"""The rows of the table, a JSON file each, written as soon as something of them is measured."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrrbuild.advise.plan import Candidate
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.files import write_atomically

FORMAT_VERSION = 1
ASKED = "asked.json"
_ROWS = "rows"


@dataclass
class Row:
    """What is known of a network so far.

    Attributes:
        candidate: which one.
        parameters: of the network; 0 where it is not known yet.
        macs: multiply-accumulates of one image.
        engine_bytes: what a deployment carries.
        speed: `median`, `p25`, `p75` and so on of a call at batch 1, in ms; None before it is measured.
        times_as_fast: as one's own network, which took turns with it.
        trained_engine: whether those are of the trained engine; else of one of the same shape.
        epochs: of the training; 0 for an import; None where there is no checkpoint.
        images: number of test images that its engine was asked about; 0 where it was not.
        wrong: names of those it answered wrongly.
        val_accuracy: on the validation images of its training; None where there were none.
        note: why something is missing, for people.
        command: trains it again (or imports it).
        build: builds its engine again.
    """

    candidate: Candidate
    parameters: int = 0
    macs: int = 0
    engine_bytes: int = 0
    speed: dict[str, float] | None = None
    times_as_fast: float | None = None
    trained_engine: bool = False
    epochs: int | None = None
    images: int = 0
    wrong: tuple[str, ...] = ()
    val_accuracy: float | None = None
    note: str = ""
    command: str = ""
    build: str = ""

    @property
    def name(self) -> str:
        """The candidate's."""
        return self.candidate.name

    @property
    def right(self) -> int:
        """Test images that are answered rightly."""
        return self.images - len(self.wrong)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        return asdict(self) | {"wrong": list(self.wrong)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Row":
        """Read what `to_json` wrote."""
        return cls(**values | {"candidate": Candidate(**values["candidate"]), "wrong": tuple(values["wrong"])})


@dataclass
class Rows:
    """The rows in a folder, by name."""

    folder: Path
    by_name: dict[str, Row] = field(default_factory=dict)

    def of(self, candidate: Candidate) -> Row:
        """Its row; a new one where there is none."""
        return self.by_name.setdefault(candidate.name, Row(candidate))

    def write(self, row: Row) -> None:
        """Keep what is known of it now."""
        folder = self.folder / _ROWS
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format_version": FORMAT_VERSION, **row.to_json()}, indent=2, ensure_ascii=False)
        write_atomically(folder / f"{row.name}.json", text.encode() + b"\n")


def read_rows(folder: Path) -> Rows:
    """What an earlier run has measured.

    Raises:
        ArtifactError: a file is not what `Rows.write` wrote.
    """
    rows = Rows(folder)
    for path in sorted((folder / _ROWS).glob("*.json")):
        values = _read(path)
        values.pop("format_version")
        try:
            row = Row.from_json(values)
        except (TypeError, KeyError) as error:
            raise ArtifactError(
                f"{path} is no row of rrr advise ({error}): remove it, and it is measured anew"
            ) from error
        rows.by_name[row.name] = row
    return rows


def settle_asked(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what rows of one table have in common; rows of another table are not mixed with it.

    Args:
        folder: the table's.
        asked: JSON-ready; what is None is taken from before.

    Returns:
        The same, with what was open taken from before.

    Raises:
        UsageError: the folder holds a table of something else; names the difference.
        ArtifactError: its document is damaged.
    """
    path = folder / ASKED
    before = _read(path) if path.is_file() else {}
    known = {name: before.get(name) if value is None else value for name, value in asked.items()}
    changed = [name for name, value in known.items() if name in before and before[name] not in (None, value)]
    if changed:
        differences = "; ".join(f"{name} was {before[name]}, now {known[name]}" for name in changed)
        raise UsageError(f"{folder} holds a table of something else: {differences}; choose another --out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format_version": FORMAT_VERSION, **known}, indent=2, ensure_ascii=False)
    write_atomically(path, text.encode() + b"\n")
    return known


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{path} is no JSON ({error}): remove it, or choose another --out") from error
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(f"{path} is not of this rrr (format version {FORMAT_VERSION}): choose another --out")
    return values
