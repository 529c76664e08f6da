"""The supervisor's parts, almost without processes: back-off, workers and a Triton that cannot be started again."""

import asyncio
import errno
import subprocess
import time
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from rrrnet.errors import CheckFailedError
from rrrserve.process import children
from rrrserve.process.restarts import Restarts
from rrrserve.state.shared_state import SharedState
from rrrserve.supervise.worker_pool import WorkerCommand, WorkerPool
from rrrserve.triton.keeper import TritonKeeper
from rrrserve.triton.server import TritonServer


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


class FullDisk:
    """A Triton, or what starts workers, that fails from the second start on, as long as it is told to."""

    def __init__(self, failures: int) -> None:
        self.starts = 0
        self.children: list[asyncio.subprocess.Process] = []
        self._failures = failures

    async def start(self, *_: Any, **__: Any) -> Any:
        self.starts += 1
        if 1 < self.starts <= 1 + self._failures:
            raise OSError(errno.ENOSPC, "No space left on device")
        command = "true" if self.starts == 1 else "cat"
        self.children.append(await asyncio.create_subprocess_exec(command, stdin=subprocess.PIPE))
        return self.children[-1]


async def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_a_worker_that_cannot_be_started_again_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(failures=1)
    state = SharedState.create(tmp_path / "state", ["a"], workers=1)
    pool = WorkerPool(WorkerCommand(0, tmp_path, {}, 1, None), state, most_restarts=5)
    monkeypatch.setattr(children, "spawn", disk.start)

    async def main() -> None:
        running = asyncio.create_task(pool.run())
        await until(lambda: len(disk.children) == 2)
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
        await until(lambda: [child.returncode is None for child in disk.children] == [False, False])  # none is left
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert "started again in 2 s (try 2 of 5): it cannot be started: [Errno 28] No space left" in caplog.text
