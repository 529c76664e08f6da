"""A worker's connections to Triton and to the version that is served, while either is replaced or cannot be reached."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from rrrserve.state.shared_state import SharedState
from rrrserve.triton.breaker import TritonLink
from rrrserve.triton.client import TritonClient, TritonError
from rrrserve.worker import following


@asynccontextmanager
async def slow_triton(seconds: float) -> AsyncIterator[str]:
    """The address of a server that tells its version, after a while."""

    async def version(_: bytes, __: object) -> bytes:
        await asyncio.sleep(seconds)
        answer: bytes = pb.ServerMetadataResponse(version="2.51.0").SerializeToString()
        return answer

    server = grpc.aio.server()
    handlers = {"ServerMetadata": grpc.unary_unary_rpc_method_handler(version)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def run(work: Callable[[str, SharedState], Awaitable[None]]) -> None:
    async def main() -> None:
        async with slow_triton(0.5) as url:
            await work(url, SharedState.in_process(["a"]))

    asyncio.run(main())


def test_calls_under_way_are_answered_when_triton_wakes_as_another_generation() -> None:
    async def work(url: str, state: SharedState) -> None:
        link = TritonLink(url, state)
        under_way = asyncio.create_task(link.server_version(timeout_seconds=5))
        await asyncio.sleep(0.2)
        state.triton.generation += 1
        assert await link.server_version(timeout_seconds=5) == "2.51.0"
        assert await under_way == "2.51.0"
        await link.close()

    run(work)


def test_a_retired_connection_is_closed_once_its_calls_have_ended() -> None:
    async def work(url: str, state: SharedState) -> None:
        link = TritonLink(url, state)
        under_way = asyncio.create_task(link.server_version(timeout_seconds=0.2))
        await asyncio.sleep(0.05)
        state.triton.generation += 1
        await link.server_version(timeout_seconds=5)
        with pytest.raises(TritonError, match="DEADLINE"):
            await under_way
        assert not [task for task in asyncio.all_tasks() if "TritonClient.close" in repr(task)]
        await link.close()

    run(work)


def test_a_connection_that_is_closed_under_a_call_is_an_unavailable_backend_and_no_cancellation() -> None:
    async def work(url: str, _: SharedState) -> None:
        client = TritonClient(url)
        under_way = asyncio.create_task(client.server_version(timeout_seconds=5))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(TritonError) as caught:
            await under_way
        assert caught.value.code == "backend_unavailable"

    run(work)


def test_a_call_that_is_cancelled_stays_cancelled() -> None:
    async def work(url: str, _: SharedState) -> None:
        client = TritonClient(url)
        under_way = asyncio.create_task(client.server_version(timeout_seconds=5))
        await asyncio.sleep(0.2)
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        await client.close()

    run(work)


class Look:
    """Fails for a number of times."""

    def __init__(self, failures: int) -> None:
        self.calls = 0
        self.failures = failures

    async def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError(24, "Too many open files")


def follows(look: Look, seconds: float) -> bool:
    """Whether a worker still follows after a while."""

    async def main() -> bool:
        task = asyncio.create_task(following.keep_following(look))
        done, _ = await asyncio.wait([task], timeout=seconds)
        task.cancel()
        return not done

    return asyncio.run(main())


def test_a_worker_that_cannot_follow_the_served_version_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "_POLL_SECONDS", 0.01)
    look = Look(failures=3)
    assert follows(look, 0.3)
    assert look.calls > 5
    assert [record.getMessage() for record in caplog.records] == [
        "this worker cannot change to the version that is served now: it tries again"
    ]


def test_a_worker_that_keeps_failing_to_follow_ends_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(following, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(following, "_MOST_SECONDS_BEHIND", 0.1)
    monkeypatch.setattr(os, "kill", lambda *told: signals.append(told))
    assert not follows(Look(failures=10**9), 5)
    assert signals == [(os.getpid(), signal.SIGTERM)]
    assert caplog.records[-1].getMessage() == "this worker could not change to the version that is served: it ends"
