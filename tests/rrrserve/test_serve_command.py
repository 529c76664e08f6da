"""`rrr serve` as a process: it starts or says why not, and leaves nothing behind."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from rrrserve.process import scratch

RRR = Path(sys.executable).parent / "rrr"
Start = Callable[..., Any]


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `rrr serve` to its end."""
    return subprocess.run([str(RRR), "serve", *arguments], capture_output=True, text=True, timeout=60)


def wait_until_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after ten seconds."""
    return [process for process in psutil.wait_procs(processes, timeout=10)[1] if process.status() != "zombie"]


def port_is_free(url: str) -> bool:
    """Whether a new listener can take the service's port."""
    try:
        socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))).close()
    except OSError:
        return False
    return True


def leftovers(pid: int) -> list[str]:
    """Folders and shared memory of a service."""
    places = (scratch.SHARED_MEMORY, Path(tempfile.gettempdir()))
    return [str(path) for place in places for path in place.glob(f"rrr-serve-{pid}-*")]


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_0_and_nothing_left(
    start_service: Start, repository: Path, number: signal.Signals
) -> None:
    served = start_service(str(repository), "--port", "0")
    children = served.children()
    assert any("tritonserver" in process.name() for process in children)
    assert served.stop(number) == 0
    assert wait_until_gone(children) == []
    assert port_is_free(served.url)
    assert leftovers(served.process.pid) == []
    assert served.log.read_text().rstrip().endswith("stopped")


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(0.2, id="before the port closes"),
        pytest.param(2.0, id="after the port has closed", marks=pytest.mark.nightly),
    ],
)
def test_requests_in_flight_are_answered_before_it_stops(
    start_service: Start, repository: Path, png: Callable[[int], bytes], seconds: float
) -> None:
    served = start_service(str(repository), "--port", "0")
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png(0))}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(head + png(0)[:50])  # in flight: its body is not complete when the signal comes
        time.sleep(0.3)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(seconds)
        connection.sendall(png(0)[50:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert served.process.wait(60) == 0


@pytest.mark.nightly
def test_a_second_signal_ends_it_at_once(start_service: Start, repository: Path) -> None:
    served = start_service(str(repository), "--port", "0")
    children = served.children()
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        time.sleep(0.3)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert served.process.poll() is None, "it should wait for the request in flight"
        assert served.stop() == 0
    assert wait_until_gone(children) == []


@pytest.mark.nightly
def test_an_external_triton_that_is_not_there_leaves_it_unready(
    start_service: Start, repository: Path, png: Callable[[int], bytes]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed, socket.create_server(("127.0.0.1", 0)) as free:
        triton, port = closed.getsockname()[1], free.getsockname()[1]
    arguments = (str(repository), "--port", str(port), "--triton-url", f"127.0.0.1:{triton}")
    served = start_service(*arguments, ready=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
        for _ in range(600):
            try:
                ready = client.get("/readyz")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        assert client.get("/livez").status_code == 200
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
        assert "Triton does not answer" in ready.json()["error"]["message"]
        assert int(ready.headers["retry-after"]) >= 1
        answer = client.post("/v1/predict", content=png(0))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "backend_unavailable")
    assert served.stop() == 0, "a signal ends the waiting for readiness too"


def test_models_that_do_not_get_ready_in_time_are_exit_1(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        triton = closed.getsockname()[1]
    ran = run_serve(str(repository), "--port", "0", "--triton-url", f"127.0.0.1:{triton}", "--start-timeout", "1")
    assert ran.returncode == 1
    assert re.search(r"not ready after 1 s: .* does not answer; raise --start-timeout", ran.stderr)


@pytest.mark.nightly
def test_the_default_model_can_be_chosen(start_service: Start, repository: Path, png: Callable[[int], bytes]) -> None:
    served = start_service(str(repository), "--port", "0", "--default", "single")
    answer = httpx.post(f"{served.url}/v1/predict", content=png(0), timeout=30, trust_env=False)
    assert answer.json()["model"]["name"] == "single"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "70000"),
        ("--grpc-port", "80"),
        ("--host", "no.such.host"),
        ("--default", "nobody"),
        ("--triton-url", "nowhere"),
        ("--workers", "0"),
        ("--unknown",),
    ],
)
def test_a_bad_flag_is_exit_2_with_one_sentence(repository: Path, arguments: tuple[str, ...]) -> None:
    ran = run_serve(str(repository), "--port", "0", *arguments)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert arguments[0].lstrip("-").replace("default", "default model") in ran.stderr


@pytest.mark.parametrize("file", ["repository.json", "tiny/config.pbtxt", "tiny/1/model.py", "single/1/manifest.json"])
def test_a_flipped_byte_is_exit_3_with_the_file_name(repository: Path, tmp_path: Path, file: str) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).write_bytes(data)
    ran = run_serve(str(copy), "--port", "0")
    assert ran.returncode == 3
    assert file in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_folder_that_is_no_repository_is_exit_3(tmp_path: Path) -> None:
    ran = run_serve(str(tmp_path), "--port", "0")
    assert ran.returncode == 3
    assert "rrr repository" in ran.stderr


@pytest.mark.nightly
def test_a_model_that_does_not_load_is_named(repository: Path, tmp_path: Path) -> None:
    from rrrbuild.repository_document import read_repository, write_document

    models = read_repository(repository).models
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    (copy / "single" / "1" / "runtime.py").write_text("raise RuntimeError('broken on purpose')\n")
    write_document(copy, models)  # sealed again, so that only Triton finds it
    ran = run_serve(str(copy), "--port", "0")
    assert ran.returncode == 1
    assert ran.stderr.endswith("Triton could not load the model single (RuntimeError: broken on purpose)\n")


def test_a_bad_setting_in_the_environment_is_exit_2(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRR_MAX_BODY_BYTES", "10MB")
    ran = run_serve(str(repository), "--port", "0")
    assert (ran.returncode, ran.stderr) == (
        2,
        "rrr: RRR_MAX_BODY_BYTES is '10MB': expected a whole number from 1024 to 1073741824\n",
    )
