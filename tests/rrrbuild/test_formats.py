"""Checkpoints, engines and repositories of other format versions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rrrbuild import repository_document
from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import read_repository
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_checkpoint
from rrrnet.errors import ArtifactError

# Function that reads it, the document, the command that makes it anew where the document tells it and where not.
Kind = tuple[Callable[[Path], object], str, str, str]
KINDS: dict[str, Kind] = {
    "checkpoint": (read_checkpoint, DOCUMENT, "rrr train ...", "rrr train --data DIR --out {}"),
    "engine": (read_engine, MANIFEST, "rrr build ", "rrr build CHECKPOINT --target TARGET --out {}"),
    "repository": (
        read_repository,
        repository_document.DOCUMENT,
        "rrr repository {engine} --out {}",
        "rrr repository ENGINE... --out {}",
    ),
}


@pytest.fixture
def artifact(
    request: pytest.FixtureRequest, tmp_path: Path, checkpoint: Checkpoint, openvino_engine: Manifest
) -> tuple[Path, str]:
    """A copy of each kind, and the engine behind it."""
    copy, source = tmp_path / "copy", {"checkpoint": checkpoint.path, "engine": openvino_engine.path}
    if request.param == "repository":
        write_repository([openvino_engine.path], copy, backends=frozenset({"python"}))
    else:
        shutil.copytree(source[request.param], copy)
    return copy, str(openvino_engine.path)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (0, "format version 0; this rrr reads 1: make it again with: "),
        (2, "format version 2; this rrr reads 1: install a newer rrr, or make it again with: "),
        (None, "no format version; this rrr reads 1: make it again with: "),
        ("1", "format version 1; this rrr reads 1: make it again with: "),
    ],
    ids=["older", "newer", "missing", "a word"],
)
@pytest.mark.parametrize(("artifact", "kind"), [(kind, kind) for kind in KINDS], indirect=["artifact"], ids=list(KINDS))
def test_another_format_is_refused_with_the_command_that_makes_it_anew(
    artifact: tuple[Path, str], kind: str, version: object, says: str
) -> None:
    (path, engine), (read, name, told, untold) = artifact, KINDS[kind]
    read(path)  # the current one
    document = json.loads((path / name).read_text())
    assert document.pop("format_version") == 1
    other = document if version is None else {**document, "format_version": version}
    stripped = {key: value for key, value in other.items() if key not in ("command", "models")}

    for content, command in ((other, told), (stripped, untold)):
        sealed.seal(path, name, content)
        with pytest.raises(ArtifactError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path / name} has {says}{command.format(path, engine=engine)}")
        assert caught.value.exit_code == 3
