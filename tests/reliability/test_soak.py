"""A short soak of the shared service (`make soak` is the long one), and how growth is judged."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import damage, growth
from harness.growth import Census, take_census
from harness.raw_http import request
from harness.soaking import Good, Soak, good_requests
from rrrserve.process import scratch

REQUESTS = 300
STEADY = Census(0, {"worker": 100.0, "stub": 60.0}, 180.0, 70, 90, 1, 30, (1, 2, 3))


def censuses(bytes_each: float, *, count: int = 20_000) -> list[Census]:
    """A service that keeps so much of each request, and now and then 9 MB until the next count."""
    chance = random.Random(0)
    found = []
    for done in range(0, count + 1, count // 40):
        held = 9.0 * (chance.random() < 0.2) + chance.uniform(-0.2, 0.2)
        memory = {"worker": 100.0 + held + done * bytes_each / 1e6, "stub": 60.0}
        found.append(replace(STEADY, requests=done, memory_mb=memory))
    return found


def test_a_leak_is_told_from_what_comes_and_goes() -> None:
    assert growth.misses(censuses(0)) == []
    leaking = growth.misses(censuses(4096))
    assert any("memory grew by 8" in miss and "MB, more than 20" in miss for miss in leaking)
    assert any("bytes a request in the last half, more than 500" in miss for miss in leaking)
    assert growth.bytes_per_request(censuses(4096)) == pytest.approx(4096, rel=0.05)
    small = growth.misses(censuses(800))
    assert len(small) == 1
    assert "bytes a request" in small[0]
    early = [replace(STEADY, requests=done, memory_mb={"worker": 190.0 if done else 160.0}) for done in range(9)]
    assert growth.misses(early) == ["memory grew by 30.0 MB, more than 20"]


@pytest.mark.parametrize("name", ["descriptors", "threads", "shared_memory", "files"])
def test_what_is_not_given_back_is_named_beyond_a_drift_of_two(name: str) -> None:
    before = getattr(STEADY, name)
    steady = [replace(STEADY, requests=done) for done in range(4)]
    assert growth.misses([*steady[:-1], replace(steady[-1], **{name: before + 2})]) == []
    grown = growth.misses([*steady[:-1], replace(steady[-1], **{name: before + 3})])
    assert grown == [f"{name} at the end {before + 3}, at the beginning {before}"]


def test_a_process_that_was_replaced_is_a_miss() -> None:
    found = [replace(STEADY, requests=done, processes=(1, 2, 3 + done // 3)) for done in range(4)]
    assert growth.misses(found) == ["a process ended or began"]


def test_good_and_bad_requests_get_their_answers_and_the_service_holds_what_it_held(service: Any, png: Any) -> None:
    prefix = f"{scratch.prefix(service.process.pid)}*"
    folders = list(Path(tempfile.gettempdir()).glob(prefix))
    clients = Soak(service.url, good_requests(service.url, [png(seed) for seed in range(4)]), bad_share=0.2, seed=1)
    clients.send(REQUESTS // 3, 4)
    before = take_census(service.process.pid, 0, folders)
    clients.send(REQUESTS * 2 // 3, 4)
    after = take_census(service.process.pid, REQUESTS * 2 // 3, folders)
    tally = clients.tally
    assert tally.faults == []
    assert sum(tally.statuses.values()) + tally.gone == REQUESTS
    assert tally.statuses[200] >= 0.75 * REQUESTS
    assert {200, 400, 404, 405, 413, 415} <= set(tally.statuses)
    assert {"worker", "stub", "tritonserver", "parent"} < set(before.memory_mb)
    assert before.shared_memory > 0
    assert before.files > 0
    # So soon after the first requests caches still fill; what must not grow with them are counts.
    assert after.processes == before.processes
    assert after.shared_memory == before.shared_memory
    assert abs(after.descriptors - before.descriptors) <= 12
    assert abs(after.threads - before.threads) <= 12
    assert after.total_mb - before.total_mb <= 40


def test_a_wrong_answer_of_status_200_is_a_fault(service: Any, png: Any) -> None:
    (good,) = good_requests(service.url, [png(0)])[:1]
    assert good.golden is not None
    wrong = Good(good.data, [{label: 1 - value for label, value in entry.items()} for entry in good.golden])
    clients = Soak(service.url, [wrong], bad_share=0.0, seed=0)
    clients.send(3, 1)
    assert len(clients.tally.faults) == 3
    assert clients.tally.faults[0].startswith("a wrong answer: ")


@pytest.mark.nightly
def test_the_control_leaks_in_a_copy_that_serves_and_grows(
    start_service: Any, repository: Path, tmp_path: Path, png: Any
) -> None:
    damage.leaking(repository, tmp_path / "leaking", 2**18)
    served = start_service(str(tmp_path / "leaking"), "--port", "0")
    clients = Soak(served.url, [Good(request(png(0)), None)], bad_share=0.0, seed=0)
    clients.send(20, 4)
    before = take_census(served.process.pid, 0, [])
    clients.send(100, 4)
    after = take_census(served.process.pid, 100, [])
    assert clients.tally.faults == []
    assert after.memory_mb["stub"] - before.memory_mb["stub"] == pytest.approx(26, abs=8)
