"""Metrics of several workers: what is left of one that was killed, and files that cannot be read."""

import asyncio
import gzip
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from rrrserve.api.routes import Routes
from rrrserve.config.service_config import ServiceConfig
from rrrserve.metrics import exposition, multiprocess
from rrrserve.state.shared_state import STATE, SharedState
from rrrserve.worker.lives import Supervised

WORKER = """
import sys
from pathlib import Path
from rrrserve.metrics import multiprocess
multiprocess.adopt(Path(sys.argv[1]), int(sys.argv[2]))
from rrrserve.metrics import instruments
instruments.REJECTED.labels("bad_json").inc(7)
instruments.STAGE_DURATION.labels("read", "m").observe(0.01)
instruments.IN_FLIGHT.inc()
instruments.DRIFT_SCORE.labels("m").set(float("nan") if sys.argv[2] == "1" else 1.5)
print("counted", flush=True)
sys.stdin.read()
"""
Start = Callable[[int], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker of that number and wait until it has counted 7 rejections, 1 duration and 1 request in flight."""
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def starter(number: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(number)]
        pipe = subprocess.PIPE
        worker = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        started.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "counted\n"
        return worker

    yield starter
    for worker in started:
        worker.kill()
        worker.communicate()


def samples(folder: Path) -> dict[str, float]:
    """All samples of a scrape."""
    lines = generate_latest(multiprocess.registry_of(folder)).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def counts(found: dict[str, float]) -> tuple[float, float, float]:
    """Rejections, durations and requests in flight."""
    duration = 'rrr_stage_duration_seconds_count{model="m",stage="read"}'
    return found['rrr_requests_rejected_total{reason="bad_json"}'], found[duration], found["rrr_in_flight_requests"]


def test_a_killed_workers_counts_stay_and_its_gauges_go(tmp_path: Path, start: Start) -> None:
    first, second = start(1), start(2)
    found = samples(tmp_path)
    assert counts(found) == (14, 2, 2)
    assert found["rrr_metrics_unreadable_files"] == 0
    assert {f'process_resident_memory_bytes{{worker="{number}"}}' for number in (1, 2)} <= set(found)

    first.kill()
    first.wait()
    multiprocess.forget_gauges(tmp_path, 1)
    found = samples(tmp_path)
    assert counts(found) == (14, 2, 1)
    assert 'process_resident_memory_bytes{worker="1"}' not in found
    assert second.poll() is None


def test_drift_is_that_of_the_worker_with_the_highest_and_one_that_knows_nothing_yet_hides_none(
    tmp_path: Path, start: Start
) -> None:
    start(1)
    assert math.isnan(samples(tmp_path)['rrr_drift_score{model="m"}'])
    start(2)
    found = {name: score for name, score in samples(tmp_path).items() if name.startswith("rrr_drift_score")}
    assert found == {'rrr_drift_score{model="m"}': 1.5}


def test_the_worker_in_a_killed_ones_place_goes_on_counting_in_its_files(tmp_path: Path, start: Start) -> None:
    for _ in range(3):
        worker = start(1)
        worker.kill()
        worker.wait()
    start(1)
    assert counts(samples(tmp_path)) == (28, 4, 1)
    assert len(list(tmp_path.glob("histogram_*.db"))) == 1


# What Prometheus 2.42 and 3 send.
PROMETHEUS = (
    b"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    b"text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*;q=0.2",
)


@pytest.mark.parametrize("accept", PROMETHEUS)
def test_several_workers_metrics_are_offered_as_openmetrics_with_the_same_samples(
    tmp_path: Path, start: Start, accept: bytes
) -> None:
    start(1), start(2)
    scrape = exposition.scrape(multiprocess.registry_of(tmp_path), accept=accept)
    assert scrape.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    text = scrape.body.decode()
    assert text.endswith("# EOF\n")
    families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    found = {(item.name, *sorted(item.labels.items())) for family in families for item in family.samples}
    plain = generate_latest(multiprocess.registry_of(tmp_path)).decode()
    assert found == {
        (item.name, *sorted(item.labels.items())) for family in plain_families(plain) for item in family.samples
    }
    assert ("rrr_requests_rejected_total", ("reason", "bad_json")) in found


@pytest.mark.parametrize(
    ("accept", "encoding", "openmetrics", "gzipped"),
    [
        (b"", b"", False, False),
        (b"*/*", b"gzip, deflate, br", False, True),
        (b"text/plain, application/openmetrics-text;q=0.5", b"gzip;q=0", False, False),
        (b"Application/OpenMetrics-Text; q=0.9, text/plain; q=0.1", b"br, GZIP ; q=0.1", True, True),
        (b"application/openmetrics-text;q=0", b"identity", False, False),
        (b"application/openmetrics-text;version=x;q=nan", b"gzip;q=x", False, False),
        (b"\xff;;=,,;q", b",;q=", False, False),
    ],
)
def test_a_scrape_comes_in_the_format_and_encoding_that_are_asked_for(
    accept: bytes, encoding: bytes, openmetrics: bool, gzipped: bool
) -> None:
    registry = CollectorRegistry()
    Counter("things", "How many.", registry=registry).inc(3)
    scrape = exposition.scrape(registry, accept=accept, accept_encoding=encoding)
    assert scrape.content_type.startswith("application/openmetrics-text" if openmetrics else "text/plain")
    assert scrape.headers.get("Content-Encoding") == ("gzip" if gzipped else None)
    body = gzip.decompress(scrape.body) if gzipped else scrape.body
    assert b"\nthings_total 3.0\n" in body
    assert body.endswith(b"# EOF\n") == openmetrics


def test_gauges_named_by_the_id_of_a_process_that_is_gone_are_forgotten(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    for identity in (gone.pid, os.getpid()):
        (tmp_path / f"gauge_livesum_{identity}.db").touch()
        (tmp_path / f"counter_{identity}.db").touch()
    multiprocess.forget_gauges_of_the_dead(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"counter_{gone.pid}.db", f"counter_{os.getpid()}.db", f"gauge_livesum_{os.getpid()}.db"}


def test_a_supervised_worker_keeps_the_gauges_of_the_others_whose_numbers_are_no_pids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(multiprocess.FOLDER_VARIABLE, str(tmp_path))
    number = next(pid for pid in range(2, 10**6) if not Path("/proc", str(pid)).exists())
    (tmp_path / f"gauge_livesum_{number}.db").touch()
    SharedState.create(tmp_path / STATE, [], workers=1)
    worker = Supervised(ServiceConfig(), Routes(), tmp_path, slot=1)

    async def begin_and_end() -> None:
        with pytest.raises(FileNotFoundError, match=r"version\.json"):  # it has come as far as what is served
            await worker.start()
        await worker.stop()

    asyncio.run(begin_and_end())
    assert [path.name for path in tmp_path.glob("gauge_*")] == [f"gauge_livesum_{number}.db"]


@pytest.mark.parametrize("damage", ["empty", "three bytes", "cut short", "zeros", "not JSON", "too long"])
def test_a_damaged_file_is_left_out_and_counted_and_the_scrape_holds(
    tmp_path: Path, start: Start, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    start(1).kill()
    start(2)
    file = tmp_path / "counter_1.db"
    data = file.read_bytes()
    used = int.from_bytes(data[:4], sys.byteorder)
    damaged = {
        "empty": b"",
        "three bytes": data[:3],
        "cut short": data[: used - 20],
        "zeros": data[:8] + bytes(len(data) - 8),
        "not JSON": data.replace(b'["rrr', b"{{{{{"),
        "too long": (2**30).to_bytes(4, sys.byteorder) + data[4:],
    }
    file.write_bytes(damaged[damage])
    found = samples(tmp_path)
    assert counts(found)[:2] == (7, 2)
    assert found["rrr_metrics_unreadable_files"] == 1

    # The worker in its place starts all the same, and the loss stays visible.
    start(1)
    found = samples(tmp_path)
    assert counts(found)[:2] == (14, 3)
    assert found["rrr_metrics_unreadable_files"] == 1
    assert "counter_1.db cannot be read, being the file of a killed worker" in capfd.readouterr().err
