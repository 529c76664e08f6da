"""The supervisor with real processes: what dies is replaced, what is wrong is no answer, and nobody is cut off."""

import asyncio
import io
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from harness.clients import LOST, RIGHT, UNREACHABLE, Clients, Tally
from harness.service import RRR, Service, port_is_free, still_running, wait_for
from rrrbuild.repository_document import read_repository, write_document

Start = Callable[..., Service]
Png = Callable[[int], bytes]

# Put behind a model's model.py: the first pixel of an image tells how to answer it.
SABOTAGE = """
_honest = TritonPythonModel.execute
_state = {"lies": False}


def _execute(self, requests):
    answers = []
    for request in requests:
        image = pb_utils.get_input_tensor_by_name(request, "images").as_numpy()
        first = int(image[0, 0, 0, 0])
        _state["lies"] |= first == 206
        (honest,) = _honest(self, [request])
        if honest.has_error():
            answers.append(honest)
            continue
        values = honest.output_tensors()[0].as_numpy()
        wrong = {
            201: np.full_like(values, np.nan),
            202: values[:, :, :2],
            203: values.astype(np.float64),
            204: values[:0],
            205: values * 0,
        }.get(first, values[:, :, ::-1] if _state["lies"] else values)
        answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", np.ascontiguousarray(wrong))]))
    return answers


TritonPythonModel.execute = _execute
"""


def restarts(served: Service, part: str) -> float:
    """What the metric tells."""
    found = re.search(rf'rrr_restarts_total{{part="{part}"}} (\S+)', served.ask("/metrics").text)
    return float(found[1]) if found else -1.0


def victim(served: Service, kind: str) -> psutil.Process:
    """A process of a kind."""
    return served.of_kind(kind)[0]


def under_load(served: Service, png: Png, act: Callable[[], Awaitable[None]]) -> Tally:
    """What four clients saw while `act` ran."""
    bodies = [png(seed) for seed in range(4)]
    golden = served.golden("", bodies)
    clients = Clients(f"{served.url}/v1/predict", bodies, golden, deadline_seconds=2.0)

    async def main() -> None:
        running = asyncio.create_task(clients.run(4))
        try:
            await act()
        finally:
            clients.stop()
            await running

    asyncio.run(main())
    return clients.tally


def sabotaged(repository: Path, copy: Path, edit: Callable[[Path], object]) -> Path:
    """A copy of the repository whose model "single" was edited, sealed again so that only its behaviour tells."""
    models = read_repository(repository).models
    shutil.copytree(repository, copy)
    edit(copy / "single" / "1")
    write_document(copy, models)
    return copy


@pytest.mark.nightly
def test_while_it_drains_it_is_unready_and_answers_and_then_nobody_is_cut_off(
    start_service: Start, repository: Path, png: Png
) -> None:
    served = start_service(str(repository), "--port", "0", "--drain", "3")
    children = served.children()
    moments: list[float] = []

    async def stop() -> None:
        await asyncio.sleep(0.3)
        served.process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(base_url=served.url, timeout=30, trust_env=False) as client:
            end = time.monotonic() + 10
            while (await client.get("/readyz")).status_code == 200:
                assert time.monotonic() < end
            moments.append(time.monotonic())
            livez = await client.get("/livez")
            while "connection" not in livez.headers:  # the worker looks ten times a second whether it is to say so
                assert time.monotonic() < end
                livez = await client.get("/livez")
        assert livez.status_code == 200
        assert livez.headers["connection"] == "close"
        await asyncio.to_thread(served.process.wait, 60)

    tally = under_load(served, png, stop)
    assert served.process.returncode == 0
    assert set(tally.counts()) <= {RIGHT, "503", UNREACHABLE}
    after = [ending for ending in tally.endings if ending.sent > moments[0]]
    assert sum(ending.kind == RIGHT for ending in after) > 4
    assert {ending.detail for ending in after if ending.kind == "503"} == {"shutting_down"}
    assert served.left_behind(children) == []


def test_what_is_killed_or_frozen_is_replaced_under_load_and_no_answer_is_wrong(
    start_service: Start, repository: Path, png: Png
) -> None:
    served = start_service(str(repository), "--port", "0", "--workers", "2")
    regions = served.shared_memory()

    def harm(kind: str, number: signal.Signals, part: str) -> Tally:
        before = restarts(served, part)

        async def act() -> None:
            await asyncio.sleep(0.3)
            victim(served, kind).send_signal(number)
            await asyncio.to_thread(wait_for, lambda: restarts(served, part) == before + 1)
            await asyncio.to_thread(wait_for, lambda: served.is_ready())
            await asyncio.sleep(0.3)

        return under_load(served, png, act)

    for kind, number in (("stub", signal.SIGKILL), ("tritonserver", signal.SIGSTOP)):
        tally = harm(kind, number, "triton")
        # 429: on a slow machine what has waited for the restart leaves no time for those behind it.
        assert set(tally.counts()) <= {RIGHT, "429", "503", "504"}, "wrong, lost and hung ones are of other kinds"
        assert tally.count("503") > 0
        assert tally.endings[-1].kind == RIGHT
    tally = harm("worker", signal.SIGKILL, "worker")
    assert set(tally.counts()) <= {RIGHT, LOST}
    assert tally.count(LOST) <= 4
    assert tally.slowest_seconds() < 2.0, "the other answers; a start takes longer"
    log = served.log.read_text()
    started_again = r"Triton is started again (now|in 1 s) \(try 1 of 5\): the process of a model has died"
    assert re.search(started_again, log), "at once if it had worked for 10 s"
    assert "(try 2 of 5): it has not answered for 6 s" in log
    assert "HTTP worker 1 is started again now (try 1 of 5): it ended with exit code -9" in log
    assert served.shared_memory() == regions
    assert served.stop() == 0


@pytest.mark.nightly
def test_a_second_signal_ends_everything_at_once_and_starts_nothing_again(
    start_service: Start, repository: Path
) -> None:
    served = start_service(str(repository), "--port", "0", "--drain", "60")
    children = served.children()
    served.process.send_signal(signal.SIGTERM)
    wait_for(lambda: not served.is_ready())
    began = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(10) == 0
    assert time.monotonic() - began < 5
    assert served.left_behind(children) == []
    assert "started again" not in served.log.read_text()


# A service that has no Triton, and whose stop hangs.
HANGING = """
import asyncio, sys
from pathlib import Path
from rrrbuild.repository_document import read_repository
from rrrserve.config.service_config import ServiceConfig
from rrrserve.net.listener import listen
from rrrserve.supervise import supervisor

supervisor._LAST_SECONDS = float(sys.argv[2])
supervisor.WorkerPool.stop = lambda _: asyncio.Event().wait()

async def main(listener):
    config = ServiceConfig(triton_url="127.0.0.1:1", workers=1)
    await supervisor.Supervisor(read_repository(Path(sys.argv[1])), listener, config).run(print)

with listen("127.0.0.1", 0) as listener:
    asyncio.run(main(listener))
"""


@pytest.mark.parametrize(("signals", "last_seconds"), [(2, 0.2), (3, 600)])
def test_a_stop_that_hangs_is_ended_by_force_a_while_after_the_second_signal_or_by_the_third(
    repository: Path, signals: int, last_seconds: float
) -> None:
    command = [sys.executable, "-c", HANGING, str(repository), str(last_seconds)]
    parent = subprocess.Popen(command)
    this = psutil.Process(parent.pid)
    try:
        wait_for(lambda: bool(this.children()))
        children = this.children(recursive=True)
        for _ in range(signals):
            assert parent.poll() is None
            parent.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert parent.wait(60) == 1
    finally:
        parent.kill()
    assert still_running(children, seconds=10) == []


@pytest.mark.nightly
def test_on_a_full_disk_triton_is_tried_again_until_there_is_room(start_service: Start, repository: Path) -> None:
    served = start_service(str(repository), "--port", "0")
    parent = psutil.Process(served.process.pid)
    _, most = parent.rlimit(psutil.RLIMIT_FSIZE)
    parent.rlimit(psutil.RLIMIT_FSIZE, (10, most))  # no file can be longer
    victim(served, "tritonserver").kill()
    wait_for(lambda: restarts(served, "triton") >= 2)
    assert served.ask("/livez").status_code == 200
    assert served.ask("/readyz").status_code == 503
    parent.rlimit(psutil.RLIMIT_FSIZE, (most, most))
    wait_for(lambda: served.is_ready())
    assert served.stop() == 0
    assert served.left_behind([]) == []


@pytest.mark.nightly
def test_killing_it_under_load_takes_the_children_and_theirs_along_and_the_next_start_sweeps(
    start_service: Start, repository: Path, png: Png
) -> None:
    served = start_service(str(repository), "--port", "0", "--workers", "2")
    children = served.children()

    async def kill() -> None:
        await asyncio.sleep(0.5)
        served.process.kill()
        served.process.wait()

    tally = under_load(served, png, kill)
    assert set(tally.counts()) <= {RIGHT, LOST, UNREACHABLE}
    assert still_running(children, seconds=10) == []
    assert port_is_free(served.port)
    assert served.files() != []
    again = start_service(str(repository), "--port", str(served.port))
    assert served.files() == [], "the next start sweeps"
    assert again.stop() == 0


@pytest.mark.nightly
def test_a_model_that_kills_its_process_is_tried_again_and_then_given_up(repository: Path, tmp_path: Path) -> None:
    copy = sabotaged(
        repository, tmp_path / "repository", lambda model: (model / "runtime.py").write_text("import os; os._exit(7)\n")
    )
    command = [str(RRR), "serve", str(copy), "--port", "0", "--restarts", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert "Triton is started again in 1 s (try 1 of 1): Triton could not load the model single" in ran.stderr
    assert "rrr: Triton died after it had been started again 1 time in 120 s: Triton could not load" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_wrong_output_is_never_an_answer_and_a_model_that_lies_is_replaced(
    start_service: Start, repository: Path, tmp_path: Path, picture: Callable[[int], Any], png: Png
) -> None:
    def spoil(model: Path) -> None:
        path = model / "model.py"
        path.write_text(path.read_text() + SABOTAGE)

    def marked(value: int) -> bytes:
        pixels = np.array(picture(0))
        pixels[0, 0] = value
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    copy = sabotaged(repository, tmp_path / "repository", spoil)
    served = start_service(str(copy), "--port", "0", "--default", "single")
    honest = served.ask("/v1/predict", content=png(0)).json()["predictions"]
    for value in range(201, 206):
        answer = served.ask("/v1/predict", content=marked(value))
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bad_model_output"), value
        assert served.ask("/v1/predict", content=png(0)).json()["predictions"] == honest
    assert 'rrr_requests_rejected_total{reason="bad_model_output"} 5.0' in served.ask("/metrics").text
    assert restarts(served, "triton") == 0, "a client's image must not be able to restart Triton"
    served.ask("/v1/predict", content=marked(206))
    wait_for(lambda: restarts(served, "triton") == 1 and served.is_ready())
    assert "model single answers the same image otherwise than at first" in served.log.read_text()
    assert served.ask("/v1/predict", content=png(0)).json()["predictions"] == honest
