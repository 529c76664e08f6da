"""The supervisor's parts without processes: back-off, shared state, metrics, sweeping."""

import itertools
import os
import time
from pathlib import Path

import psutil
import pytest

from rrrnet.errors import CheckFailedError
from rrrserve import guardian, scratch
from rrrserve.restarts import Restarts
from rrrserve.shared_state import PATH_VARIABLE, SLOT_VARIABLE, Phase, SharedState
from rrrserve.supervision_metrics import SupervisionCollector

MODELS = ("a", "b")


def test_a_part_that_dies_at_once_waits_longer_each_time_and_is_then_given_up() -> None:
    restarts = Restarts("Triton", most=7)
    found = [restarts.next_pause("no reason", well_seconds=0, now=0.0) for _ in range(7)]
    assert [pause for pause, _ in found] == [1, 2, 4, 8, 16, 30, 30]
    assert [which for _, which in found] == [f"{index} of 7" for index in range(1, 8)]
    with pytest.raises(CheckFailedError, match="Triton died after it had been started again 7 times in 120 s: spoilt"):
        restarts.next_pause("spoilt", well_seconds=0, now=119.0)


def test_a_part_that_worked_for_a_while_is_started_again_at_once_and_old_deaths_are_forgotten() -> None:
    restarts = Restarts("Triton", most=2)
    assert restarts.next_pause("x", well_seconds=60, now=0.0) == (0.0, "1 of 2")
    assert restarts.next_pause("x", well_seconds=0, now=1.0) == (1.0, "2 of 2")
    assert restarts.next_pause("x", well_seconds=10, now=120.5) == (0.0, "2 of 2")
    with pytest.raises(CheckFailedError):
        restarts.next_pause("x", well_seconds=10, now=121.0)


def test_workers_and_supervisor_see_one_state(tmp_path: Path) -> None:
    path = tmp_path / "state"
    parent = SharedState.create(path, MODELS, workers=2)
    workers = [
        SharedState.from_environment({PATH_VARIABLE: str(path), SLOT_VARIABLE: str(slot)}, MODELS) for slot in (1, 2)
    ]
    assert [parent.slots, workers[1].slot] == [3, 2]
    workers[0].add(3)
    workers[1].add(2)
    workers[1].add(-1)
    assert {state.total() for state in (parent, *workers)} == {4}
    workers[1].note_answer("b")
    workers[1].beat()
    assert parent.since_answer("a") == float("inf")
    assert workers[0].since_answer("b") < 60
    assert (parent.since_beat(1), parent.since_beat(2) < 60) == (float("inf"), True)
    parent.clear(2)
    assert (parent.total(), parent.since_beat(2)) == (3, float("inf"))
    assert parent.since_answer("b") < 60, "what a dead worker has seen still counts"
    parent.forget_answers()
    assert workers[1].since_answer("b") == float("inf")
    parent.phase, parent.triton_up, parent.generation = Phase.DRAINING, True, 5
    assert workers[0].phase is Phase.DRAINING
    assert (workers[0].draining, workers[0].triton_up, workers[0].generation) == (True, True, 5)


def test_without_a_supervisor_the_state_is_the_workers_own() -> None:
    state = SharedState.from_environment({}, MODELS)
    state.add(1)
    assert (state.slots, state.total(), state.triton_up, state.draining) == (1, 1, True, False)


def test_restarts_and_the_breaker_are_metrics_with_closed_labels() -> None:
    collector = SupervisionCollector()
    assert list(collector.collect()) == []
    state = collector.state = SharedState.in_process(MODELS)
    state.count_restart("worker")
    samples = {
        (sample.name, *sample.labels.values()): sample.value for m in collector.collect() for sample in m.samples
    }
    assert samples["rrr_restarts_total", "triton"] == 0
    assert samples["rrr_restarts_total", "worker"] == 1
    assert samples[("rrr_triton_up",)] == 1


def test_empty_folders_of_tritonservers_that_are_gone_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Triton:
        def name(self) -> str:
            return "tritonserver"

        def create_time(self) -> float:
            return started

    started = time.time()
    monkeypatch.setattr(scratch, "_PYTHON_ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([Triton()]))
    ages = {"python_env_aaaaaa": -100, "python_env_bbbbbb": 5, "python_env_cccccc": -100, "python_env_dddddd": 300}
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        if name.endswith("c"):
            (tmp_path / name / "in use").touch()
        os.utime(tmp_path / name, (started + age, started + age))
    scratch.sweep_python_environments()
    left = itertools.chain(["python_env_bbbbbb"], ["python_env_cccccc"])
    assert sorted(path.name for path in tmp_path.iterdir()) == list(left)


GONE = 4_194_999  # above the largest process id there can be


def test_stale_names_of_other_users_and_what_links_point_to_are_left_and_the_rest_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    place = tmp_path / "place"
    names = {kind: place / f"rrr-serve-{GONE}-{kind}" for kind in ("file", "folder", "link", "foreign", "stubborn")}
    (names["folder"] / "below").mkdir(parents=True)
    names["link"].symlink_to(outside)
    for kind in ("file", "foreign", "stubborn"):
        names[kind].touch()
    lstat, unlink = Path.lstat, Path.unlink

    def owned_by_others(path: Path) -> os.stat_result:
        found = lstat(path)
        return os.stat_result((*found[:4], os.getuid() + 1, *found[5:])) if path == names["foreign"] else found

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == names["stubborn"]:
            raise PermissionError(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(scratch, "places", lambda: (place,))
    monkeypatch.setattr(Path, "lstat", owned_by_others)
    monkeypatch.setattr(Path, "unlink", refused)
    scratch.sweep()
    assert sorted(place.iterdir()) == [names["foreign"], names["stubborn"]]
    assert (outside / "folder").is_dir()


def test_the_guardian_sweeps_on_where_a_name_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    names = [tmp_path / f"{index}-{kind}" for index, kind in enumerate(("stubborn", "link", "file"))]
    names[0].touch()
    names[1].symlink_to(outside)
    names[2].touch()
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == names[0]:
            raise PermissionError(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(names))
    monkeypatch.setattr(guardian, "_until_parent_ends", set)
    monkeypatch.setattr("sys.argv", ["guardian.py", "", str(tmp_path)])
    guardian.main()
    assert sorted(tmp_path.iterdir()) == [names[0], outside]
