"""A service whose whole file system is read-only but for its temporary folder and shared memory."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

RRR = Path(sys.executable).parent / "rrr"

# Landlock (Linux 5.13 and later) keeps a process and its children from writing, even root (the numbers: landlock.h).
CAGE = """
import ctypes, os, struct, sys
WRITE, MAKE_DIR, REMOVE_DIR, EVERYTHING = 1 << 1, 1 << 7, 1 << 4, 0b1111111110010
libc = ctypes.CDLL(None, use_errno=True)

def check(value):
    if value < 0:
        sys.exit(f"Landlock: {os.strerror(ctypes.get_errno())}; this test needs a kernel that has it switched on")
    return value

ruleset = check(libc.syscall(444, struct.pack("Q", EVERYTHING), 8, 0))
# Triton makes and removes an empty folder in /tmp, wherever TMPDIR points.
places = {sys.argv[1]: EVERYTHING, "/dev/shm": EVERYTHING, "/dev": WRITE, "/tmp": MAKE_DIR | REMOVE_DIR}
for folder, allowed in places.items():
    opened = os.open(folder, os.O_PATH)
    check(libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, opened), 0))
check(libc.prctl(38, 1, 0, 0, 0))
check(libc.syscall(446, ruleset, 0))
try:
    open(sys.argv[2], "w")
except PermissionError:
    os.execv(sys.argv[3], sys.argv[3:])
sys.exit("the cage is open")
"""


@pytest.mark.nightly
def test_only_the_temporary_folder_and_shared_memory_are_written(
    repository: Path, tmp_path: Path, png: Callable[[int], bytes]
) -> None:
    scratch, home, log = tmp_path / "scr atch ü", tmp_path / "home", tmp_path / "log"
    scratch.mkdir()
    home.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-c",
        CAGE,
        str(scratch),
        str(tmp_path / "forbidden"),
        str(RRR),
        "serve",
        str(repository),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", "0", "--drain", "0"],
            cwd=home,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while (ready := re.search(r"ready: (\S+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        url = ready[1]
        answer = httpx.post(f"{url}/v1/predict", content=png(1), trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 200
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert list(home.iterdir()) == []
    assert list(scratch.iterdir()) == []
    assert "denied" not in log.read_text().lower()
