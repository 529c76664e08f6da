"""Which files `rrr predict --out` is about: folders, globs, lists and URIs, in bounded memory at any number of them."""

import codecs
import glob
import os
import re
import sqlite3
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from rrrnet.data.file_kinds import HEAD_BYTES, REMEDIES, is_junk_folder, is_picture, junk_file
from rrrnet.data.folder_tree import readable, walk
from rrrnet.errors import UsageError
from rrrserve.batch import remote

_PAGE = 1000  # paths in memory
_WAYS = "give a folder, a glob in quotes, a LIST.txt with a path a line, or - for such a list on standard input"
_HIDDEN = "their names begin with a dot: rename them to have them taken"
_NOT_UTF8 = f"named not in UTF-8: {REMEDIES['named not in UTF-8']}"


class File(NamedTuple):
    """One file that gets a row.

    Attributes:
        path: as it is written into the table.
        truth: the label that its folder is named by; None where that tells none.
        named: somebody named this very file, so that it gets a row whatever it is; of what only lies in a folder,
            what is no picture gets none.
        problem: why it is not even opened; empty for nearly all.
    """

    path: str
    truth: str | None = None
    named: bool = True
    problem: str = ""


class Listing:
    """The files, each once and in order, kept in a temporary database on disk, which ends with the process.

    Attributes:
        junk: how many files were passed over, by kind, which systems leave beside images.
        hidden: how many pictures with names that begin with a dot, which are not taken.
    """

    def __init__(self, labels: Collection[str]) -> None:
        """Start empty; `labels` are those of the model."""
        self._labels = {unicodedata.normalize("NFC", label): label for label in labels}
        self._files = sqlite3.connect("")  # SQLite's own temporary file, which no other process can open
        self._files.execute("CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT UNIQUE, truth, named, problem)")
        self.junk: Counter[str] = Counter()
        self.hidden = 0

    def add(self, sources: Sequence[str]) -> Iterator[int]:
        """Find the files of all sources; yields now and then how many there are so far.

        Raises:
            UsageError: a source that is not there.
            ArtifactError: a folder or a list that cannot be read.
            IncompatibleError: a URI without the package that reads it.
        """
        for number, file in enumerate(self._found(sources), 1):
            shown = readable(file.path)
            kept = file if shown == file.path else file._replace(path=shown, problem=_NOT_UTF8)
            self._files.execute("INSERT OR IGNORE INTO files (path, truth, named, problem) VALUES (?, ?, ?, ?)", kept)
            if number % _PAGE == 0:
                yield number
        yield len(self)

    def __len__(self) -> int:
        """How many have no row yet."""
        (count,) = self._files.execute("SELECT count(*) FROM files").fetchone()
        return int(count)

    def __iter__(self) -> Iterator[File]:
        """Those that have no row yet."""
        last = 0
        while page := self._files.execute(
            "SELECT id, path, truth, named, problem FROM files WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE)
        ).fetchall():
            for _, path, truth, named, problem in page:
                yield File(path, truth, bool(named), problem)
            last = page[-1][0]

    def take(self, path: str) -> bool:
        """Whether this path is waiting for its row; from now on it is not."""
        return self._files.execute("DELETE FROM files WHERE path = ?", (path,)).rowcount == 1

    def _found(self, sources: Sequence[str]) -> Iterator[File]:
        for source in sources:
            if source == "-":
                yield from _lines(sys.stdin.buffer)
            elif remote.is_uri(source):
                yield from self._below_uri(source)
            elif Path(source).is_dir():
                yield from self._below(source)
            elif Path(source).is_file() and Path(source).suffix.lower() == ".txt":
                with Path(source).open("rb") as stream:
                    yield from _lines(stream)
            elif Path(source).is_file():
                yield File(source)
            elif glob.has_magic(source):
                yield from self._matching(source)
            else:
                raise UsageError(f"{source} does not exist: {_WAYS}")

    def _below(self, folder: str, prefix: str = "") -> Iterator[File]:
        """All files below a folder; `prefix` are folders above it that may tell the label."""
        for found in walk(Path(folder)):
            path = str(PurePosixPath(folder, found.path))
            if found.kind == "junk":
                self.junk[found.path] += found.files
            elif found.kind == "hidden":
                self._pass_over_hidden(Path(path))
            elif found.kind != "folder":
                yield File(path, self._truth(f"{prefix}{found.path}"), named=False)

    def _matching(self, pattern: str) -> Iterator[File]:
        literal = re.split(r"[*?[]", pattern)[0].rpartition("/")[0]
        count = 0
        # Path.glob knows no patterns that begin with a slash.
        for count, match in enumerate(glob.iglob(pattern, recursive=True), 1):  # noqa: B007, PTH207
            below = match.removeprefix(literal).lstrip("/")
            name = PurePosixPath(match).name
            if Path(match).is_dir():
                # With ** every file inside matches too, and is taken once all the same.
                yield from self._below(match, f"{below}/")
            elif (junk := junk_file(name)) is not None:
                self.junk[junk] += 1
            else:
                yield File(match, self._truth(below), named=False)
        if not count:
            raise UsageError(f"{pattern} matches nothing: {_WAYS}")

    def _below_uri(self, uri: str) -> Iterator[File]:
        for path, below in remote.files_below(uri):
            *folders, name = PurePosixPath(below or path).parts
            if below and (junk := next(filter(is_junk_folder, folders), "")):
                self.junk[f"{junk}/"] += 1
            elif (kind := junk_file(name)) is not None:
                self.junk[kind] += 1
            else:
                yield File(path, self._truth(below), named=not below)

    def _truth(self, below: str) -> str | None:
        """The label that the outermost of a file's folders is named by, where one is."""
        for folder in PurePosixPath(below).parts[:-1]:
            if (label := self._labels.get(unicodedata.normalize("NFC", folder))) is not None:
                return label
        return None

    def _pass_over_hidden(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError:
            head = b""
        if is_picture(path.name, head):
            self.hidden += 1
        else:
            self.junk["hidden files"] += 1

    def passed_over(self) -> list[str]:
        """Sentences on what was not taken."""
        told = [f"{count} {kind}" for kind, count in sorted(self.junk.items())]
        said = [f"passed over what systems leave beside images: {', '.join(told)}"] if told else []
        return [*said, *([f"not taken: {self.hidden} hidden pictures; {_HIDDEN}"] if self.hidden else [])]


def _lines(stream: BinaryIO) -> Iterator[File]:
    """Paths, one a line; each gets a row, also where nothing is there."""
    for line in stream:
        path = os.fsdecode(line.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n"))
        if path:
            yield File(path)
