"""Which files a data set folder holds and which class each belongs to; no image is opened here.

Three layouts are known: Meta-Album (`labels.csv` with FILE_NAME and CATEGORY, images below `images/`, an optional
`info.json`), one folder per class, and such folders inside `train/`, `val/` and `test/`.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rrrnet.data.folder_tree import Tree, readable, scan
from rrrnet.data.labels_csv import IMAGES, LABELS, SPLIT_COLUMN, Row, part_named, read_columns, read_labels
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.names import check_labels

INFO = "info.json"
_EXPECTED = f"expected {LABELS} (columns FILE_NAME, CATEGORY) beside {IMAGES}/, or one folder of images per class"


@dataclass(frozen=True)
class Listing:
    """The files a data set claims to have.

    Attributes:
        name: `dataset_name` of info.json, else the folder's name.
        files: relative to the data set's root, posix; a listed file need not exist, nor be an image.
        labels: class index of each file.
        classes: class names; order of first appearance in labels.csv, or sorted folder names, empty folders too.
        parts: "train", "val" or "test" by file, where the data set has a split of its own; else empty.
        parts_from: what says so, for people; "" for nothing.
        groups: by file, the cell of the column that was asked for.
        others: files that no row and no class folder holds; `others_kind` says which of these two.
        tree: all that lies there.
        notes: sentences on classes that may be meant otherwise than they were read.
        test_fraction: of each class, for testing, where neither the data set nor the user says otherwise.
    """

    name: str
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    parts: Mapping[str, str]
    parts_from: str
    groups: Mapping[str, str]
    others: tuple[str, ...]
    others_kind: Literal["not listed", "without a class"]
    tree: Tree
    notes: tuple[str, ...]
    test_fraction: float


@dataclass(frozen=True)
class _Layout:
    """What a layout gives: rows, class folders that may be empty, and where its parts come from."""

    rows: list[Row]
    others_kind: Literal["not listed", "without a class"]
    folders: tuple[str, ...] = ()
    parts_from: str = ""
    described: frozenset[str] = field(default_factory=frozenset)
    notes: tuple[str, ...] = ()


def list_files(root: Path, *, groups: str | None = None, least_classes: int = 2) -> Listing:
    """Find out the layout of `root` and list its files.

    Args:
        root: the folder.
        groups: a column of labels.csv whose cells tell which images belong together.
        least_classes: fewer are refused.

    Raises:
        ArtifactError: `root` is no data set, or its labels.csv, info.json or a class's name cannot be used.
        UsageError: there is no column `groups`.
    """
    place = str(root.absolute())
    if readable(place) != place:
        raise ArtifactError(f"{readable(place)} is a name that is not UTF-8: rename the folder, then give its new name")
    if not root.exists():
        raise ArtifactError(f"{root} does not exist: give the folder of a data set, or make one with rrr data glyphs")
    if not root.is_dir():
        raise ArtifactError(f"{root} is not a folder: a data set is a folder; {_EXPECTED}")
    if not any(root.iterdir()):
        raise ArtifactError(f"{root} is empty: {_EXPECTED}; rrr data glyphs {root} makes one")
    info, tree = _read_info(root / INFO), scan(root)
    table = _table_of(tree)
    if (root / table).exists():
        rows = read_labels(root / table, tree, info, groups)
        given = f"the column {SPLIT_COLUMN} of {LABELS}" if any(row.part for row in rows) else ""
        layout = _Layout(rows, "not listed", parts_from=given, described=frozenset((table, INFO)))
    elif groups is not None:
        raise UsageError(f"--groups {groups} names a column of {LABELS}, and {root} has no {LABELS}: {_EXPECTED}")
    else:
        layout = _from_folders(root, tree)
    rows, twins = _merge_twins(layout.rows)
    classes = tuple(dict.fromkeys(row.category for row in rows))
    if layout.others_kind == "without a class":
        known = {unicodedata.normalize("NFC", name) for name in classes}
        empty = {name for name in layout.folders if unicodedata.normalize("NFC", name) not in known}
        classes = tuple(sorted((*classes, *empty)))
    check_labels(classes, str(root))
    if len(classes) < least_classes:
        raise ArtifactError(_one_class(root, classes[0], tree))
    index = {category: position for position, category in enumerate(classes)}
    listed = {row.file for row in rows} | layout.described
    name = info.get("dataset_name")
    return Listing(
        name=name if isinstance(name, str) and name else root.resolve().name,
        files=tuple(row.file for row in rows),
        labels=tuple(index[row.category] for row in rows),
        classes=classes,
        parts={row.file: row.part for row in rows if row.part},
        parts_from=layout.parts_from,
        groups={row.file: row.group for row in rows if row.group},
        others=tuple(file for file in tree.files if file not in listed),
        others_kind=layout.others_kind,
        tree=tree,
        notes=(*layout.notes, *twins, *_case_note(classes)),
        test_fraction=0.2 if layout.parts_from or layout.others_kind == "without a class" else 0.5,
    )


def list_columns(root: Path) -> dict[str, dict[str, str]]:
    """What labels.csv of a data set says of each file beside its class and part: cell by column and file.

    Empty where there is no labels.csv, or nothing else in it.

    Raises:
        ArtifactError: it cannot be read.
    """
    tree = scan(root)
    table = root / _table_of(tree)
    return read_columns(table, tree, _read_info(root / INFO)) if table.exists() else {}


def _table_of(tree: Tree) -> str:
    """What labels.csv is called there."""
    return next((file for file in tree.files if file.casefold() == LABELS), LABELS)


def _one_class(root: Path, name: str, tree: Tree) -> str:
    """What to say of a data set with one class: perhaps the classes lie one folder deeper."""
    inner = tree.children(name)
    deeper = f"; it holds folders ({', '.join(inner[:3])}): perhaps give --data {root / name}" if len(inner) > 1 else ""
    return f"{root} has one class only ({name}): a classifier needs images of at least 2; {_EXPECTED}{deeper}"


def _merge_twins(rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """Class names that look equal, one with composed accents (NFC), one with decomposed (NFD), are one class; told."""
    names: dict[str, list[str]] = {}
    for category in dict.fromkeys(row.category for row in rows):
        names.setdefault(unicodedata.normalize("NFC", category), []).append(category)
    twins = {alike: composed for composed, found in names.items() if len(found) > 1 for alike in found}
    counts = Counter(twins[row.category] for row in rows if row.category in twins)
    notes = tuple(
        f"class {name}: its name is written in {len(names[name])} ways that look equal (accents composed, NFC, and "
        f"decomposed, NFD): taken as one class of {count} files"
        for name, count in counts.items()
    )
    merged = [row._replace(category=twins.get(row.category, row.category)) for row in rows]
    order = {name: index for index, name in enumerate(dict.fromkeys(row.category for row in merged))}
    return sorted(merged, key=lambda row: order[row.category]) if notes else merged, notes


def _case_note(classes: tuple[str, ...]) -> tuple[str, ...]:
    """A note on classes that differ in case alone, as of tables typed by hand; single letters are meant so."""
    names: dict[str, list[str]] = {}
    for name in classes:
        names.setdefault(name.casefold(), []).append(name)
    alike = [" and ".join(found) for found in names.values() if len(found) > 1 and len(found[0]) > 1]
    more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
    told = f"note: classes that differ in upper and lower case alone: {', '.join(alike[:3])}{more}"
    return (f"{told}; if they are one, write it in one way",) if alike else ()


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


def _from_folders(root: Path, tree: Tree) -> _Layout:
    """One folder per class, or such folders in those of parts; either may lie one level down in images/."""
    base, tops = "", tree.children("")
    if tops == (IMAGES,):
        base, tops = f"{IMAGES}/", tree.children(IMAGES)
        if not tops:
            raise ArtifactError(f"{root} has {IMAGES}/ but no {LABELS}, so no image has a class: {_EXPECTED}")
    if not tops:
        raise ArtifactError(f"{root} has neither {LABELS} nor folders: {_EXPECTED}")
    parts = _part_folders(root, base, tops, tree)
    places = {f"{base}{top}/{name}/": (name, part) for top, part in parts.items() for name in tree.children(base + top)}
    places = places or {f"{base}{top}/": (top, "") for top in tops}
    for name, _ in places.values():
        if readable(name) != name:
            raise ArtifactError(
                f"{root}: the class folder {readable(name)} has a name that is not UTF-8: rename it, "
                f"e.g. convmv -r -f latin1 -t utf8 --notest {root}"
            )
    rows = []
    for file in tree.files:
        depth = base.count("/") + (2 if parts else 1)
        place = "/".join(file.split("/")[:depth]) + "/"
        if place in places and place != f"{file}/":
            rows.append(Row(file, *places[place]))
    rows.sort(key=lambda row: row.category)  # by class first, so that any part can be taken from evenly
    folders = tuple(name for name, _ in places.values())
    order = sorted(parts, key=lambda top: ("train", "val", "test").index(parts[top]))
    given = f"the folders {', '.join(f'{top}/' for top in order)}" if parts else ""
    return _Layout(rows, "without a class", folders, given, notes=_deeper_classes(root, rows, tuple(places)))


def _deeper_classes(root: Path, rows: list[Row], places: tuple[str, ...]) -> tuple[str, ...]:
    """A note where all files of a class folder lie in two or more folders inside it, which may be the classes meant."""
    inner: dict[str, set[str]] = {place: set() for place in places}
    for row in rows:
        place = next(found for found in _prefixes(row.file) if found in inner)
        folder, slash, _ = row.file.removeprefix(place).partition("/")
        inner[place].add(folder if slash else "")
    return tuple(
        f"note: all images of {place} lie in folders inside it ({', '.join(sorted(found)[:3])}) and are taken as one "
        f"class; if those are the classes, give --data {root / place}"
        for place, found in inner.items()
        if len(found) > 1 and "" not in found
    )


def _prefixes(file: str) -> Iterator[str]:
    """All folders around a file, each with a slash behind it."""
    return (file[: index + 1] for index, letter in enumerate(file) if letter == "/")


def _part_folders(root: Path, base: str, tops: tuple[str, ...], tree: Tree) -> dict[str, str]:
    """The part of each folder called train, val, test or the like; empty where these are classes or there are none."""
    parts = {top: part for top in tops if (part := part_named(top)) is not None}
    with_classes = {top: part for top, part in parts.items() if tree.children(base + top)}
    trained = "train" in with_classes.values()
    if len(parts) == len(tops) > 1 and not trained:
        raise ArtifactError(
            f"{root}: {', '.join(f'{top}/' for top in tops)} are taken for the parts of a split, but no folder of "
            f"classes lies in that for training, so no image has a class: expected train/CLASS/IMAGE, or {LABELS}"
        )
    return with_classes if trained and (len(parts) == len(tops) or len(with_classes) > 1) else {}
