"""A worker's connections to Triton and to the version that is served, while either is replaced or cannot be reached."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from rrrbuild.repository_document import ServedModel
from rrrnet.images.preprocess import Preprocess
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.breaker import TritonLink
from rrrserve.triton.calls import Calls, TritonError
from rrrserve.triton.client import TritonClient
from rrrserve.worker import following

MODEL = ServedModel("a", "1", "t", "python", 2, 2, ("a", "b"), Preprocess(32), 32, 2, 2, ("probabilities",))


@asynccontextmanager
async def slow_triton(seconds: float, ended: list[str]) -> AsyncIterator[str]:
    """The address of a server that tells its version, after a while, and how its calls ended."""

    async def version(_: bytes, __: object) -> bytes:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        answer: bytes = pb.ServerMetadataResponse(version="2.51.0").SerializeToString()
        ended.append("answered")
        return answer

    server = grpc.aio.server()
    handlers = dict.fromkeys(("ServerMetadata", "ModelInfer"), grpc.unary_unary_rpc_method_handler(version))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def run(work: Callable[[str, SharedState], Awaitable[None]]) -> None:
    async def main() -> None:
        async with slow_triton(0.5, []) as url:
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
        with pytest.raises(TritonError, match="no answer before the deadline"):
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


async def given_up(target: Callable[[str], str], *, by_the_client: bool) -> tuple[list[int], list[str]]:
    """What is counted of a call with three images that nobody waits for any more, and how it ends in Triton."""
    counted: list[int] = []
    ended: list[str] = []
    async with slow_triton(0.5, ended) as url:
        calls = Calls(target(url), counted.append)
        call = asyncio.create_task(calls.ask("ServerMetadata", b"", 5 if by_the_client else 0.2, images=3))
        await asyncio.sleep(0.2)
        if by_the_client:
            call.cancel()
        with pytest.raises(asyncio.CancelledError if by_the_client else TritonError):
            await call
        gc.collect()  # a call that nobody holds is cancelled by gRPC
        await asyncio.sleep(0.5)
        await calls.close(0)
    return counted, ended


@pytest.mark.parametrize("by_the_client", [True, False])
def test_one_triton_is_left_to_answer_what_nobody_waits_for_and_it_counts_as_long(*, by_the_client: bool) -> None:
    found = asyncio.run(given_up(str, by_the_client=by_the_client))
    assert found == ([3, -3], ["answered"])


@pytest.mark.parametrize("by_the_client", [True, False])
def test_in_several_tritons_what_nobody_waits_for_is_cancelled(*, by_the_client: bool) -> None:
    found = asyncio.run(given_up("ipv4:{0},{0}".format, by_the_client=by_the_client))
    assert found == ([], ["cancelled"])


def test_a_worker_counts_what_triton_is_still_at_as_under_way() -> None:
    async def work(url: str, state: SharedState) -> None:
        link = TritonLink(url, state)
        image = np.zeros((32, 32, 3), np.uint8)
        with pytest.raises(TritonError, match="no answer before the deadline"):
            await link.infer(MODEL, [image, image], timeout_seconds=0.2)
        assert state.total() == 2
        await asyncio.sleep(0.5)
        assert state.total() == 0
        await link.close()

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
