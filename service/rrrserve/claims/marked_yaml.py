"""YAML whose every value remembers its line, so that an error can name it. Nothing is executed, nothing is guessed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rrrnet.errors import ArtifactError

MAX_BYTES = 1 << 20
_MAX_DEPTH = 20

# What PyYAML raises for a date as 2026-13-45, or for `!!float ""`, `!!bool maybe` and `!!timestamp x`.
_UNREADABLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
# YAML 1.1 counts 1:30 in sixties, and 010 in eights.
_SURPRISING = re.compile(r"[-+]?(?:[0-9][0-9_]*(?::.*)|0[0-7_]+)")

# Where a value stands: keys and indices from the root of the document.
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class MarkedDocument:
    """A YAML document.

    Attributes:
        path: the file.
        value: what it holds: dicts, lists and scalars.
        lines: line of each value, from 1, by its place; a mapping's entry has the line of its key.
    """

    path: Path
    value: Any
    lines: dict[Place, int]

    def line_of(self, place: Place) -> int:
        """The line of a place, or of what is nearest around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def error(self, place: Place, message: str) -> ArtifactError:
        """An error that begins with FILE:LINE."""
        return ArtifactError(f"{self.path}:{self.line_of(place)}: {message}")


def read_marked(path: Path) -> MarkedDocument:
    """Read a YAML file with its lines.

    Raises:
        ArtifactError: no such file, too large, not UTF-8, not YAML, a key twice, or an alias; names the line.
    """
    try:
        size_bytes = path.stat().st_size
        data = path.read_bytes() if path.is_file() and size_bytes <= MAX_BYTES else b""
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file: expected claims in YAML")
    if size_bytes > MAX_BYTES:
        raise ArtifactError(f"{path} has {size_bytes} bytes: a file of claims has at most {MAX_BYTES}")
    try:
        loader = yaml.SafeLoader(data.decode())
        root = loader.get_single_node()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ArtifactError(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise ArtifactError(f"{path}:{line}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path}:1: not YAML: {reason}") from error
    except RecursionError as error:
        raise ArtifactError(f"{path}:1: nested deeper than {_MAX_DEPTH} levels") from error
    document = MarkedDocument(path, None, {})
    if root is None:
        raise ArtifactError(f"{path}:1: the file is empty: expected version and claims (docs/claims.md)")
    value = _Builder(loader, document).build(root, ())
    return MarkedDocument(path, value, document.lines)


def _shown(node: yaml.Node) -> str:
    return f"{node.value!r:.60}"


class _Builder:
    """Turns nodes into values and writes down their lines."""

    def __init__(self, loader: yaml.SafeLoader, document: MarkedDocument) -> None:
        self._loader = loader
        self._document = document
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, place: Place) -> Any:
        """The value of a node."""
        self._document.lines.setdefault(place, node.start_mark.line + 1)
        if len(place) > _MAX_DEPTH:
            raise self._document.error(place, f"nested deeper than {_MAX_DEPTH} levels")
        if id(node) in self._seen:  # ten aliases of aliases make a document of gigabytes
            raise self._document.error(place, "an alias (*name) is not read here: write the value out")
        self._seen.add(id(node))
        if node.tag not in yaml.SafeLoader.yaml_constructors:  # !!python/object, say
            raise self._document.error(place, f"the tag {node.tag} is not allowed here")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*place, index)) for index, item in enumerate(node.value)]
        try:
            value = self._loader.construct_object(node)
        except _UNREADABLE as error:
            raise self._document.error(place, f"{_shown(node)} cannot be read as {node.tag}") from error
        if type(value) in (int, float) and _SURPRISING.fullmatch(node.value):
            raise self._document.error(
                place,
                f"YAML reads {_shown(node)} as {value}: write the number that is meant in decimal digits, or a word in "
                "quotes",
            )
        return value

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                self._document.lines[*place, "?"] = key_node.start_mark.line + 1
                raise self._document.error((*place, "?"), "a key must be a word")
            line = key_node.start_mark.line + 1
            if key in values:
                first = self._document.lines[*place, key]
                self._document.lines[*place, key] = line
                raise self._document.error((*place, key), f"{key!r} is given twice, first in line {first}")
            self._document.lines[*place, key] = line
            values[key] = self.build(value_node, (*place, key))
        return values
