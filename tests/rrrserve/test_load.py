"""The load generator, against the running service and against servers that misbehave."""

import asyncio
import socket
from collections.abc import Callable

import httpx
import pytest

from rrrnet.errors import UsageError
from rrrserve.bench.closed_loop import closed_loop

Files = Callable[[int], bytes]


def test_every_request_is_answered_and_counted_by_the_service(client: httpx.Client, png: Files) -> None:
    def predictions() -> float:
        name = 'rrr_request_duration_seconds_count{model="tiny",outcome="ok",route="/v1/predict"}'
        found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    before = predictions()
    result = asyncio.run(closed_loop(f"{client.base_url}/v1/predict", [png(0), png(1)], 3, requests=20))
    assert result.errors == {}
    assert result.latencies_seconds.shape == (20,)
    assert predictions() - before == 20
    assert 0 < result.percentile_ms(0) <= result.percentile_ms(50) <= result.percentile_ms(100)
    assert result.throughput == pytest.approx(20 / result.wall_seconds)


def test_refused_images_are_counted_by_their_status(client: httpx.Client, png: Files) -> None:
    bodies = [png(0), b"no image", b""]
    result = asyncio.run(closed_loop(f"{client.base_url}/v1/predict", bodies, 2, requests=9))
    assert result.errors == {"415": 3, "400": 3}
    assert len(result.latencies_seconds) == 3


def test_a_server_that_is_not_there_gives_errors_and_no_latencies() -> None:
    with socket.socket() as held:  # bound, so that nobody else takes the port, but not listening
        held.bind(("127.0.0.1", 0))
        result = asyncio.run(closed_loop(f"http://127.0.0.1:{held.getsockname()[1]}/", [b"x"], 2, requests=4))
    assert result.errors == {"ConnectionRefusedError": 4}
    assert result.throughput == 0
    assert result.percentile_ms(99) == float("inf")


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"not HTTP\r\n\r\n", "HttpParserInvalidStatusError"), (b"", "ConnectionResetError"), (None, "TimeoutError")],
)
def test_a_broken_answer_is_an_error_and_the_next_request_gets_a_new_connection(
    answer: bytes | None, error: str
) -> None:
    connections = 0
    timeout_seconds = 0.2 if answer is None else 5.0  # where there is an answer, a stall of the machine is no timeout

    async def misbehave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(100)
        if answer is not None:
            writer.write(answer)
        else:
            await reader.read()
        writer.close()
        await writer.wait_closed()

    async def main() -> dict[str, int]:
        server = await asyncio.start_server(misbehave, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            result = await closed_loop(
                f"http://127.0.0.1:{port}/", [b"x"], 1, requests=2, timeout_seconds=timeout_seconds
            )
        return result.errors

    errors = asyncio.run(main())
    assert sum(errors.values()) == 2
    assert [name for name in errors if name == error or name.startswith("HttpParser")] == list(errors)
    assert connections == 2


def test_a_load_needs_an_http_address_and_a_limit() -> None:
    with pytest.raises(UsageError, match=r"'ftp://localhost/': expected http://HOST:PORT/PATH or https://HOST:PORT"):
        asyncio.run(closed_loop("ftp://localhost/", [b"x"], 1, requests=1))
    with pytest.raises(UsageError, match="limit"):
        asyncio.run(closed_loop("http://localhost/", [b"x"], 1))
