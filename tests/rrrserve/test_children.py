"""Children end with their parent, whatever ends it, and take along what they have started themselves."""

import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import asyncio, os, signal
from rrrserve.process import children

async def main():
    process = await children.spawn(["sh", "-c", "sleep 100 & sleep 100"], environment=os.environ, output=2)
    while not (below := [p.pid for p in psutil.Process(process.pid).children()]) or len(below) < 2:
        await asyncio.sleep(0.01)
    print(process.pid, *below, flush=True)
    {end}

import psutil
asyncio.run(main())
"""


def runs(pid: int) -> bool:
    """Whether a process runs; one that only waits to be counted out does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os._exit(1)", 1),
        ("await children.terminate(process, patience_seconds=5)", 0),
    ],
)
def test_a_parent_that_ends_takes_its_children_and_theirs_along(end: str, code: int) -> None:
    ran = subprocess.run([sys.executable, "-c", PARENT.format(end=end)], capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (code, "")
    pids = [int(pid) for pid in ran.stdout.split()]
    assert len(pids) == 3
    patience = time.monotonic() + 5
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < patience
        time.sleep(0.02)
