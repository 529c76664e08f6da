"""Private folders: what a killed process left is swept, and nothing else."""

import os
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from rrrserve.process import scratch
from rrrserve.process.scratch import PrivateFolder

GONE = 4_194_999  # above the largest process id there can be


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders in the place of /tmp and /dev/shm."""
    found = tmp_path / "tmp", tmp_path / "shm"
    for place in found:
        place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(found[0]))
    monkeypatch.setattr(scratch, "SHARED_MEMORY", found[1])
    monkeypatch.setattr(scratch, "_PYTHON_ENVIRONMENTS", found[0])
    return found


def test_a_removed_folder_takes_its_shared_memory_along(places: tuple[Path, Path]) -> None:
    folder, other = PrivateFolder(), PrivateFolder()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (places[1] / f"{folder.path.name}dc8510f3").touch()  # as Triton names its shared memory
    (folder.path / "below").mkdir()
    folder.remove()
    assert [list(place.iterdir()) for place in places] == [[other.path], [places[1] / other.path.name]]


def test_what_a_killed_owner_left_is_swept_and_what_has_an_owner_or_is_anothers_stays(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp, shm = places
    held = PrivateFolder()
    region = shm / f"{held.path.name}dc8510f3-dcac"
    region.touch()
    former = f"rrr-serve-{os.getpid()}-f0f0f0f0"  # as in a container, where the next service has the same pid
    outside = tmp / "outside"
    (outside / "folder").mkdir(parents=True)
    (tmp / former / "below").mkdir(parents=True)
    (tmp / former / "below" / "link").symlink_to(outside)
    names = ("", "region", "region2")
    for path in (shm / f"{former}{name}" for name in names):
        path.touch()
    (shm / f"rrr-serve-{GONE}-ab12cd34region").touch()  # its folder has been removed
    left = [
        tmp / f"rrr-serve-{GONE}-foreign0",
        shm / f"rrr-serve-{GONE}-stubborndc85",
        tmp / f"rrr-serve-{GONE}-link0000",
    ]
    left[0].mkdir()
    left[1].touch()
    left[2].symlink_to(outside)
    lstat, unlink = Path.lstat, Path.unlink

    def owned_by_others(path: Path) -> os.stat_result:
        found = lstat(path)
        return os.stat_result((*found[:4], os.getuid() + 1, *found[5:])) if path == left[0] else found

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == left[1]:
            raise PermissionError(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "lstat", owned_by_others)
    monkeypatch.setattr(Path, "unlink", refused)
    scratch.sweep()
    expected = [outside, *left, held.path, region, shm / held.path.name]
    assert sorted(path for place in places for path in place.iterdir()) == sorted(expected)
    assert (outside / "folder").is_dir()


def test_a_sweep_between_the_making_of_a_folder_and_its_lock_does_no_harm(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, made = Path.mkdir, []

    def swept_once(path: Path, *arguments: Any) -> None:
        mkdir(path, *arguments)
        made.append(path)
        if len(made) == 1:
            scratch.sweep()
            assert not path.exists()

    monkeypatch.setattr(Path, "mkdir", swept_once)
    folder = PrivateFolder()
    scratch.sweep()
    assert made == [folder.path, folder.path]
    assert list(places[0].iterdir()) == [folder.path]


@pytest.mark.parametrize(("running", "left"), [("tritonserver", 2), ("sh", 1)])
def test_empty_folders_of_tritonservers_are_swept_when_none_runs(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, running: str, left: int
) -> None:
    class Process:
        def name(self) -> str:
            return running

    monkeypatch.setattr(psutil, "process_iter", lambda: iter([Process()]))
    (places[0] / "python_env_aaaaaa" / "in use").mkdir(parents=True)
    (places[0] / "python_env_bbbbbb").mkdir()
    scratch.sweep()
    assert len(list(places[0].iterdir())) == left
