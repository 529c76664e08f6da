"""The supervisor's parts, almost without processes: back-off, shared state, metrics, sweeping, ends by force."""

import asyncio
import contextlib
import errno
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from rrrnet.errors import CheckFailedError
from rrrserve.metrics.supervision import SupervisionCollector
from rrrserve.process import guardian, scratch
from rrrserve.process.restarts import Restarts
from rrrserve.state.shared_state import Phase, SharedState
from rrrserve.supervise import supervisor
from rrrserve.supervise.supervisor import Supervisor
from rrrserve.supervise.worker_pool import WorkerCommand, WorkerPool
from rrrserve.triton.keeper import TritonKeeper
from rrrserve.triton.server import TritonServer

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
    workers = [SharedState.attach(path, MODELS, slot) for slot in (1, 2)]
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
    state = SharedState.in_process(MODELS)
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


class FullDisk:
    """A Triton, or what starts workers, that fails from the second start on, as long as it is told to."""

    def __init__(self, failures: int) -> None:
        self.starts = 0
        self._failures = failures

    async def start(self, *_: Any, **__: Any) -> Any:
        self.starts += 1
        if 1 < self.starts <= 1 + self._failures:
            raise OSError(errno.ENOSPC, "No space left on device")
        return await asyncio.create_subprocess_exec("true" if self.starts == 1 else "cat", stdin=subprocess.PIPE)


def running_groups() -> set[int]:
    """The process groups that have a member which is not just waiting to be counted out."""
    found = set()
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                found.add(os.getpgid(process.pid))
    return found


async def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_a_worker_that_cannot_be_started_again_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(failures=1)
    state = SharedState.create(tmp_path / "state", MODELS, workers=2)
    pool = WorkerPool(WorkerCommand(0, tmp_path, {}, 1, None), state, most_restarts=5)
    monkeypatch.setattr(pool, "_spawn", disk.start)

    async def main() -> None:
        running = asyncio.create_task(pool._keep(1))
        await until(lambda: disk.starts == 3)
        pool._keepers = [running]
        pool.kill()
        with pytest.raises(asyncio.CancelledError):
            await running
        await pool.stop()

    asyncio.run(main())
    assert disk.starts == 3, "who was killed for good is not started again"
    assert "started again in 2 s (try 2 of 5): it cannot be started: [Errno 28] No space left" in caplog.text


def test_a_triton_that_cannot_be_started_again_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Triton(FullDisk):
        url = "127.0.0.1:1"

        async def wait(self) -> int:
            return await asyncio.Event().wait() if self.starts == 3 else 1

        async def stop(self, *, at_once: bool) -> None:
            assert at_once

        def failure(self, code: int) -> CheckFailedError:
            return CheckFailedError(f"it ended with exit code {code}")

        def model_processes(self) -> list[psutil.Process]:
            return []

        def has_unusable_model(self) -> bool:
            return False

        async def start(self, *_: Any, **__: Any) -> None:
            process = await super().start()
            process.kill()
            await process.wait()

    disk = Triton(failures=1)
    keeper = TritonKeeper(
        cast(TritonServer, disk), (), SharedState.in_process(()), most_restarts=5, start_timeout_seconds=60
    )

    async def main() -> None:
        running = asyncio.create_task(keeper.run())
        await until(lambda: disk.starts == 3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert "started again in 2 s (try 2 of 5): it cannot be started: [Errno 28] No space left" in caplog.text


def test_a_third_signal_or_ten_seconds_after_the_second_end_the_parent_by_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    parent = object.__new__(Supervisor)
    parent._stop, parent._at_once = asyncio.Event(), asyncio.Event()
    parent._state = SharedState.in_process(MODELS)
    parent._pool = cast(Any, SimpleNamespace(kill=lambda: told.append("workers")))
    parent._deployments = cast(Any, SimpleNamespace(kill=lambda: told.append("Triton")))
    monkeypatch.setattr(supervisor, "_end_by_force", lambda: told.append("itself"))
    monkeypatch.setattr(supervisor, "_LAST_SECONDS", 0.2)
    parent._signalled()
    assert (told, parent._state.phase) == ([], Phase.DRAINING)
    parent._signalled()
    assert told == ["workers", "Triton"]
    time.sleep(0.5)
    assert told == ["workers", "Triton", "itself"]
    monkeypatch.setattr(supervisor, "_LAST_SECONDS", 60)
    parent._signalled()
    assert told[3] == "itself"


def test_a_parent_that_ends_by_force_takes_its_children_along() -> None:
    script = """
import asyncio, os
from rrrserve.process import children
from rrrserve.supervise import supervisor

async def main():
    process = await children.spawn(["sh", "-c", "sleep 100 & sleep 100"], environment=os.environ, output=2)
    print(process.pid, flush=True)
    await asyncio.sleep(0.3)
    supervisor._end_by_force()

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (1, "")
    end = time.monotonic() + 5
    while int(ran.stdout) in running_groups():
        assert time.monotonic() < end
        time.sleep(0.05)


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
    left_behind_by_a_former_process_of_this_pid = place / f"rrr-serve-{os.getpid()}-former"
    left_behind_by_a_former_process_of_this_pid.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(scratch, "SHARED_MEMORY", tmp_path / "nowhere")
    held = scratch.private_folder().rename(place / f"rrr-serve-{GONE}-containr")  # its pid is not seen here
    region = place / f"{held.name}dc8510f3-dcac"  # as Triton names its shared memory
    region.touch()
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
    assert sorted(place.iterdir()) == [held, region, names["foreign"], names["stubborn"]]
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
