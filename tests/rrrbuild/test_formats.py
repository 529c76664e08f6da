"""Checkpoints, engines and repositories of other format versions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import DOCUMENT as REPOSITORY
from rrrbuild.repository_document import read_repository
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_checkpoint
from rrrnet.errors import ArtifactError


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
@pytest.mark.parametrize(
    ("read", "name", "told", "untold"),
    [
        (read_checkpoint, DOCUMENT, "rrr train ...", "rrr train --data DIR --out {}"),
        (read_engine, MANIFEST, "rrr build ", "rrr build CHECKPOINT --target TARGET --out {}"),
        (read_repository, REPOSITORY, "rrr repository {engine} --out {}", "rrr repository ENGINE... --out {}"),
    ],
)
def test_another_format_is_refused_with_the_command_that_makes_it_anew(
    read: Callable[[Path], object],
    name: str,
    told: str,
    untold: str,
    version: object,
    says: str,
    tmp_path: Path,
    checkpoint: Checkpoint,
    openvino_engine: Manifest,
) -> None:
    path, engine = tmp_path / "copy", openvino_engine.path
    if name == REPOSITORY:
        write_repository([engine], path, backends=frozenset({"python"}))
    else:
        shutil.copytree(checkpoint.path if name == DOCUMENT else engine, path)
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
