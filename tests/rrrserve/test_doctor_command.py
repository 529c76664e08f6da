"""`rrr doctor`: what it finds here, and what it says about machines on which serving cannot work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrrnet import processor
from rrrnet.errors import UsageError
from rrrnet.installing import pip_install
from rrrserve.cli import run
from rrrserve.commands.doctor_checks import check_cpu, check_port, check_shared_memory, check_temporary_folder
from rrrserve.net.listener import listen
from rrrserve.process.scratch import temporary_folder

RRR = Path(sys.executable).parent / "rrr"


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Exit code, the JSON document and its checks by name."""
    code = run(["doctor", "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    return code, document, {check["name"]: check for check in document["checks"]}


def test_it_says_that_serving_works_here_and_with_what(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, document, checks = report(capsys, "--artifacts", str(tmp_path / "not" / "there" / "yet"))
    assert code == 0
    assert document["ok"] is True
    assert document["versions"]["numpy"] == np.__version__
    assert document["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert checks["tritonserver"]["status"] == "ok"
    assert "python" in checks["tritonserver"]["found"].partition("backends: ")[2]
    assert "onnxruntime-fp32" in checks["targets"]["found"]
    assert checks["disk"]["found"].endswith(f" free at {tmp_path}")
    assert all(check["advice"] for check in checks.values() if check["status"] != "ok")


def test_the_version_of_the_wheels_triton_is_its_own_word(capsys: pytest.CaptureFixture[str]) -> None:
    _, document, checks = report(capsys)
    if "from the nvidia-pytriton wheel" not in checks["tritonserver"]["found"]:
        pytest.skip("this machine has a tritonserver of its own")
    assert document["versions"]["nvidia-pytriton"] == "0.7.0"
    assert checks["tritonserver"]["found"].startswith("2.51.0 ")
    assert checks["libpython"]["status"] == "ok"


def test_the_table_names_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in (
        "serving packages",
        "cpu",
        "memory",
        "gpu",
        "targets",
        "tritonserver",
        "port",
        "disk",
        "shared memory",
    ):
        assert name in printed


def test_cores_that_a_quota_withholds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(processor, "quota_cores", lambda: 2)
    assert ", 2 of 64 cores, by the quota of its cgroup: " in check_cpu().found
    monkeypatch.setattr(processor, "quota_cores", lambda: None)
    assert ", 64 cores: " in check_cpu().found


def test_a_tritonserver_that_does_not_start_fails_the_check_with_its_last_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backends" / "python").mkdir(parents=True)
    broken = tmp_path / "bin" / "tritonserver"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'libdcgm.so.3: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent), prepend=":")
    code, document, checks = report(capsys)
    assert code == 1
    assert document["ok"] is False
    expected = f"{broken} does not start: libdcgm.so.3: cannot open shared object file"
    assert checks["tritonserver"]["found"] == expected
    assert "pip install" in checks["tritonserver"]["advice"]


def test_numpy_2_fails_the_check_because_the_wheels_triton_cannot_work_with_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "numpy-2.3.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.3.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    code = run(["doctor"])
    output = capsys.readouterr()
    assert code == 1
    assert output.out.splitlines()[-1] == f"next: {pip_install('numpy<2')}", "whole, with this environment's pip"
    assert output.err == "rrr: serving does not work here: see numpy\n"


def test_a_port_in_use_is_a_warning() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        check = check_port(port)
    assert (check.status, check.found) == ("warn", f"127.0.0.1 port {port} is in use")
    assert check_port(port).status == "ok"


def test_no_shared_memory_is_a_failure(tmp_path: Path) -> None:
    check = check_shared_memory(tmp_path / "shm")
    assert (check.status, check.found) == ("fail", f"{tmp_path / 'shm'}: No such file or directory")
    assert "--shm-size" in check.advice


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("not there", "TMPDIR is {}, which does not exist"),
        ("a file", "TMPDIR is {}, which is no folder"),
        ("a b ü", ""),
    ],
)
def test_a_tmpdir_is_used_or_said_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    folder = tmp_path / name
    if name == "a file":
        folder.touch()
    elif not said:
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    check = check_temporary_folder()
    assert check.status == ("fail" if said else "ok")
    assert check.found == said.format(folder) if said else check.found.endswith(f" free at {folder}")
    assert ("export TMPDIR=/var/tmp" in check.advice) is bool(said)


def test_serve_refuses_a_tmpdir_that_is_not_there_where_python_would_take_another_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "x y"))
    with pytest.raises(UsageError, match=rf"does not exist: mkdir -p '{tmp_path}/x y'; another will do"):
        temporary_folder()


def test_a_temporary_folder_mounted_noexec_serves_since_no_program_is_run_from_there(tmp_path: Path) -> None:
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o noexec none {tmp_path}"
    if shutil.which("unshare") is None or subprocess.run([*namespace, mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount in a namespace")
    answer = subprocess.run(
        [*namespace, f"{mount} && exec {RRR} doctor --json"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    checks = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert answer.returncode == 0
    assert checks["temporary folder"]["found"].endswith(f" free at {tmp_path}")


def test_a_place_that_cannot_be_written_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, checks = report(capsys, "--artifacts", "/proc/artifacts")
    assert code == 0
    assert checks["disk"]["status"] == "warn"
    assert checks["disk"]["found"].startswith("/proc: ")


def test_it_imports_no_runtime_to_find_out_its_version() -> None:
    code = (
        "import sys; from rrrserve.cli import run; run(['doctor', '--json']); "
        "print(sorted({'torch', 'onnx', 'openvino', 'onnxruntime', 'bentoml', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"
