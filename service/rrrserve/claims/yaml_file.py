"""YAML 1.2 whose every value remembers its line, so that an error can name it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node

from rrrnet.errors import ArtifactError

MAX_BYTES = 1 << 20

# Where a value stands: keys and indices from the root of the document.
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlFile:
    """A YAML document: dicts, lists and scalars of a file."""

    path: Path
    value: Any

    def line_of(self, place: Place) -> int:
        """The line of a place, or of what is nearest around it, from 1; a mapping's entry has that of its key."""
        line, value = 0, self.value
        for part in place:
            if isinstance(value, CommentedMap) and part in value:
                line = value.lc.key(part)[0]
            elif isinstance(value, CommentedSeq) and isinstance(part, int) and part < len(value):
                line = value.lc.item(part)[0]
            else:
                break
            value = value[part]
        return line + 1

    def error(self, place: Place, message: str) -> ArtifactError:
        """An error that begins with FILE:LINE."""
        return ArtifactError(f"{self.path}:{self.line_of(place)}: {message}")


class _Composer(Composer):
    def compose_node(self, parent: Any, index: int) -> Any:
        if self.parser.check_event(AliasEvent):  # ten aliases of aliases make a document of gigabytes
            problem = "an alias (*name) is not read here: write the value out"
            raise ConstructorError(None, None, problem, self.parser.peek_event().start_mark)
        return super().compose_node(parent, index)


class _Constructor(RoundTripConstructor):
    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if node.tag not in self.yaml_constructors:  # !!python/object, say
            raise ConstructorError(None, None, f"the tag {node.tag} is not allowed here", node.start_mark)
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if key.tag != "tag:yaml.org,2002:str":
                raise ConstructorError(None, None, "a key must be a word", key.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # 2026-13-45, !!float ""
            problem = f"{node.value!r:.60} cannot be read as {node.tag}"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML file with its lines.

    Raises:
        ArtifactError: no such file, too large, not UTF-8, not YAML, a key twice, or an alias; names the line.
    """
    try:
        size_bytes = path.stat().st_size
        data = path.read_bytes() if path.is_file() and size_bytes <= MAX_BYTES else b""
    except OSError as error:
        remedy = "; rrr claims init writes a file of claims" if isinstance(error, FileNotFoundError) else ""
        raise ArtifactError(f"{path} cannot be read: {error.strerror}{remedy}") from error
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file: expected claims in YAML")
    if size_bytes > MAX_BYTES:
        raise ArtifactError(f"{path} has {size_bytes} bytes: a file of claims has at most {MAX_BYTES}")
    reader = YAML(pure=True)  # its constructor makes words, numbers, lists and dicts, and nothing else
    reader.Composer, reader.Constructor = _Composer, _Constructor
    try:
        value = reader.load(data.decode())
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ArtifactError(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        ours = isinstance(error, ConstructorError | DuplicateKeyError)
        raise ArtifactError(f"{path}:{line}: {'' if ours else 'not YAML: '}{error.problem or error.context}") from error
    except YAMLError as error:
        raise ArtifactError(f"{path}:1: not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ArtifactError(f"{path}:1: nested too deeply") from error
    if value is None:
        raise ArtifactError(f"{path}:1: the file is empty: expected version and claims (docs/claims.md)")
    return YamlFile(path, value)
