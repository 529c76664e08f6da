"""Sealed folders: no changed byte goes unseen, no half-written folder appears, no user's file is lost."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rrrnet import sealed
from rrrnet.errors import ArtifactError, NoSpaceError, UsageError, reporting_full_disk

DOCUMENT = "model.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "thing"
    with sealed.staged(target, document=DOCUMENT) as stage:
        (stage / "weights.bin").write_bytes(bytes(range(256)))
        (stage / "deep").mkdir()
        (stage / "deep" / "notes.txt").write_text("hello")
        sealed.seal(stage, DOCUMENT, {"format_version": 1, "name": "thing"})
    return target


def test_a_sealed_document_lists_every_file_with_size_and_digest(folder: Path) -> None:
    document = sealed.read_sealed(folder, DOCUMENT, remedy="make it again")
    assert document["name"] == "thing"
    assert set(document["files"]) == {"weights.bin", "deep/notes.txt"}
    assert document["files"]["weights.bin"]["size_bytes"] == 256
    assert document["files"]["weights.bin"]["sha256"] == sealed.sha256_of(folder / "weights.bin")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_every_file_of_a_sealed_folder_follows_the_umask_whatever_wrote_it(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with sealed.staged(tmp_path / "thing", document=DOCUMENT) as stage:
            save_file({"a": np.zeros(3, np.float32)}, stage / "model.safetensors")  # which makes it with 0600
            (stage / "deep").mkdir()
            (stage / "deep" / "notes.txt").write_text("hello")
            (stage / "deep" / "notes.txt").chmod(0o640)
            sealed.seal(stage, DOCUMENT, {})
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "thing").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


def test_every_single_flipped_byte_is_refused_with_the_name_of_its_file(folder: Path) -> None:
    for path in (folder / DOCUMENT, folder / "weights.bin", folder / "deep" / "notes.txt"):
        original = path.read_bytes()
        for offset in range(0, len(original), 7):
            path.write_bytes(original[:offset] + bytes([original[offset] ^ 0xFF]) + original[offset + 1 :])
            with pytest.raises(ArtifactError, match=re.escape(str(path))):
                sealed.read_sealed(folder, DOCUMENT, remedy="make it again")
        path.write_bytes(original)
    sealed.read_sealed(folder, DOCUMENT, remedy="make it again")


def test_a_document_edited_as_a_whole_is_refused(folder: Path) -> None:
    document = json.loads((folder / DOCUMENT).read_text())
    document["name"] = "other"
    (folder / DOCUMENT).write_text(json.dumps(document, indent=2))
    with pytest.raises(ArtifactError, match=r"changed after it was written: sealed as [0-9a-f]{64}"):
        sealed.read_sealed(folder, DOCUMENT, remedy="make it again")


@pytest.mark.parametrize("missing", ["weights.bin", DOCUMENT])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ArtifactError, match=rf"{missing} is missing.*make it again"):
        sealed.read_sealed(folder, DOCUMENT, remedy="make it again")


def test_a_failed_write_leaves_the_old_folder_and_no_traces(folder: Path) -> None:
    def write_half() -> None:
        with sealed.staged(folder, document=DOCUMENT) as stage:
            (stage / "weights.bin").write_bytes(b"half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half()
    sealed.read_sealed(folder, DOCUMENT, remedy="make it again")
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]


def test_a_full_disk_is_reported_as_no_space_and_leaves_the_old_folder(folder: Path) -> None:
    with pytest.raises(NoSpaceError, match="no space left while writing"), sealed.staged(folder, document=DOCUMENT):
        raise OSError(28, "No space left on device")
    sealed.read_sealed(folder, DOCUMENT, remedy="make it again")


def test_another_operating_system_error_is_not_called_no_space(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), reporting_full_disk(tmp_path):
        raise PermissionError(13, "Permission denied")


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with (
        pytest.raises(UsageError, match=r"photos exists and holds no model\.json"),
        sealed.staged(tmp_path / "photos", document=DOCUMENT),
    ):
        pass
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_what_a_killed_run_left_is_cleared_away_and_a_living_ones_is_not(folder: Path) -> None:
    dead = folder.with_name(".thing.999999999-abcdef.staging")
    living = folder.with_name(".thing.1-abcdef.staging")
    users = folder.with_name(".thing.notes.staging")
    for path in (dead, living, users):
        path.mkdir()
    with sealed.staged(folder, document=DOCUMENT) as stage:
        sealed.seal(stage, DOCUMENT, {})
    assert (dead.exists(), living.exists(), users.exists()) == (False, True, True)


def test_a_folder_that_a_killed_run_had_moved_aside_comes_back(folder: Path) -> None:
    folder.rename(folder.with_name(".thing.999999999-abcdef.previous"))
    with pytest.raises(ZeroDivisionError), sealed.staged(folder, document=DOCUMENT):
        raise ZeroDivisionError
    assert sealed.read_sealed(folder, DOCUMENT, remedy="make it again")["name"] == "thing"


def test_where_folders_cannot_be_exchanged_an_interrupted_swap_leaves_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "_exchange", lambda *_: False)
    real, moves = Path.rename, []

    def rename(path: Path, target: Path) -> Path:
        moves.append(path)
        if len(moves) == 2:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt), sealed.staged(folder, document=DOCUMENT):
        pass
    sealed.read_sealed(folder, DOCUMENT, remedy="make it again")
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: (folder / DOCUMENT).write_text("{}"), r"its model\.json was not written by rrr"),
        (lambda folder: (folder / "precious.txt").touch(), r"holds precious\.txt, which rrr did not write"),
    ],
)
def test_what_a_user_put_there_is_never_replaced(folder: Path, make: Callable[[Path], object], message: str) -> None:
    make(folder)
    with pytest.raises(UsageError, match=message):
        sealed.check_target(folder, document=DOCUMENT)


def test_a_link_stays_a_link_and_its_target_is_written(folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    with sealed.staged(link, document=DOCUMENT) as stage:
        sealed.seal(stage, DOCUMENT, {"name": "new"})
    assert link.is_symlink()
    assert sealed.read_sealed(folder, DOCUMENT, remedy="make it again")["name"] == "new"


def test_a_folder_of_another_kind_is_called_by_its_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"thing is a checkpoint .*: expected an engine"):
        sealed.read_sealed(folder, "manifest.json", remedy="make it again")
    with pytest.raises(ArtifactError, match=r"nowhere does not exist: expected an engine"):
        sealed.read_sealed(tmp_path / "nowhere", "manifest.json", remedy="make it again")
