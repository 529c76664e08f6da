"""`rrr reload` with real processes: a good version takes over, a bad one does not, and no request is lost or mixed."""

import asyncio
import errno
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.clients import RIGHT
from harness.damage import DAMAGES, damaged
from harness.service import RRR, Service, wait_for
from harness.versioned_clients import VersionedClients, distinct
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import read_repository
from rrrnet.errors import UsageError
from rrrserve.config.service_config import ServiceConfig
from rrrserve.process import scratch
from rrrserve.state.shared_state import SharedState
from rrrserve.versions import deployment
from rrrserve.versions.deployment import Deployment
from rrrserve.versions.running_services import RunningService, chosen, running_services
from rrrserve.versions.switch import Deployments
from rrrserve.versions.version import version_folder

Start = Callable[..., Service]
Png = Callable[[int], bytes]


@pytest.fixture(scope="session")
def swapped(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same models under each other's names."""
    out = tmp_path_factory.mktemp("swapped") / "repository"
    engines = [repository / "single" / "1", repository / "tiny" / "1"]
    write_repository(engines, out, backends=frozenset({"python"}), names=["tiny", "single"])
    return out


def rrr_reload(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(RRR), "reload", *arguments], capture_output=True, text=True, timeout=120)


def put(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def private_folder(served: Service) -> Path:
    """Where the service keeps its copies."""
    return next(Path(service.folder) for service in running_services() if service.pid == served.process.pid)


def test_under_load_good_versions_take_over_and_bad_ones_do_not_and_nobody_notices(
    start_service: Start, repository: Path, swapped: Path, tmp_path: Path, png: Png
) -> None:
    live, bodies = tmp_path / "live", [png(seed) for seed in range(4)]
    put(repository, live)
    served = start_service(str(live), "--port", "0", "--workers", "2")
    first, second = (read_repository(path).short_digest for path in (repository, swapped))
    goldens = {first: served.golden("", bodies)}
    assert served.ask("/v1/models").json()["repository"] == first
    put(swapped, live)
    assert rrr_reload(str(live)).returncode == 0
    goldens[second] = served.golden("", bodies)
    assert distinct(goldens)
    clients = VersionedClients(f"{served.url}/v1/predict", bodies, goldens, deadline_seconds=5.0)
    outcomes = []

    async def reload(*arguments: str) -> None:
        done = await asyncio.to_thread(rrr_reload, "--pid", str(served.process.pid), *arguments)
        outcomes.append((done.returncode, done.stderr, done.stdout))

    async def main() -> None:
        running = asyncio.create_task(clients.run(4))
        for name in ("one bit flipped", "code that fails"):
            shutil.rmtree(live)
            damaged(repository, live, name, random.Random(5))
            await reload()
        put(repository, live)
        await reload("--json")
        await reload()
        clients.stop()
        await running

    asyncio.run(main())
    assert clients.tally.counts() == {RIGHT: len(clients.tally.endings)}, clients.tally.counts()
    assert set(clients.answered_by) == {first, second}
    assert [code for code, _, _ in outcomes] == [1, 1, 0, 0]
    for (_, message, _), name in zip(outcomes, ("one bit flipped", "code that fails"), strict=False):
        assert re.search(DAMAGES[name][1], message), message
        assert f"{second} is still served" in message
        assert message.count("\n") == 1
    assert json.loads(outcomes[2][2])["outcome"] == "switched"
    assert outcomes[3][2].startswith("unchanged: ")
    metrics = served.ask("/metrics").text
    for outcome, count in (("switched", 2), ("refused", 2), ("unchanged", 1)):
        assert f'rrr_reloads_total{{outcome="{outcome}"}} {count}.0' in metrics
    assert f'rrr_repository_info{{repository="{first}"}} 1.0' in metrics
    tritons = served.of_kind("tritonserver")
    assert len(tritons) == 1, "the one before has ended"

    shutil.rmtree(live)  # what is served outlives its folder, even where its parts are started again
    for child in [*tritons, *served.of_kind("worker")]:
        child.kill()
    wait_for(lambda: served.is_ready() and not {*tritons} & {*served.children()})
    assert served.golden("", bodies) == goldens[first]
    done = rrr_reload("--url", served.url)
    assert done.returncode == 1
    assert f"{live} does not exist" in done.stderr
    served.process.send_signal(signal.SIGHUP)  # refused likewise, and nobody waits for it
    assert served.stop() == 0
    folders = scratch.own_folders(Path(tempfile.gettempdir()))
    assert [path for path in folders if f"-{served.process.pid}-" in path.name] == []


def test_a_service_must_be_named_where_there_are_several() -> None:
    services = [
        RunningService(pid, 0, f"http://127.0.0.1:{port}", repository, "/nowhere")
        for pid, port, repository in ((10, 3000, "/a"), (11, 3001, "/b"), (12, 3002, "/b"))
    ]
    assert chosen(services, Path("/a"), None, None).pid == 10
    assert chosen(services, None, "http://127.0.0.1:3001/", None).pid == 11
    assert chosen(services, Path("/b"), None, 12).pid == 12
    with pytest.raises(UsageError, match=r"2 services are meant: choose one with --url or --pid: .*3001.*3002"):
        chosen(services, Path("/b"), None, None)
    with pytest.raises(UsageError, match=r"no such service is ready here; those that are: .*pid 10"):
        chosen(services, Path("/c"), None, None)
    with pytest.raises(UsageError, match="no rrr serve of this user is ready"):
        chosen([], None, None, None)


@pytest.mark.nightly
def test_sigterm_while_an_old_version_still_answers_ends_both_versions(
    start_service: Start, repository: Path, swapped: Path, tmp_path: Path
) -> None:
    live = tmp_path / "live"
    put(repository, live)
    served = start_service(str(live), "--port", "0", "--drain", "0", "--grace", "2")
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        head = "POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 50000\r\nContent-Length: 1000\r\n\r\n"
        slow.sendall(head.encode() + b"half")
        served.ask("/livez")
        put(swapped, live)
        served.process.send_signal(signal.SIGHUP)
        digest = read_repository(swapped).short_digest
        wait_for(lambda: served.ask("/v1/models").json()["repository"] == digest)
        children = served.children()
        assert len(served.of_kind("tritonserver")) == 2
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(15) == 0, served.log.read_text()
    assert served.left_behind(children) == []
    assert "Triton is started again" not in served.log.read_text()


@pytest.mark.nightly
def test_a_reload_on_a_full_disk_is_refused_and_the_service_goes_on(
    start_service: Start, repository: Path, swapped: Path, tmp_path: Path
) -> None:
    live = tmp_path / "live"
    put(repository, live)
    served = start_service(str(live), "--port", "0")
    put(swapped, live)
    parent = psutil.Process(served.process.pid)
    _, most = parent.rlimit(psutil.RLIMIT_FSIZE)
    parent.rlimit(psutil.RLIMIT_FSIZE, (10, most))  # no file can be longer
    served.process.send_signal(signal.SIGHUP)
    wait_for(lambda: 'rrr_reloads_total{outcome="refused"} 1.0' in served.ask("/metrics").text)
    assert [path.name for path in version_folder(private_folder(served), 1).parent.iterdir()] == ["1"]
    parent.rlimit(psutil.RLIMIT_FSIZE, (most, most))
    assert rrr_reload(str(live)).returncode == 0
    assert served.ask("/v1/models").json()["repository"] == read_repository(swapped).short_digest
    assert served.stop() == 0


def test_what_fails_after_the_copy_was_made_takes_the_copy_along(
    repository: Path, swapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    live = tmp_path / "live"
    put(repository, live)
    deployments = Deployments(tmp_path, read_repository(live), ServiceConfig(max_request_timeout_ms=1000))
    put(swapped, live)
    with monkeypatch.context() as patched:
        patched.setattr(SharedState, "new_version", full)
        with pytest.raises(OSError, match="No space left"):
            asyncio.run(deployments._replaced())
    assert [path.name for path in (tmp_path / "versions").iterdir()] == ["1"]
    monkeypatch.setattr(deployment, "write_version", full)
    with pytest.raises(OSError, match="No space left"):
        Deployment(tmp_path, 3, read_repository(live), ServiceConfig())
    assert [path.name for path in (tmp_path / "versions").iterdir()] == ["1"]
