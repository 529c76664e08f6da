"""`labels.csv`: which file has which class, part and group, as spreadsheets and other systems write it.

Read where the meaning is plain: columns separated by comma, semicolon, tab or |, names of columns in any case, spaces
round cells, paths of Windows and absolute paths of another machine (by what of their end lies in the data set).
"""

import csv
import io
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rrrnet.data.folder_tree import Tree
from rrrnet.errors import ArtifactError, UsageError

LABELS = "labels.csv"
IMAGES = "images"
SPLIT_COLUMN = "SPLIT"
_SCHEME = r"[A-Za-z]:/|[A-Za-z][\w+.-]*:/+|file:"  # of a path of Windows, of an address
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def part_named(text: str) -> str | None:
    """The part of the split that people call so, as a folder or in the column: `train`, `Training_set`, `val` ..."""
    return _PARTS.get(re.sub("[ _-]?(set|data)$", "", text.casefold()))


class Row(NamedTuple):
    """A file relative to the root, its class's name, the part it is put into ("" for none) and its group ("" too)."""

    file: str
    category: str
    part: str = ""
    group: str = ""


@dataclass(frozen=True)
class _Table:
    """Header and rows with their line numbers; cells are stripped, and each row is at least as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


def read_labels(path: Path, tree: Tree, info: dict[str, Any], groups: str | None) -> list[Row]:
    """A row for each file that labels.csv at `path` lists; info.json may rename the two columns.

    Raises:
        ArtifactError: it cannot be read; names the line where one is at fault.
        UsageError: it has no column `groups`.
    """
    names = _names(info)
    table = _read_table(path, names)
    file_column, category_column = (_find(table.header, name) or 0 for name in names)  # _read_table found both
    split_column = _find(table.header, SPLIT_COLUMN)
    group_column = None if groups is None else _find(table.header, groups)
    if groups is not None and group_column is None:
        raise UsageError(f"--groups {groups}: {path} has no such column; its columns are {', '.join(table.header)}")
    for line, cells in table.rows:
        if not cells[file_column] or not cells[category_column]:
            empty = names[1] if cells[file_column] else names[0]
            raise ArtifactError(f"{path} line {line}: {empty} is empty; give every row a file and a class")
    files = _Locations(path, tree).of([(line, cells[file_column]) for line, cells in table.rows])
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for (line, cells), file in zip(table.rows, files, strict=True):
        if file in lines:
            raise ArtifactError(
                f"{path} lists {cells[file_column]} twice (lines {lines[file]} and {line}): remove one of them, "
                "or it could be trained on and tested on at once"
            )
        lines[file] = line
        part = "" if split_column is None else _part(cells[split_column], f"{path} line {line}")
        rows.append(Row(file, cells[category_column], part, "" if group_column is None else cells[group_column]))
    if not rows:
        raise ArtifactError(f"{path} has a header but no rows: list every image in it, or remove it")
    return rows


def read_columns(path: Path, tree: Tree, info: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What labels.csv at `path` says of each file beside its class and part: cell by column and file.

    Raises:
        ArtifactError: it cannot be read.
    """
    names = _names(info)
    table = _read_table(path, names)
    super_category = str(info.get("super_category_column_name", "SUPER_CATEGORY"))
    read = {_find(table.header, name) for name in (*names, super_category, SPLIT_COLUMN)}
    file_column = _find(table.header, names[0]) or 0  # _read_table found it
    files = _Locations(path, tree).of([(line, cells[file_column]) for line, cells in table.rows])
    return {
        column: {file: cells[index] for file, (_, cells) in zip(files, table.rows, strict=True)}
        for index, column in enumerate(table.header)
        if column and index not in read
    }


def _names(info: dict[str, Any]) -> tuple[str, str]:
    """The columns of files and of classes."""
    return str(info.get("image_column_name", "FILE_NAME")), str(info.get("category_column_name", "CATEGORY"))


def _part(cell: str, where: str) -> str:
    part = part_named(cell)
    if part is None:
        raise ArtifactError(f"{where}: {SPLIT_COLUMN} is {cell!r}; allowed are train, val and test")
    return part


def _find(header: tuple[str, ...], name: str) -> int | None:
    """The column of that name, exactly or, where only one is, but for case."""
    if name in header:
        return header.index(name)
    alike = [index for index, column in enumerate(header) if column.casefold() == name.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def _read_table(path: Path, names: tuple[str, str]) -> _Table:
    """The table under whichever separator gives the columns `names`."""
    try:
        data = path.read_bytes()  # in UTF-16 where it begins so: "Unicode text" of a spreadsheet
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        first, _, _ = text.partition("\n")
        told = re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE)  # a line that spreadsheets put before the header
        if told:
            text = text[len(first) :]
        separators = told.group(1) if told else ",;\t|"
        headers = {separator: next(_rows(text, separator), (0, ()))[1] for separator in separators}
        for separator, header in headers.items():
            if all(_find(header, name) is not None for name in names):
                _, *rows = _rows(text, separator)
                return _Table(
                    header, tuple((line, (*cells, *[""] * (len(header) - len(cells)))) for line, cells in rows)
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path} is not a UTF-8 csv file ({error}): save it again as UTF-8") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}): it must be a csv file") from error
    header = max(headers.values(), key=len)
    missing = [name for name in names if _find(header, name) is None]
    raise ArtifactError(
        f"{path} lacks the {'columns' if missing[1:] else 'column'} {' and '.join(missing)}: "
        f"its columns are {', '.join(filter(None, header)) or 'none'}; rename them, "
        "or name them in info.json (image_column_name, category_column_name)"
    )


def _rows(text: str, separator: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, cells) of all rows, less those without any text, which spreadsheets leave."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    for cells in reader:
        stripped = tuple(cell.strip() for cell in cells)
        if any(stripped):
            yield reader.line_num, stripped


class _Locations:
    """Where the files lie that labels.csv lists: below images/, else beside labels.csv.

    Only the listed text may not leave the root; a symbolic link in the folder is its owner's business.
    """

    def __init__(self, path: Path, tree: Tree) -> None:
        self._path, self._root = path, path.parent
        self._files = frozenset(tree.files)
        self._alike: dict[str, list[str]] = {}
        for file in tree.files:
            for name in {file, posixpath.splitext(file)[0]}:  # tables of identifiers leave the ending out
                self._alike.setdefault(_folded(name), []).append(file)

    def of(self, listed: list[tuple[int, str]]) -> list[str]:
        """The path relative to the root for each (line, text); where nothing is there, the one where it should be.

        Raises:
            ArtifactError: a text leads out of the data set.
        """
        places: list[str] = []
        strangers: list[int] = []  # whose place is not known yet
        dropped: int | None = None  # how many leading folders of another machine's paths are not ours
        for index, (_, text) in enumerate(listed):
            inside = _inside(text)
            place = self._find(text) or (self._find(inside) if inside else None)
            if place is None and inside is None:
                parts = _parts(text)
                tails = ((start, self._find("/".join(parts[start:]))) for start in range(len(parts)))
                start, place = next(((start, tail) for start, tail in tails if tail), (0, None))
                if place is None:
                    strangers.append(index)
                else:
                    dropped = start
            places.append(place or f"{IMAGES}/{inside}")
        for index in strangers:
            line, text = listed[index]
            if dropped is None:
                raise ArtifactError(
                    f"{self._path} line {line}: {text!r} leads out of the data set, and no file of that name "
                    f"lies in it; list files relative to {self._root / IMAGES}"
                )
            parts = _parts(text)
            places[index] = f"{IMAGES}/" + "/".join(parts[dropped:] or parts[-1:])
        return places

    def _find(self, text: str) -> str | None:
        """The file of that name, below images/ or beside the table; else the only one but for case, accents, ending."""
        if _outside(text):
            return None
        candidates = [posixpath.normpath(place) for place in (f"{IMAGES}/{text}", text)]
        for place in candidates:
            if self._is_there(place):
                return place
        alike = [found for place in candidates for found in self._alike.get(_folded(place), ())]
        return alike[0] if len(alike) == 1 else None

    def _is_there(self, place: str) -> bool:
        if place in self._files:
            return True
        try:
            return (self._root / place).exists()
        except (OSError, ValueError):  # e.g. a name longer than the file system takes
            return False


def _folded(path: str) -> str:
    """Equal for paths that differ in case or in how accents are written (NFC, NFD)."""
    return unicodedata.normalize("NFC", path).casefold()


def _outside(text: str) -> bool:
    return text.startswith(("/", "~/")) or "\0" in text or posixpath.normpath(text).split("/")[0] == ".."


def _inside(text: str) -> str | None:
    r"""The text as a relative posix path, also of Windows (`images\a.jpg`); None if it leads out of the data set."""
    path = text.replace("\\", "/")
    if re.match(_SCHEME, path) or _outside(path):
        return None
    return posixpath.normpath(path)


def _parts(text: str) -> list[str]:
    """Folders and name of an absolute path, or one with leading dots, of any system."""
    path = re.sub(_SCHEME, "", text.replace("\\", "/"))
    return [part for part in path.split("/") if part not in ("", ".", "..", "~")]
