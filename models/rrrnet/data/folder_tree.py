"""All files below a data set's folder by name: what may be an image, what is junk. Nothing is opened here."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

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
    paths: dict[str, list[str]] = {"file": [], "folder": [], "hidden": [], "unnamed": []}
    junk: Counter[str] = Counter()
    for found in walk(root):
        if found.kind == "junk":
            junk[found.path] += found.files
        else:
            paths[found.kind].append(found.path)
    return Tree(
        files=_sorted(paths["file"]),
        folders=_sorted(paths["folder"]),
        hidden=_sorted(paths["hidden"]),
        unnamed=tuple(sorted(map(readable, paths["unnamed"]))),
        junk=dict(sorted(junk.items())),
    )


class Found(NamedTuple):
    """Something below a folder: what it is, its path relative to the folder, and how many files it counts for."""

    kind: Literal["file", "folder", "hidden", "unnamed", "junk"]
    path: str
    files: int = 1


def walk(root: Path) -> Iterator[Found]:
    """What lies below `root`, links followed, one at a time in the order of their parts; of junk the name it counts by.

    Raises:
        ArtifactError: a folder cannot be read.
    """
    return _walk(root, "", frozenset())


def _walk(folder: Path, relative: str, above: frozenset[tuple[int, int]]) -> Iterator[Found]:
    """See `walk`; `above` are the folders around this one, so that a link to one of them does not loop."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            listed = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError as error:
        raise ArtifactError(f"the folder {readable(str(folder))} cannot be read ({error.strerror})") from error
    above |= {(status.st_dev, status.st_ino)}
    for name, is_folder in listed:
        path = f"{relative}{name}"
        if is_folder and is_junk_folder(name):
            yield Found("junk", f"{readable(name)}/", sum(len(files) for _, _, files in os.walk(folder / name)))
        elif is_folder:
            yield Found("folder", path)
            yield from _walk(folder / name, f"{path}/", above)
        elif (junk := junk_file(name)) is not None:
            yield Found("junk", junk)
        elif readable(path) != path:
            yield Found("unnamed", path)
        else:
            yield Found("hidden" if name.startswith(".") else "file", path)


def _sorted(paths: list[str]) -> tuple[str, ...]:
    return tuple(sorted(paths, key=lambda path: path.split("/")))
