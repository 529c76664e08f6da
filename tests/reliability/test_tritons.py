"""Two real Tritons behind one service: while one of them answers, so does the service, and rightly."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.clients import RIGHT, Clients, Tally
from harness.service import RRR, Service, wait_for
from harness.tritons import Triton

Start = Callable[..., Service]
Png = Callable[[int], bytes]
NONE = "none of 2 Tritons answers"

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@asynccontextmanager
async def two(repository: Path) -> AsyncIterator[list[Triton]]:
    """Two Tritons that answer."""
    found = [Triton(repository) for _ in range(2)]
    try:
        for each in found:
            await each.start()
        yield found
    finally:
        for each in found:
            await each.end()


def counted(served: Service) -> tuple[int, dict[str, Any]]:
    """The status of /readyz, and how many Tritons it tells of."""
    answer = served.ask("/readyz")
    return answer.status_code, answer.json().get("tritons", {})


def play(
    repository: Path,
    png: Png,
    start_service: Start,
    given: Callable[[list[str]], list[str]],
    acts: Callable[[Service, list[Triton], Clients], Awaitable[None]],
) -> tuple[Tally, str]:
    """What eight clients saw while `acts` ran, and the service's log; `given` makes options of addresses."""
    bodies = [png(seed) for seed in range(4)]

    async def main() -> tuple[Tally, str]:
        async with two(repository) as tritons:
            words = given([each.url for each in tritons])
            served = await asyncio.to_thread(start_service, str(repository), "--port", "0", "--workers", "2", *words)
            golden = await asyncio.to_thread(served.golden, "", bodies)
            await asyncio.to_thread(wait_for, lambda: counted(served) == (200, {"known": 2, "answering": 2}))
            clients = Clients(f"{served.url}/v1/predict", bodies, golden, deadline_seconds=30.0)
            running = asyncio.create_task(clients.run(8))
            try:
                await acts(served, tritons, clients)
            finally:
                clients.stop()
                await running
            assert await asyncio.to_thread(served.stop) == 0
            return clients.tally, served.log.read_text()

    return asyncio.run(main())


def listed(urls: list[str]) -> list[str]:
    """Each by itself."""
    return [word for url in urls for word in ("--triton-url", url)]


def test_one_of_two_is_killed_and_comes_back_and_the_other_freezes_and_nothing_is_lost(
    start_service: Start, repository: Path, png: Png
) -> None:
    async def acts(served: Service, tritons: list[Triton], clients: Clients) -> None:
        async def until(answering: int) -> None:
            expected = (200, {"known": 2, "answering": answering})
            await asyncio.to_thread(wait_for, lambda: counted(served) == expected)

        tritons[0].send(signal.SIGKILL)
        await until(1)
        assert "rrr_tritons_answering 1.0" in (await asyncio.to_thread(served.ask, "/metrics")).text
        await tritons[0].start()
        await until(2)
        tritons[1].send(signal.SIGSTOP)
        await until(1)
        answered = clients.tally.count(RIGHT)
        await asyncio.to_thread(wait_for, lambda: clients.tally.count(RIGHT) >= answered + 20)
        tritons[1].send(signal.SIGCONT)
        await until(2)

    tally, log = play(repository, png, start_service, listed, acts)
    assert tally.counts().keys() == {RIGHT}
    assert "2 of 2 Tritons answer" in log
    assert "1 of 2 Tritons answer; silent: 127.0.0.1:" in log


def test_without_any_of_them_it_refuses_and_it_cannot_be_reloaded(
    start_service: Start, repository: Path, png: Png
) -> None:
    async def acts(served: Service, tritons: list[Triton], _: Clients) -> None:
        reload = [str(RRR), "reload", "--url", served.url]
        ran = await asyncio.to_thread(subprocess.run, reload, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 1
        assert "Triton is not ours (--triton-url)" in ran.stderr
        for each in tritons:
            each.send(signal.SIGKILL)
        # At first it may be "the model single does not answer": a model is missed before all Tritons are.
        await asyncio.to_thread(wait_for, lambda: served.ask("/readyz").json().get("error", {}).get("message") == NONE)
        assert counted(served)[0] == 503
        answer = await asyncio.to_thread(served.ask, "/v1/predict", content=png(0))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "backend_unavailable")
        await tritons[0].start()
        await asyncio.to_thread(wait_for, lambda: counted(served) == (200, {"known": 2, "answering": 1}))

    tally, _ = play(repository, png, start_service, listed, acts)
    assert tally.counts().keys() <= {RIGHT, "503"}
    assert tally.endings[-1].kind == RIGHT


def test_all_addresses_of_a_name_are_one_service(start_service: Start, repository: Path, png: Png) -> None:
    async def main() -> str:
        async with two(repository) as (first, _):
            port = first.url.rpartition(":")[2]
            words = ("--triton-url", f"dns:///localhost:{port}")
            served = await asyncio.to_thread(start_service, str(repository), "--port", "0", *words)
            await asyncio.to_thread(wait_for, lambda: counted(served)[1].get("answering") == 1)
            answer = await asyncio.to_thread(served.ask, "/v1/predict", content=png(0))
            assert answer.status_code == 200
            assert await asyncio.to_thread(served.stop) == 0
            return served.log.read_text()

    assert "the Tritons at dns:///localhost:" in asyncio.run(main())
