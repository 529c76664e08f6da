"""Which files a data set folder holds and which class each belongs to; no image is opened here.

Two layouts are known: Meta-Album (`labels.csv` with FILE_NAME and CATEGORY, images below `images/`, an optional
`info.json`) and one folder per class.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rrrnet.errors import ArtifactError

LABELS = "labels.csv"
INFO = "info.json"
IMAGES = "images"
# The last four cannot be decoded, but must be reported as broken rather than overlooked.
_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_EXPECTED = f"expected {LABELS} (columns FILE_NAME, CATEGORY) beside {IMAGES}/, or one folder of images per class"


@dataclass(frozen=True)
class Listing:
    """The files a data set claims to have.

    Attributes:
        name: `dataset_name` of info.json, else the folder's name.
        files: relative to the data set's root, posix; a listed file need not exist.
        labels: class index of each file.
        classes: class names; order of first appearance in labels.csv, or sorted folder names.
    """

    name: str
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def list_files(root: Path) -> Listing:
    """Find out the layout of `root` and list its files.

    Raises:
        ArtifactError: `root` is no data set, or its labels.csv or info.json cannot be used.
    """
    if not root.exists():
        raise ArtifactError(f"{root} does not exist: give the folder of a data set, or make one with rrr data glyphs")
    if not root.is_dir():
        raise ArtifactError(f"{root} is not a folder: a data set is a folder; {_EXPECTED}")
    if not any(root.iterdir()):
        raise ArtifactError(f"{root} is empty: {_EXPECTED}; rrr data glyphs {root} makes one")
    info = _read_info(root / INFO)
    pairs = _from_table(root, info) if (root / LABELS).exists() else _from_folders(root)
    classes = tuple(dict.fromkeys(category for _, category in pairs))
    if len(classes) < 2:
        raise ArtifactError(
            f"{root} has one class only ({classes[0]}): a classifier needs images of at least 2; {_EXPECTED}"
        )
    index = {category: position for position, category in enumerate(classes)}
    name = info.get("dataset_name")
    return Listing(
        name=name if isinstance(name, str) and name else root.resolve().name,
        files=tuple(file for file, _ in pairs),
        labels=tuple(index[category] for _, category in pairs),
        classes=classes,
    )


def _read_info(path: Path) -> dict[str, Any]:
    """The optional info.json; an empty dict where there is none."""
    if not path.exists():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON ({error}): mend it or remove it, it is optional") from error
    if not isinstance(info, dict):
        raise ArtifactError(
            f"{path} holds a {type(info).__name__}, not an object: mend it or remove it, it is optional"
        )
    return info


def _from_table(root: Path, info: dict[str, Any]) -> list[tuple[str, str]]:
    """(file, category) of each row of labels.csv; info.json may rename the two columns."""
    path = root / LABELS
    file_column = str(info.get("image_column_name", "FILE_NAME"))
    category_column = str(info.get("category_column_name", "CATEGORY"))
    pairs: list[tuple[str, str]] = []
    lines: dict[str, int] = {}
    for line, row in _read_rows(path, (file_column, category_column)):
        listed, category = (row[column] or "" for column in (file_column, category_column))
        if not listed.strip() or not category.strip():
            empty = category_column if listed.strip() else file_column
            raise ArtifactError(f"{path} line {line}: {empty} is empty; give every row a file and a class")
        file = _locate(root, listed.strip(), f"{path} line {line}")
        if file in lines:
            raise ArtifactError(
                f"{path} lists {listed} twice (lines {lines[file]} and {line}): remove one of them, "
                "or it could be trained on and tested on at once"
            )
        lines[file] = line
        pairs.append((file, category.strip()))
    if not pairs:
        raise ArtifactError(f"{path} has a header but no rows: list every image in it, or remove it")
    return pairs


def _read_rows(path: Path, columns: tuple[str, str]) -> list[tuple[int, dict[str, str | None]]]:
    """(line number, row) of a csv file that must have `columns`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            missing = [column for column in columns if column not in header]
            if missing:
                found = ", ".join(header) or "none"
                raise ArtifactError(f"{path} lacks the column {' and '.join(missing)}: its columns are {found}")
            return [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path} is not a UTF-8 csv file ({error}): save it again as UTF-8") from error
    except IsADirectoryError as error:
        raise ArtifactError(f"{path} is a folder, not a csv file; {_EXPECTED}") from error


def _locate(root: Path, listed: str, where: str) -> str:
    """Path relative to `root` of a file as labels.csv lists it: below images/, else beside labels.csv.

    Only the listed text may not leave the root; a symbolic link in the folder is its owner's business.
    """
    relative = PurePosixPath(listed)
    if relative.is_absolute() or ".." in relative.parts or "\0" in listed:
        raise ArtifactError(f"{where}: {listed!r} leads out of the data set; list files relative to {root / IMAGES}")
    below_images = PurePosixPath(IMAGES) / relative
    try:
        beside = not (root / below_images).exists() and (root / relative).exists()
    except OSError as error:  # e.g. a name longer than the file system takes
        raise ArtifactError(f"{where}: {listed[:80]!r} cannot be a file ({error.strerror})") from error
    return (relative if beside else below_images).as_posix()


def _from_folders(root: Path) -> list[tuple[str, str]]:
    """(file, class folder's name) for one folder per class, also if these lie one level down in images/."""
    folders = _subfolders(root)
    if [folder.name for folder in folders] == [IMAGES]:
        if not _subfolders(folders[0]):
            raise ArtifactError(f"{root} has {IMAGES}/ but no {LABELS}, so no image has a class: {_EXPECTED}")
        folders = _subfolders(folders[0])
    if not folders:
        raise ArtifactError(f"{root} has neither {LABELS} nor folders: {_EXPECTED}")
    pairs = []
    for folder in folders:
        images = _images_in(folder) or _images_in(folder / IMAGES)
        if not images:
            nested = ", ".join(path.name for path in _subfolders(folder)[:3])
            hint = f"it holds folders ({nested}); perhaps give --data {folder}" if nested else "remove it or fill it"
            raise ArtifactError(f"the class folder {folder} holds no images: {hint}")
        pairs += [(image.relative_to(root).as_posix(), folder.name) for image in images]
    return pairs


def _subfolders(folder: Path) -> list[Path]:
    """Sorted folders below `folder`, without hidden ones and what archivers leave (`__MACOSX`)."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _images_in(folder: Path) -> list[Path]:
    """Sorted files in `folder` that are named like images; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.name[0] != ".")
