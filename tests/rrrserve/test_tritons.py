"""Several Tritons behind one front: how they are given, who is asked, and what is told of them. Tritons are made up."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from rrrbuild.repository_document import ServedModel
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrserve.api.admission import Admission
from rrrserve.config.service_config import ServiceConfig
from rrrserve.metrics.supervision import SupervisionCollector
from rrrserve.net.targets import addresses_of, in_words, target_of
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.calls import TritonError
from rrrserve.triton.channel import channel_options
from rrrserve.triton.client import TritonClient
from rrrserve.triton.others import watch_for_ever
from rrrserve.triton.readiness import Readiness

MODEL = ServedModel("m", "1", "t", "python", 2, 4, ("a", "b"), Preprocess(32), 32, 1, 1, ("probabilities",))
IMAGE = np.zeros((32, 32, 3), np.uint8)


class FakeTriton:
    """Answers with the same probabilities whatever it is asked, or fails, and counts.

    Attributes:
        address: IP:PORT.
        asked: how often.
        fails: the status in place of an answer.
        first: the probability of label a.
    """

    def __init__(self, first: float = 0.75) -> None:
        self.asked, self.first = 0, first
        self.fails: grpc.StatusCode | None = None
        self.address = ""
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])

    async def start(self) -> None:
        """Listen."""
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            "ServerMetadata": grpc.unary_unary_rpc_method_handler(self._version),
        }
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
        self._server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        """End it, and what is under way."""
        await self._server.stop(0)

    async def _version(self, _: bytes, __: object) -> bytes:
        return bytes(pb.ServerMetadataResponse(version="2.60.0").SerializeToString())

    async def _infer(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.asked += 1
        if self.fails is not None:
            await context.abort(self.fails, "on purpose")
        images = pb.ModelInferRequest.FromString(request).inputs[0].shape[0]
        output = pb.ModelInferResponse.InferOutputTensor(name="probabilities", datatype="FP32", shape=[images, 2, 2])
        values = np.full((images, 2, 2), [self.first, 1 - self.first], "<f4").tobytes()
        return bytes(pb.ModelInferResponse(outputs=[output], raw_output_contents=[values]).SerializeToString())


@asynccontextmanager
async def tritons(*firsts: float) -> AsyncIterator[list[FakeTriton]]:
    """So many, running."""
    async with AsyncExitStack() as stack:
        found = [FakeTriton(first) for first in firsts]
        for each in found:
            await each.start()
            stack.push_async_callback(each.stop)
        yield found


def target(found: list[FakeTriton]) -> str:
    """All of them."""
    return target_of("--triton-url", [each.address for each in found])


def run(work: Callable[[list[FakeTriton], TritonClient], Awaitable[None]], count: int = 2) -> None:
    """Do something with a client of so many Tritons that has met all of them."""

    async def main() -> None:
        async with tritons(*[0.75] * count) as found:
            client = TritonClient(target(found))
            while not all(each.asked for each in found):
                await client.infer(MODEL, [IMAGE], timeout_seconds=30)
            for each in found:
                each.asked = 0
            await work(found, client)
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("given", "expected", "words"),
    [
        (["triton:8001"], "triton:8001", "Triton at triton:8001"),
        (["10.0.0.1:1", "10.0.0.1:1"], "10.0.0.1:1", "Triton at 10.0.0.1:1"),
        (["10.0.0.1:1", "10.0.0.2:2"], "ipv4:10.0.0.1:1,10.0.0.2:2", "Tritons at 10.0.0.1:1, 10.0.0.2:2"),
        (["[::1]:1", "[::1]:2"], "ipv6:[::1]:1,[::1]:2", "Tritons at [::1]:1, [::1]:2"),
        (["dns:///triton:8001"], "dns:///triton:8001", "the Tritons at dns:///triton:8001"),
    ],
)
def test_one_triton_several_or_a_name_of_many_are_one_target(given: list[str], expected: str, words: str) -> None:
    assert target_of("--triton-url", given) == expected
    assert in_words(expected) == words
    assert ServiceConfig.from_environment({"RRR_TRITON_URL": " ".join(given)}).triton_url == expected
    assert ServiceConfig.from_environment({}, triton_url=given).triton_url == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ["dns:///triton"],
            "--triton-url is 'dns:///triton': expected HOST:PORT of Triton's gRPC, such as .*, or dns:///NAME",
        ),
        (
            ["a:1", "b:1"],
            "--triton-url is given 2 times, as 'a:1' and 'b:1': several Tritons are given by IP addresses",
        ),
        (["127.0.0.1:1", "[::1]:1"], "IP addresses of one version, such as 10.0.0.1:8001 and 10.0.0.2:8001"),
        (
            ["dns:///a:1", "10.0.0.1:1"],
            "or together by one name that has the addresses of all of them, dns:///NAME:PORT",
        ),
        (["10.0.0.1:1", "10.0.0.2"], "--triton-url is '10.0.0.2': expected HOST:PORT"),
    ],
)
def test_what_cannot_be_one_target_is_refused_with_what_can(given: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ServiceConfig.from_environment({}, triton_url=given)


def test_a_name_stands_for_its_addresses_of_one_version_and_a_list_for_itself() -> None:
    assert asyncio.run(addresses_of("dns:///localhost:81")) in ({"127.0.0.1:81"}, {"[::1]:81"})
    assert asyncio.run(addresses_of("dns:///[::1]:81")) == {"[::1]:81"}
    assert asyncio.run(addresses_of("ipv4:10.0.0.1:1,10.0.0.2:2")) == {"10.0.0.1:1", "10.0.0.2:2"}
    with pytest.raises(OSError, match=r"\S"):
        asyncio.run(addresses_of("dns:///no.such.name.invalid:81"))


def test_a_connection_to_one_triton_has_no_option_that_several_need() -> None:
    alone, several = (dict(channel_options(target)) for target in ("127.0.0.1:1", "ipv4:127.0.0.1:1,127.0.0.1:2"))
    assert {name for name in several if name not in alone} == {
        "grpc.service_config",
        "grpc.per_rpc_retry_buffer_size",
        "grpc.keepalive_time_ms",
        "grpc.http2.ping_timeout_ms",
    }
    assert {name: several[name] for name in alone} == alone


def test_several_take_turns() -> None:
    async def work(found: list[FakeTriton], client: TritonClient) -> None:
        for _ in range(30):
            await client.infer(MODEL, [IMAGE], timeout_seconds=30)
        assert [each.asked for each in found] == [10, 10, 10]

    run(work, count=3)


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
def test_what_one_fails_another_answers(status: grpc.StatusCode) -> None:
    async def work(found: list[FakeTriton], client: TritonClient) -> None:
        found[0].fails = status
        for _ in range(8):
            answer = await client.infer(MODEL, [IMAGE], timeout_seconds=30)
            assert answer.probabilities[0, 0].tolist() == [0.75, 0.25]
        assert found[0].asked > 0
        assert found[1].asked == 8

    run(work)


@pytest.mark.nightly  # gRPC counts once a second, and what is less than 4 calls to each does not count
def test_one_that_always_fails_is_left_out_for_a_while() -> None:
    async def work(found: list[FakeTriton], client: TritonClient) -> None:
        found[0].fails = grpc.StatusCode.INTERNAL
        async with asyncio.timeout(120):
            while True:
                before = [each.asked for each in found]
                calls = (client.infer(MODEL, [IMAGE], timeout_seconds=60) for _ in range(40))
                await asyncio.gather(*calls, return_exceptions=True)  # some may meet it again with every try
                if [each.asked for each in found] == [before[0], before[1] + 40]:
                    return

    run(work)


def test_a_request_larger_than_grpc_keeps_for_another_try_by_default_is_tried_again() -> None:
    large = ServedModel("m", "1", "t", "python", 2, 4, ("a", "b"), Preprocess(512), 512, 1, 1, ("probabilities",))
    images = [np.zeros((512, 512, 3), np.uint8)] * 4

    async def work(found: list[FakeTriton], client: TritonClient) -> None:
        found[0].fails = grpc.StatusCode.UNAVAILABLE
        for _ in range(4):
            assert (await client.infer(large, images, timeout_seconds=30)).probabilities.shape == (4, 2, 2)
        assert found[0].asked > 0

    run(work)


def test_an_error_that_is_the_requests_own_is_not_tried_again() -> None:
    async def work(found: list[FakeTriton], client: TritonClient) -> None:
        for each in found:
            each.fails = grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(TritonError):
            await client.infer(MODEL, [IMAGE], timeout_seconds=30)
        assert sum(each.asked for each in found) == 1

    run(work)


def test_one_that_falls_silent_with_work_under_way_is_found_by_pings_and_the_work_done_by_another() -> None:
    async def main() -> None:
        frozen, relays = asyncio.Event(), list[asyncio.Task[None] | None]()
        async with tritons(0.75, 0.75) as found:

            async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while data := await reader.read(2**16):
                    if frozen.is_set():  # as of a stopped process: the kernel takes what comes, nobody answers
                        continue
                    writer.write(data)
                writer.close()

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                relays.append(asyncio.current_task())
                behind = await asyncio.open_connection("127.0.0.1", int(found[0].address.rpartition(":")[2]))
                await asyncio.gather(pass_on(reader, behind[1]), pass_on(behind[0], writer))

            server = await asyncio.start_server(relay, "127.0.0.1", 0)
            through = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            client = TritonClient(target_of("--triton-url", [through, found[1].address]))
            while not all(each.asked for each in found):
                await client.infer(MODEL, [IMAGE], timeout_seconds=30)
            frozen.set()
            before = found[0].asked
            await asyncio.gather(*(client.infer(MODEL, [IMAGE], timeout_seconds=60) for _ in range(6)))
            assert found[0].asked == before
            await client.close()
            server.close()
            await asyncio.gather(*(each for each in relays if each is not None))

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


def test_the_service_is_up_while_one_of_them_answers_and_tells_how_many_do(caplog: pytest.LogCaptureFixture) -> None:
    state = SharedState.in_process(["m"])
    readiness = Readiness({}, None, state)  # type: ignore[arg-type]  # a model that nobody needs to ask

    async def main() -> None:
        async with tritons(0.75, 0.75) as found:
            watching = asyncio.create_task(watch_for_ever(target(found), (MODEL,), state))
            await until(lambda: state.triton.answering == 2)
            assert (state.triton.up, state.triton.known, state.answers("m")) == (1, 2, True)
            assert await readiness.check() is None
            await found[0].stop()
            await until(lambda: state.triton.answering == 1)
            assert (state.triton.up, state.triton.known, state.answers("m")) == (1, 2, True)
            assert f"1 of 2 Tritons answer; silent: {found[0].address}" in caplog.text
            await found[1].stop()
            await until(lambda: not state.triton.up)
            assert (state.triton.answering, state.answers("m")) == (0, False)
            assert await readiness.check() == "none of 2 Tritons answers"
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching

    asyncio.run(main())


def test_tritons_that_serve_different_repositories_are_told(caplog: pytest.LogCaptureFixture) -> None:
    state = SharedState.in_process(["m"])

    async def main() -> None:
        async with tritons(0.75, 0.5) as found:
            watching = asyncio.create_task(watch_for_ever(target(found), (MODEL,), state))
            await until(lambda: "answer the same image differently" in caplog.text)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(main())
    assert "as model m (probabilities differ by 0.250): let both serve the repository that rrr serve" in caplog.text


def test_workers_connect_anew_when_a_name_has_other_addresses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = SharedState.in_process(["m"])
    looked_up = Counter[str]()

    async def main() -> None:
        async with tritons(0.75, 0.75) as found:
            now = {found[0].address}

            async def look_up(target: str) -> set[str]:
                looked_up[target] += 1
                if looked_up[target] == 2:
                    raise OSError("no answer")
                return set(now)

            monkeypatch.setattr("rrrserve.triton.others.addresses_of", look_up)
            monkeypatch.setattr("rrrserve.triton.others._LOOK_UP_SECONDS", 0.05)
            watching = asyncio.create_task(watch_for_ever("dns:///triton:8001", (MODEL,), state))
            await until(lambda: state.triton.answering == 1 and looked_up["dns:///triton:8001"] > 3)
            assert (state.triton.known, state.triton.generation) == (1, 1)
            now.add(found[1].address)
            await until(lambda: state.triton.answering == 2)
            now.remove(found[0].address)
            await until(lambda: state.triton.known == 1)
            assert state.triton.generation == 3
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(main())
    assert "dns:///triton:8001 cannot be looked up: no answer" in caplog.text


def test_metrics_and_the_limit_of_work_under_way_count_tritons_only_where_there_are_several() -> None:
    collector = SupervisionCollector()
    state = collector.state = SharedState.in_process(["m"])
    given, default = Admission(state, 1), Admission(state, 1, of_each_triton=True)

    def told() -> dict[str, float]:
        return {s.name: s.value for m in collector.collect() for s in m.samples if s.name.startswith("rrr_tritons")}

    assert told() == {}
    state.add(1)
    assert [one.load(one.queue(), 10) for one in (given, default)] == [1, 1]
    state.triton.known, state.triton.answering = 2, 1
    assert told() == {"rrr_tritons_known": 2, "rrr_tritons_answering": 1}
    assert [one.load(one.queue(), 10) for one in (given, default)] == [1, 0.5]
