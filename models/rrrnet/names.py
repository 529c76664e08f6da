"""Which names are allowed, checked where they are given: Triton, URLs, metrics and terminals take them as they are."""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

from rrrnet.errors import ArtifactError, UsageError

_MOST_LETTERS = 64
_MODEL_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_MOST_LETTERS - 1}}}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_ALLOWED = f"letters, digits, '.', '_' and '-' are allowed, at most {_MOST_LETTERS}; all of ASCII, and no sign first"
# Control characters, halves of pairs (bytes that were no UTF-8), and separators of lines and paragraphs.
_NEVER_TEXT = ("Cc", "Cs", "Zl", "Zp")


def check_model_name(name: str, *, remedy: Callable[[str], str]) -> None:
    """Refuse what Triton, a URL or a metric could not hold as a model's name.

    Args:
        name: 1 to 64 ASCII letters, digits, dots, underscores and hyphens, if it is allowed.
        remedy: makes the words on what to give instead from a name that is allowed.

    Raises:
        UsageError: says what is allowed, and the remedy.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a model's name: {_ALLOWED}; {remedy(allowed_name(name))}")


def name_and_version(name: str) -> tuple[str, str]:
    """The parts of `NAME@VERSION`, a whole number from 1, as one of several versions of a model is served; else "1".

    Raises:
        UsageError: what stands behind the @ is no version.
    """
    base, at, version = name.partition("@")
    if at and not _VERSION.fullmatch(version):
        raise UsageError(f"{name!r}: a version is a whole number from 1, as in {allowed_name(base)}@2")
    return base, version or "1"


def allowed_name(name: str) -> str:
    """The allowed model name that is nearest to another: accents go, and a hyphen stands for whatever else."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._")[:_MOST_LETTERS].rstrip("-._") or "model"


def is_text(name: str) -> bool:
    """Whether a label or a claim's name is one line of text that terminals, CSV, XML and JSON can hold."""
    return not any(unicodedata.category(letter) in _NEVER_TEXT for letter in name)


def text_of(name: str) -> str:
    """The same with a space in the place of each letter that is none."""
    return " ".join("".join(letter if is_text(letter) else " " for letter in name).split())


def spelled_as(names: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Names as `known` spells them, where they differ in how accents are written alone (composed or not), none twice.

    Where one system wrote a folder and another a file of labels, equal names differ so.
    """
    composed = {unicodedata.normalize("NFC", name): name for name in known}
    spelled = tuple(name if name in known else composed.get(unicodedata.normalize("NFC", name), name) for name in names)
    return spelled if len(set(spelled)) == len(set(names)) else tuple(names)


def check_labels(labels: tuple[str, ...], source: str) -> None:
    """Refuse class names with line breaks or other control characters.

    Args:
        labels: the names.
        source: where they were given, for the message.

    Raises:
        ArtifactError: names the first one that is refused, and what it might be.
    """
    for label in labels:
        if not is_text(label):
            raise ArtifactError(
                f"{source}: {label!r} cannot be a label: allowed is a line of text without control characters; "
                f"rename it, e.g. to {text_of(label)!r}"
            )
