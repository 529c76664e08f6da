"""Closed and open loops, against real local servers: one that is stopped for a second, one that never answers."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from rrrnet.errors import UsageError
from rrrserve.bench import runner
from rrrserve.bench.clients.http_client import HttpClient
from rrrserve.bench.clients.subjects import Subject
from rrrserve.bench.figures import figures, finished, merged, round_to_json
from rrrserve.bench.loops import Recorder, arrival_times, closed_loop, open_loop
from rrrserve.bench.plan import BenchPlan, Load
from rrrserve.bench.search import Search, Trial


@contextmanager
def answerer() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that answers HTTP at once, and its URL."""
    command = [sys.executable, "-m", "rrrserve.bench.clients.answerer", "http"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def subject(url: str) -> Subject:
    def connect_to(base: str) -> HttpClient:
        return HttpClient(f"{base}/", [b"x" * 1000], timeout_seconds=10)

    return Subject(
        "m", "http", "none", 1, url, 1, lambda: connect_to(url), lambda address: connect_to(f"http://{address}")
    )


def test_an_open_loop_shows_a_stall_of_one_second_in_p99_and_a_closed_loop_hides_it() -> None:
    with answerer() as (process, url):

        def stall() -> None:
            time.sleep(0.5)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(1.0)
            os.kill(process.pid, signal.SIGCONT)

        def report(text: str, done: int, total: int) -> None:
            if text.startswith("m (http), "):
                threading.Thread(target=stall, daemon=True).start()

        loads = (Load(concurrency=1), Load(rate_per_second=100.0, arrivals="constant"))
        document = runner.run(
            [subject(url)], BenchPlan(loads, rounds=1, seconds=2.0, warm_up_seconds=0.0), report=report
        )
    closed, opened = document["runs"]
    assert closed["max_ms"] >= 990
    assert closed["p99_ms"] < 500
    assert sum(count for value, count in _counts(closed) if value > 500_000) == 1
    assert opened["ok"] == 200
    # 100 requests were due in the stall, the first of them waited for all of it.
    assert opened["p99_ms"] >= 950
    assert opened["p90_ms"] >= 650
    assert sum(count for value, count in _counts(opened) if value > 500_000) >= 48
    assert document["client"]["limit_requests_per_second"] > 300
    assert (document["interrupted"], closed["errors"], opened["errors"]) == (False, {}, {})


def _counts(run: dict[str, list[dict[str, str]]]) -> Iterator[tuple[int, int]]:
    """Microseconds and number of requests."""
    for item in merged(turn["histogram"] for turn in run["rounds"]):
        yield item.value_iterated_to, item.count_added_in_this_iter_step


def test_requests_beyond_the_cap_are_counted_and_not_sent() -> None:
    connections: list[asyncio.Task[None] | None] = []

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async def main() -> Recorder:
        server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
        recorder = Recorder()
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            client = HttpClient(url, [b"x"], timeout_seconds=0.5)
            await open_loop(client, np.arange(10) / 1000, recorder, max_in_flight=3)
            await client.close()
            await asyncio.gather(*filter(None, connections))
        return recorder

    recorder = asyncio.run(main())
    assert recorder.errors == {"not_sent": 7, "TimeoutError": 3}
    assert (len(connections), len(recorder.late_seconds), recorder.latencies_seconds) == (3, 3, [])
    assert min(recorder.late_seconds) >= 0


@pytest.mark.parametrize(("keep_alive", "expected"), [(True, 1), (False, 6)])
def test_connections_are_used_again_unless_that_is_refused(keep_alive: bool, expected: int) -> None:
    heads: list[bytes] = []
    connections: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        while head := await reader.read(10_000):
            heads.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()
        await writer.wait_closed()

    async def main() -> Recorder:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        recorder = Recorder()
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a?b=c"
            client = HttpClient(url, [b"xyz"], timeout_seconds=5, headers={"X-Who": "me"}, keep_alive=keep_alive)
            await closed_loop(client, 1, recorder, requests=6, seconds=None)
            await client.close()
            await asyncio.gather(*filter(None, connections))
        return recorder

    recorder = asyncio.run(main())
    assert (len(recorder.latencies_seconds), len(connections)) == (6, expected)
    assert heads[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert b"\r\nX-Who: me\r\n" in heads[0]
    assert (b"\r\nConnection: close\r\n" in heads[0]) is not keep_alive


def test_arrivals_are_those_of_the_named_process_and_of_the_seed() -> None:
    def times(arrivals: str, seed: int, **limit: float | int | None) -> npt.NDArray[np.float64]:
        limits = {"requests": None, "seconds": None, **limit}
        return arrival_times(50.0, arrivals, random=np.random.default_rng(seed), **limits)  # type: ignore[arg-type]

    assert np.diff(times("constant", 0, seconds=2.0)) == pytest.approx(np.full(99, 0.02))
    assert times("constant", 0, requests=7).shape == (7,)
    poisson = times("poisson", 0, seconds=200.0)
    assert poisson.max() < 200
    assert len(poisson) == pytest.approx(10_000, abs=400)  # four standard deviations
    gaps = np.diff(poisson)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    assert np.array_equal(poisson, times("poisson", 0, seconds=200.0))
    assert not np.array_equal(times("poisson", 0, requests=9), times("poisson", 1, requests=9))
    assert times("poisson", 0, requests=5, seconds=200.0) == pytest.approx(times("poisson", 0, requests=9)[:5])


def test_percentiles_are_exact_to_three_digits_and_rounds_pool_into_one_histogram() -> None:
    random = np.random.default_rng(0)
    turns = []
    for _ in range(2):
        recorder = Recorder(latencies_seconds=random.lognormal(-4, 1, 5000).tolist(), wall_seconds=2.0)
        recorder.errors["503"] += 3
        turns.append((recorder, finished(recorder, 0.0)))
    pooled = figures([turn for _, turn in turns])
    latencies_ms = np.sort(1000 * np.concatenate([recorder.latencies_seconds for recorder, _ in turns]))
    for name, percent in (("p50_ms", 50), ("p90_ms", 90), ("p95_ms", 95), ("p99_ms", 99), ("p999_ms", 99.9)):
        assert pooled[name] == pytest.approx(latencies_ms[round(100 * percent) - 1], rel=1.1e-3)
    assert pooled["mean_ms"] == pytest.approx(latencies_ms.mean(), rel=1e-5)
    assert pooled["max_ms"] == pytest.approx(latencies_ms.max(), rel=1e-5)
    assert (pooled["ok"], pooled["errors"], pooled["throughput"]) == (10_000, {"503": 6}, 2500.0)
    texts = [round_to_json(turn)["histogram"] for _, turn in turns]
    assert [merged([text]).get_total_count() for text in texts] == [5000, 5000]
    assert merged(texts).get_value_at_percentile(99) / 1000 == pytest.approx(pooled["p99_ms"], rel=1e-5)


def test_figures_of_a_turn_without_answers_have_no_latencies() -> None:
    recorder = Recorder(wall_seconds=1.0)
    recorder.errors["TimeoutError"] = 2
    found = round_to_json(finished(recorder, 0.0))
    assert (found["ok"], found["errors"], found["throughput"]) == (0, {"TimeoutError": 2}, 0.0)
    assert {found[name] for name in ("mean_ms", "p50_ms", "p99_ms", "max_ms")} == {None}
    assert merged([found["histogram"]]).get_total_count() == 0


@pytest.mark.parametrize(
    ("breaks_at", "first", "highest", "expected"),
    [(87.0, 30.0, 1000.0, 87.0), (87.0, 400.0, 1000.0, 87.0), (500.0, 30.0, 100.0, 100.0), (0.1, 30.0, 100.0, None)],
    ids=["from below", "from above", "client's limit", "no rate"],
)
def test_the_search_finds_the_rate_where_p99_breaks(
    breaks_at: float, first: float, highest: float, expected: float | None
) -> None:
    tried: list[float] = []

    async def attempt(rate: float) -> Trial:
        tried.append(rate)
        busy_machine = len(tried) == 1  # one bad trial condemns no rate
        good = rate < breaks_at and not busy_machine
        return Trial(rate, 10.0 if good else 99.0, 0, 100, good)

    search = Search(50.0)
    asyncio.run(search.run(attempt, first=first, highest=highest))
    assert 1 < len(search.trials) <= 24
    if expected is None:
        assert search.best is None
        assert search.reason.startswith("even 1.")
    else:
        assert search.best is not None
        assert expected / 1.05 <= search.best.rate_per_second <= expected
        assert search.best.p99_ms == 10.0
        assert ("client" in search.reason) == (expected == highest)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Load(concurrency=0), "allowed are 1 to 1024"),
        (lambda: Load(rate_per_second=0.0), "above 0"),
        (lambda: Load(rate_per_second=5.0, arrivals="burst"), "allowed are poisson, constant"),
        (lambda: Load(), "a concurrency or a rate"),
        (lambda: BenchPlan(()), "nothing to measure"),
        (lambda: BenchPlan((Load(concurrency=1),), seconds=None), "needs a limit"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(make: type, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
