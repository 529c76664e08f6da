"""`rrr tune` through the real tritonserver, on tiny networks and, to be short, on one core."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rrrbuild.repository_document import read_repository
from rrrbuild.triton_config import read_config
from rrrserve.cli import run

RRR = Path(sys.executable).parent / "rrr"


def tune(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a single core: three candidates."""
    core = str(min(os.sched_getaffinity(0)))
    short = ["--seconds", "0.2", "--rounds", "1", "--json"]
    command = ["taskset", "-c", core, str(RRR), "tune", *arguments, *short]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    """A copy of the repository that may be changed."""
    return Path(shutil.copytree(repository, tmp_path / "repository"))


@pytest.mark.e2e
def test_the_choice_is_written_sealed_and_served(
    own: Path, start_service: Callable[..., Any], png: Callable[[int], bytes]
) -> None:
    before = contents(own)
    done = tune(str(own), "--model", "single", "--concurrency", "1,2")
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
    after = contents(own)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed - {"single/config.pbtxt"} == {"repository.json", "single/tuning.json"}
    assert before.keys() <= after.keys()

    served = start_service(str(own), "--port", "0")
    answer = httpx.post(f"{served.url}/v1/models/single/predict", content=png(0), timeout=30, trust_env=False)
    assert answer.status_code == 200
    assert served.stop() == 0


@pytest.mark.e2e
def test_a_limit_that_nothing_keeps_changes_nothing(own: Path) -> None:
    before = contents(own)
    done = tune(str(own), "--model", "single", "--p99-ms", "0.001", "--concurrency", "1")
    assert done.returncode == 1
    assert "no candidate keeps p99 <= 0.001 ms: the nearest is 1 instance x 1 thread" in done.stderr
    assert json.loads(done.stdout)["chosen"] is None
    assert contents(own) == before
    assert [path.name for path in own.parent.iterdir()] == ["repository"]


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
