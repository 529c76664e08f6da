"""All files below a data set's folder by name: what may be an image, what is junk. Nothing is opened here."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rrrnet.data.file_kinds import is_junk_folder, junk_file
from rrrnet.errors import ArtifactError


@dataclass(frozen=True)
class Tree:
    """What lies below a folder; paths are relative to it, posix, sorted by their parts.

    Attributes:
        files: all files that are not junk and not hidden.
        folders: all folders that are not junk.
        hidden: files whose names begin with a dot, but are not known as junk.
        unnamed: files whose names are not UTF-8, as `readable` writes them.
        junk: how many files of each kind of junk; all files of a junk folder count as NAME/.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    hidden: tuple[str, ...]
    unnamed: tuple[str, ...]
    junk: Mapping[str, int]

    def children(self, folder: str) -> tuple[str, ...]:
        """Names of the folders directly in `folder` ("" is the root)."""
        return tuple(path.name for path in map(PurePosixPath, self.folders) if path.parent == PurePosixPath(folder))


def readable(name: str) -> str:
    r"""A name that can be printed and recorded: bytes that are no UTF-8 are written `\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def scan(root: Path) -> Tree:
    """List what lies below `root`, links followed.

    Raises:
        ArtifactError: a folder cannot be read.
    """
    found = _Found()
    _scan(root, "", frozenset(), found)
    return Tree(
        files=_sorted(found.files),
        folders=_sorted(found.folders),
        hidden=_sorted(found.hidden),
        unnamed=tuple(sorted(map(readable, found.unnamed))),
        junk=dict(sorted(found.junk.items())),
    )


@dataclass
class _Found:
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    junk: Counter[str] = field(default_factory=Counter)


def _scan(folder: Path, relative: str, above: frozenset[tuple[int, int]], found: _Found) -> None:
    """Add what lies in `folder`; `above` are the folders around it, so that a link to one of them does not loop."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            listed = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise ArtifactError(f"the folder {readable(str(folder))} cannot be read ({error.strerror})") from error
    above |= {(status.st_dev, status.st_ino)}
    for name, is_folder in listed:
        path = f"{relative}{name}"
        if is_folder and is_junk_folder(name):
            found.junk[f"{readable(name)}/"] += sum(len(files) for _, _, files in os.walk(folder / name))
        elif is_folder:
            found.folders.append(path)
            _scan(folder / name, f"{path}/", above, found)
        elif (junk := junk_file(name)) is not None:
            found.junk[junk] += 1
        elif readable(path) != path:
            found.unnamed.append(path)
        else:
            (found.hidden if name.startswith(".") else found.files).append(path)


def _sorted(paths: list[str]) -> tuple[str, ...]:
    return tuple(sorted(paths, key=lambda path: path.split("/")))
