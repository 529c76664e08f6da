"""The table of rows that `rrr predict --out` writes: appended to, so that whatever ends it, all whole rows are kept.

csv and jsonl grow in place. Parquet cannot be appended to: its rows go to FILE.partial.jsonl, which becomes FILE at the
end.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rrrnet.errors import ArtifactError, IncompatibleError, UsageError, reporting_full_disk
from rrrnet.installing import install_line
from rrrserve.batch.answers import Row

SUFFIXES = (".parquet", ".csv", ".jsonl")
_ROWS_OF_A_GROUP = 50_000


class Table:
    """Rows that are there whole or not at all, one for each image.

    Attributes:
        out: the file that is made.
        growing: the file that rows are appended to; `out` itself but for parquet.
    """

    def __init__(self, out: Path, columns: Mapping[str, type]) -> None:
        """Name a table; nothing is read or written yet.

        Raises:
            UsageError: `out` ends otherwise than in one of `SUFFIXES`.
            IncompatibleError: it is parquet, and pyarrow is not installed.
        """
        self.out, self._columns = out, dict(columns)
        self._format = out.suffix.lower()
        if self._format not in SUFFIXES:
            raise UsageError(f"--out is {out}: its name must end in {', '.join(SUFFIXES)}")
        if self._format == ".parquet":
            _pyarrow()
            self.growing = out.with_name(f"{out.name}.partial.jsonl")
        else:
            self.growing = out
        self._file: BinaryIO | None = None

    def whole_rows(self) -> Iterator[Row]:
        """The rows that were written before, after which a torn one, and nothing else, is cut off.

        Raises:
            ArtifactError: the file holds something else, or other columns.
        """
        if not self.growing.exists():
            return
        end = 0
        with self.growing.open("rb") as file:
            for number, line in enumerate(_lines_of(file, quoted=self._format == ".csv")):
                end += len(line)
                if (row := self._row(line, number)) is not None:
                    yield row
            file.seek(end)
            begun = _csv_line(self._columns) if self._format == ".csv" else b'{"path": "'
            if not end and not (torn := file.read(len(begun))).startswith(begun) and not begun.startswith(torn):
                raise ArtifactError(f"{self.growing} is no table of rrr predict: name another --out, or remove it")
        with self.growing.open("rb+") as file:
            file.truncate(end)

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows; when this returns, no end of this process can lose them.

        Raises:
            NoSpaceError: the disk is full.
        """
        with reporting_full_disk(self.growing):
            if self._file is None:
                self._file = self.growing.open("ab", buffering=0)
                if self._format == ".csv" and not self._file.tell():
                    self._file.write(_csv_line(self._columns))
            data = b"".join(map(self._line, rows))
            while data:
                data = data[self._file.write(data) :]

    def finish(self) -> None:
        """Make the file that was asked for of all rows."""
        if self._file is None:
            self.append([])
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
        if self._format == ".parquet":
            with reporting_full_disk(self.out):
                self._write_parquet()
            self.growing.unlink()

    def _line(self, row: Row) -> bytes:
        cells = {name: row.get(name) for name in self._columns}
        if self._format != ".csv":
            return json.dumps(cells, ensure_ascii=False).encode() + b"\n"
        return _csv_line(str(cell).lower() if isinstance(cell, bool) else cell for cell in cells.values())

    def _row(self, line: bytes, number: int) -> Row | None:
        """A row of the file as far as resuming needs it; None for the header."""
        try:
            if self._format != ".csv":
                row: Row = json.loads(line)
                names = list(row)
            else:
                (cells,) = csv.reader(io.StringIO(line.decode(), newline=""))
                names = list(self._columns) if number else cells
                row = dict(zip(names, cells, strict=True))
        except (ValueError, TypeError) as error:
            message = f"{self.growing} cannot be gone on with: line {number + 1} is no row of rrr predict"
            raise ArtifactError(f"{message}; name another --out, or remove it") from error
        if names != list(self._columns):
            raise UsageError(
                f"{self.growing} has the columns {', '.join(names)}, this command gives {', '.join(self._columns)}: "
                "give the same --top-k and --coverage as then, or name another --out"
            )
        return None if self._format == ".csv" and not number else row

    def _write_parquet(self) -> None:
        """Group by group, and whole or not at all."""
        pyarrow, parquet = _pyarrow()
        types = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int32(), bool: pyarrow.bool_()}
        schema = pyarrow.schema([(name, types[kind]) for name, kind in self._columns.items()])
        temporary = self.out.with_name(f"{self.out.name}.tmp")
        with parquet.ParquetWriter(temporary, schema) as writer, self.growing.open("rb") as file:
            rows: list[Row] = []
            for line in file:
                rows.append(json.loads(line))
                if len(rows) == _ROWS_OF_A_GROUP:
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                    rows = []
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.out)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        message = "parquet is written by pyarrow, which is not installed"
        raise IncompatibleError(f"{message}: {install_line('batch')}, or name a .csv or .jsonl file") from error
    return pyarrow, pyarrow.parquet


def _csv_line(cells: Iterable[object]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()


def _lines_of(file: BinaryIO, *, quoted: bool) -> Iterator[bytes]:
    """Each whole line; one of a csv may hold line breaks between quotes."""
    line = b""
    for part in file:
        line += part
        if line.endswith(b"\n") and not (quoted and line.count(b'"') % 2):
            yield line
            line = b""
