"""What names a repository of the hub: `hf://OWNER/NAME`, and for weights an id of timm's."""

import re
from dataclasses import dataclass
from pathlib import Path

from rrrnet.errors import UsageError

DEFAULT_REVISION = "main"
FORM = "hf://OWNER/NAME, hf://OWNER/NAME@REVISION, hf://OWNER/NAME:FILE"

# A path takes two slashes for one, and so does whoever makes one of these words.
_SCHEME = re.compile(r"hf:/{1,2}(?!/)")
_NAME = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
_REFERENCE = re.compile(rf"({_NAME}/{_NAME})(?:@(\w[^@:\s]*))?(?::([^:/\s][^:\s]*))?", re.ASCII)
# timm's ids are ARCHITECTURE.TAG, and its tags end with the data: resnet50.a1_in1k. A file's ending has no underscore.
_TIMM = re.compile(r"timm/[\w.-]+|\w*resne[tx]\w*\.\w+_\w+", re.ASCII)
# Where the hub's library keeps a repository's files: documented, and the same in all programs that use it.
_IN_CACHE = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/(.+))?$")


@dataclass(frozen=True)
class Reference:
    """A repository of models, which version of it, and perhaps which of its files.

    Attributes:
        repository: `OWNER/NAME`.
        revision: a branch, a tag or a commit.
        file: the path of a file in it; None where it was not named.
    """

    repository: str
    revision: str = DEFAULT_REVISION
    file: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"hf://{self.repository}{revision}" + (f":{self.file}" if self.file else "")


def parse(text: str) -> Reference | None:
    """What `hf://...` names; None for anything that does not begin so.

    Raises:
        UsageError: it begins so, and is not of the form.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return None
    found = _REFERENCE.fullmatch(text, scheme.end())
    if found is None or "--" in found[1] or ".." in text:
        raise UsageError(f"{text}: no name of a repository of the hub; allowed are {FORM}")
    return Reference(found[1], found[2] or DEFAULT_REVISION, found[3])


def parse_weights(text: str) -> Reference | None:
    """What `--weights` names on the hub: `hf://...`, or an id of timm's where no file has that name."""
    if (reference := parse(text)) is not None or Path(text).exists() or not _TIMM.fullmatch(text):
        return reference
    return Reference(f"timm/{text.removeprefix('timm/')}")


def check_is_here(weights: str) -> None:
    """Refuse names of the hub, for a command that takes files and checkpoints of this machine.

    Raises:
        UsageError: with the command that brings the file here.
    """
    if (reference := parse_weights(weights)) is not None:
        raise UsageError(
            f"--weights {weights}: taken are files and checkpoints of this machine: hf download {reference.repository} "
            "tells the path that it brings the file to; tell how it sees images, too"
        )


def named(path: Path | str) -> str:
    """A path as commands and records have it: `hf://OWNER/NAME@COMMIT` for one in the hub's cache."""
    found = _IN_CACHE.search(str(path))
    return str(Reference(f"{found[1]}/{found[2]}", found[3], found[4])) if found else str(path)


def is_in_cache(path: Path) -> bool:
    """Whether a path lies in the hub's cache: what is there was made on another machine, by somebody else."""
    return _IN_CACHE.search(str(path)) is not None
