"""`--labels FILE`: the classes in the order of a network's outputs, where no folder can tell it."""

import json
from dataclasses import replace
from pathlib import Path

from rrrnet.data.dataset import ImageSet
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.names import check_labels, spelled_as

_FORM = "one label a line, or a JSON list of them"


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels in `path`: UTF-8, one a line, or a JSON list of strings.

    Raises:
        UsageError: no such file.
        ArtifactError: not text, a blank line, a label that comes twice or holds control characters, or fewer than two.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"--labels {path} is not UTF-8 (byte {error.start}): save it as UTF-8, {_FORM}") from error
    except OSError as error:
        raise UsageError(f"--labels {path} cannot be read ({error.strerror}): give a file, {_FORM}") from error
    if text.lstrip().startswith(("[", "{")):
        labels = _json_list(path, text)
    else:
        labels = [line.strip() for line in text.rstrip("\r\n").split("\n")]
    first: dict[str, int] = {}
    for number, label in enumerate(labels, 1):
        if not label:
            raise ArtifactError(f"--labels {path}: line {number} is blank: {_FORM}")
        if label in first:
            raise ArtifactError(f"--labels {path}: {label!r} is in line {first[label]} and again in line {number}")
        first[label] = number
    if len(labels) < 2:
        raise ArtifactError(f"--labels {path} holds {len(labels)} label: at least 2 are needed, {_FORM}")
    check_labels(tuple(labels), f"--labels {path}")
    return tuple(labels)


def _json_list(path: Path, text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"--labels {path} begins like JSON, but cannot be read ({error}): give {_FORM}") from error
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise ArtifactError(f"--labels {path} is JSON, but no list of strings: give {_FORM}")
    return [label.strip() for label in found]


def in_order(images: ImageSet, labels: tuple[str, ...], source: str) -> ImageSet:
    """The same images with their classes in the order of `labels`; accents as the data have them.

    Raises:
        ArtifactError: the classes are others; names the first on either side.
    """
    labels = spelled_as(labels, images.classes)
    more, less = (sorted(set(one) - set(other)) for one, other in ((images.classes, labels), (labels, images.classes)))
    if more or less:
        parts = [
            f"{what} {', '.join(repr(name) for name in names[:3])}"
            + (f" and {len(names) - 3} more" if names[3:] else "")
            for what, names in ((f"only {images.root} has", more), (f"only {source} has", less))
            if names
        ]
        counts = f"{len(labels)} labels, and the data {len(images.classes)} classes"
        raise ArtifactError(f"{source} has {counts}: {'; '.join(parts)}; both must be the same")
    place = [labels.index(name) for name in images.classes]
    return replace(images, labels=tuple(place[index] for index in images.labels), classes=labels)
