"""What the figures at the end are made of: probabilities of images whose label is known, in a file beside the table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rrrbuild.confidence.record import Confidence
from rrrbuild.evaluation import answer_scores
from rrrnet.errors import ArtifactError, UsageError, reporting_full_disk
from rrrnet.files import write_atomically
from rrrnet.training.metrics import by_class
from rrrserve.batch.answers import Answered

_HEAD_BYTES = 4096  # of the file: what is asked of whom
_MOST_BYTES = 100_000_000  # of probabilities that are scored together, which takes some four times as much


class Scores:
    """A file FILE.run: a line that says whom was asked what, then a record for each labelled row, in the rows' order.

    Written before its row is, so that no row lacks its record, and removed when the table is finished.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], labels: Sequence[str], members: int) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            out: the table.
            settings: whom is asked what: a table is gone on with by the same alone.
            labels: C, of the model.
            members: M of the probabilities.
        """
        self.path = out.with_name(f"{out.name}.run")
        self._settings = dict(settings)
        self._index = {label: place for place, label in enumerate(labels)}
        self._record = np.dtype([("label", "<i4"), ("probabilities", "<f4", (members, len(labels)))])

    def begin(self, labelled_rows: int) -> None:
        """Begin, or go on after so many rows with a label.

        Raises:
            UsageError: the rows are of another engine or service, or were asked for in another way.
            ArtifactError: the file is damaged.
        """
        if not self.path.exists():
            head = {**self._settings, "rows_before": labelled_rows}
            write_atomically(self.path, json.dumps(head, ensure_ascii=False).encode().ljust(_HEAD_BYTES - 1) + b"\n")
        with self.path.open("rb+") as file:
            try:
                before = json.loads(file.read(_HEAD_BYTES))
            except ValueError as error:
                raise ArtifactError(f"{self.path} is damaged: remove it and the table, and begin anew") from error
            differing = [name for name in self._settings if before.get(name) != self._settings[name]]
            if differing:
                told = ", ".join(f"{name} {before.get(name)!r}, now {self._settings[name]!r}" for name in differing)
                raise UsageError(
                    f"the rows so far are of another run ({told}): give the same, or name another --out, or remove "
                    f"{self.path.with_suffix('')} and {self.path} to begin anew"
                )
            records = labelled_rows - before["rows_before"]
            file.truncate(min(_HEAD_BYTES + records * self._record.itemsize, self.path.stat().st_size))
        self._file = self.path.open("ab", buffering=0)

    def append(self, answered: Sequence[Answered]) -> None:
        """Write the records of those that have scores."""
        known = [
            (self._index[item.row["truth"]], item.scores) for item in answered if item.row and item.scores is not None
        ]
        if known:
            with reporting_full_disk(self.path):
                self._file.write(np.array(known, self._record).tobytes())

    def figures(self, labels: Sequence[str], confidence: Confidence | None, effort: str) -> dict[str, Any] | None:
        """Those of `rrr evaluate`, of all that were recorded, or where that is too much of each n-th; None of nothing.

        Args:
            labels: of the model.
            confidence: of the engine.
            effort: that answered.
        """
        count = (self.path.stat().st_size - _HEAD_BYTES) // self._record.itemsize
        if not count:
            return None
        records = np.memmap(self.path, self._record, "r", _HEAD_BYTES, (count,))
        step = -(-count * self._record.itemsize // _MOST_BYTES)
        probabilities, truths = records["probabilities"][::step], records["label"][::step].astype(np.int64)
        scores = answer_scores(probabilities, truths, confidence, effort)
        return {**scores, **by_class(probabilities, truths, labels), "every": step}

    def remove(self) -> None:
        """The table is finished."""
        self._file.close()
        self.path.unlink()
