"""`rrr tune` through the real tritonserver, on tiny networks and, to be short, on one core."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from rrrbuild.repository_document import read_repository
from rrrbuild.triton_config import read_config
from rrrserve.cli import run
from rrrserve.process.scratch import SHARED_MEMORY

RRR = Path(sys.executable).parent / "rrr"


def command(*arguments: str, which: Callable[[set[int]], int] = min) -> list[str]:
    """The command with a single core, the first or last one: three candidates."""
    core = str(which(os.sched_getaffinity(0)))
    return ["taskset", "-c", core, str(RRR), "tune", *arguments, "--rounds", "1", "--json"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    """A copy of the repository that may be changed."""
    return Path(shutil.copytree(repository, tmp_path / "repository"))


@pytest.fixture(scope="module")
def limited(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A repository, and the command that works on it, beside the first test on another core, with a limit of 1 us."""
    own = Path(shutil.copytree(repository, tmp_path_factory.mktemp("limited") / "repository"))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents(own).items()}
    (own.parent / "before.json").write_text(json.dumps(digests))
    words = command(
        str(own), "--model", "single", "--p99-ms", "0.001", "--concurrency", "1", "--seconds", "0.2", which=max
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        yield own, running
        running.terminate()


@pytest.mark.nightly
@pytest.mark.usefixtures("limited")
def test_the_choice_is_written_sealed_and_served(
    own: Path, start_service: Callable[..., Any], png: Callable[[int], bytes], tmp_path: Path
) -> None:
    before = contents(own)
    image = tmp_path / "mine.png"
    image.write_bytes(png(0))
    words = ("--model", "single", "--concurrency", "1,2", "--image", str(image), "--seconds", "0.2")
    done = subprocess.run(command(str(own), *words), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len(document["figures"]) == 3 * 2
    assert all(row["throughput"] > 0 and row["p50_ms"] <= row["p99_ms"] for row in document["figures"])
    assert document["failed"] == []

    assert [model.name for model in read_repository(own).models] == ["tiny", "single"]
    config, chosen = read_config(own / "single" / "config.pbtxt"), document["chosen"]
    assert (config.instance_group[0].count, config.parameters["threads"].string_value) == (chosen["instances"], "1")
    assert config.HasField("dynamic_batching") == (chosen["queue_delay_us"] is not None)
    kept = json.loads((own / "single" / "tuning.json").read_text())
    assert (kept["chosen"], kept["machine"]["cores"]) == (chosen, 1)
    assert kept["image"] == {"path": str(image), "size_bytes": len(png(0))}
    after = contents(own)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed - {"single/config.pbtxt"} == {"repository.json", "single/tuning.json"}
    assert before.keys() <= after.keys()

    served = start_service(str(own), "--port", "0")
    answer = httpx.post(f"{served.url}/v1/models/single/predict", content=png(0), timeout=30, trust_env=False)
    assert answer.status_code == 200
    assert served.stop() == 0


@pytest.mark.nightly
def test_a_limit_that_nothing_keeps_changes_nothing(limited: tuple[Path, "subprocess.Popen[str]"]) -> None:
    own, running = limited
    told, said = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "no candidate keeps p99 <= 0.001 ms: the nearest is 1 instance x 1 thread" in said
    assert json.loads(told)["chosen"] is None
    before = json.loads((own.parent / "before.json").read_text())
    assert {name: hashlib.sha256(data).hexdigest() for name, data in contents(own).items()} == before
    assert sorted(path.name for path in own.parent.iterdir()) == ["before.json", "repository"]


@pytest.mark.parametrize("moment", ["starting", pytest.param("measuring", marks=pytest.mark.nightly)])
def test_ctrl_c_ends_all_it_started_and_leaves_everything_as_it_was(own: Path, tmp_path: Path, moment: str) -> None:
    before = contents(own)
    place = tmp_path / "temporary"
    place.mkdir()
    words = command(str(own), "--model", "single", "--concurrency", "1", "--seconds", "60")
    # A terminal sends Ctrl-C to the command's whole group, which a session of its own is.
    running = subprocess.Popen(
        words, env={**os.environ, "TMPDIR": str(place)}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_until(
            lambda: any(moment == "starting" or "ready: " in log.read_text() for log in place.glob("*/serve.log"))
        )
        if moment == "measuring":
            wait_until(lambda: is_measuring(running.pid))
        started = psutil.Process(running.pid).children(recursive=True)
        os.killpg(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=30)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()

    assert running.returncode == 130
    assert f"stopped; {own} is as it was" in told
    assert "Traceback" not in told
    assert started
    assert [process for process in started if process.is_running()] == []
    assert contents(own) == before
    assert list(place.iterdir()) == []
    owners = tuple(f"rrr-serve-{pid}-" for pid in (running.pid, *(process.pid for process in started)))
    assert [path for path in SHARED_MEMORY.iterdir() if path.name.startswith(owners)] == []


def wait_until(true: Callable[[], bool]) -> None:
    """Ask every so often, for a minute."""
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


def is_measuring(pid: int) -> bool:
    """Whether the command has a connection to its service."""
    return any(row.status == psutil.CONN_ESTABLISHED for row in psutil.Process(pid).net_connections("tcp"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"some text", "the bytes are not one of JPEG, PNG, WEBP"),
        (b"", "the image has 0 bytes"),
        (b"\xff\xd8\xff\xe0 cut", "the JPEG header cannot be read"),
        (None, "No such file or directory"),
    ],
)
def test_an_image_that_cannot_be_used_is_told_with_its_name_in_one_line(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes | None, message: str
) -> None:
    image = tmp_path / "bad.jpg"
    if data is not None:
        image.write_bytes(data)
    assert run(["tune", str(repository), "--image", str(image)]) == 3
    told = capsys.readouterr().err
    assert message in told
    assert str(image) in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "other"], 2, "holds tiny, single"),
        (["--concurrency", "1,x"], 2, "expected whole numbers from 1 to 1024"),
        (["--p99-ms", "inf"], 2, "finite"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    repository: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(["tune", str(repository), *arguments]) == code
    assert message in capsys.readouterr().err


def test_a_damaged_repository_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (own / "single" / "config.pbtxt").open("a") as file:
        file.write("#")
    assert run(["tune", str(own)]) == 3
    assert "config.pbtxt was changed after it was written" in capsys.readouterr().err
