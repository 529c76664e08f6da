"""The guarded HTTP protocol on a real port, with a small application behind it."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from harness.raw_http import Answer, closed_within, connect, receive, request, send
from rrrserve.http.connections import Connections, Limits
from rrrserve.http.protocol import GuardedProtocol

LIMITS = Limits(
    body_bytes=100_000,
    header_seconds=0.6,
    keep_alive_seconds=1.5,
    linger_seconds=0.5,
    connections=20,
    pipelined=4,
)
GET = b"GET / HTTP/1.1\r\n\r\n"


class Application:
    """Answers with the number of bytes it was sent; /headers with the header it was given; /slow takes its time.

    /big answers with 64 MB; /deaf reads nothing; /some answers with 20 kB.

    Attributes:
        given_up: requests that were cancelled.
    """

    def __init__(self) -> None:
        self.given_up = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        size = 0
        more = scope["path"] != "/deaf"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            more = message["more_body"]
        if scope["path"] == "/slow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.given_up += 1
                return
        known = {"/big": bytes(2**26), "/some": bytes(20_000), "/headers": b"\n".join(map(b"=".join, scope["headers"]))}
        body = known.get(scope["path"], b"%d" % size)
        headers = [(b"content-length", b"%d" % len(body))]
        with contextlib.suppress(asyncio.CancelledError):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def application() -> Application:
    return Application()


@pytest.fixture(scope="module")
def connections() -> Connections:
    return Connections(LIMITS)


@pytest.fixture(scope="module")
def url(application: Application, connections: Connections) -> Iterator[str]:
    """The address of a server with short limits."""
    with served(application, connections) as address:
        yield address


@contextlib.contextmanager
def served(application: Application, connections: Connections) -> Iterator[str]:
    protocol = functools.partial(GuardedProtocol, connections=connections)
    config = uvicorn.Config(
        application, http=cast(type[asyncio.Protocol], protocol), log_config=None, ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def code(answer: Answer) -> tuple[int | None, str]:
    return answer.status, answer.code


def test_requests_follow_each_other_on_one_connection(url: str) -> None:
    with connect(url) as opened:
        for size in (0, 7, 60_000):
            opened.sendall(request(bytes(size)))
            assert receive(opened).body == str(size).encode()


def test_a_request_in_single_bytes_is_read(url: str) -> None:
    assert send(url, [bytes([byte]) for byte in request(b"12345")]).body == b"5"


def test_a_header_that_does_not_end_is_answered_408_and_the_connection_closed(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nX-A: ")
        answer = receive(opened)
        assert code(answer) == (408, "request_timeout")
        assert answer.headers["connection"] == "close"
        assert closed_within(opened, 2)


def test_a_header_that_drips_gets_no_more_time_than_one_that_stops(url: str) -> None:
    with connect(url) as opened:
        start = time.perf_counter()
        with contextlib.suppress(OSError):
            opened.sendall(b"GET / HTTP/1.1\r\n")
            while time.perf_counter() - start < 10 and not closed_within(opened, 0.1):
                opened.sendall(b"X-A: b\r\n")
        assert time.perf_counter() - start < 5


def test_a_connection_that_says_nothing_is_closed(url: str) -> None:
    with connect(url) as opened:
        assert closed_within(opened, 5)


def test_an_idle_connection_lives_for_the_keep_alive_and_no_longer(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(GET)
        assert receive(opened).status == 200
        assert not closed_within(opened, 0.8)
        assert closed_within(opened, 5)


def test_when_all_connections_are_taken_the_longest_idle_one_makes_room(url: str) -> None:
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(connect(url)) for _ in range(3 * LIMITS.connections)]
        assert send(url, GET).status == 200
        assert closed_within(flood[0], 1)


def test_a_new_client_is_refused_while_all_connections_are_busy(url: str, application: Application) -> None:
    before = application.given_up
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.connections):
            stack.enter_context(connect(url)).sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        time.sleep(0.3)
        answer = send(url, GET)
        assert code(answer) == (429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
    _until(lambda: application.given_up == before + LIMITS.connections)
    assert send(url, GET).status == 200


def _until(condition: Any) -> None:
    end = time.perf_counter() + 10
    while not condition():
        assert time.perf_counter() < end
        time.sleep(0.02)


def test_work_for_a_client_that_has_gone_is_given_up(url: str, application: Application) -> None:
    before = application.given_up
    with connect(url) as opened:
        opened.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        time.sleep(0.1)
        assert application.given_up == before
    _until(lambda: application.given_up == before + 1)


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(b"".join(request(bytes(size)) for size in (3, 1, 2)))
        text = b""
        while text.count(b"HTTP/1.1 200") < 3:
            text += opened.recv(65536)
        assert [part[-1:] for part in text.split(b"HTTP/1.1 200")[1:]] == [b"3", b"1", b"2"]


def test_more_pipelined_requests_than_allowed_end_the_connection_after_the_first_answers(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(GET * 50)
        text = b""
        while data := opened.recv(65536):
            text += data
    assert 1 <= text.count(b"HTTP/1.1 200") <= 1 + LIMITS.pipelined


def test_garbage_after_a_good_request_does_not_cost_it_its_answer(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(request(b"123") + b"\0\0\0\0")
        assert receive(opened).body == b"3"
        assert closed_within(opened, 2)


def test_a_body_that_nobody_reads_is_thrown_away_and_the_connection_goes_on(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(request(bytes(90_000), path="/deaf"))
        assert receive(opened).status == 200
        opened.sendall(GET)
        assert receive(opened).status == 200


def test_a_body_that_nobody_reads_and_that_does_not_end_ends_the_connection(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(request(path="/deaf", headers=(("Content-Length", "50000"),)))
        assert receive(opened).status == 200
        assert closed_within(opened, 5)


def test_an_endless_chunked_body_ends_with_413(url: str) -> None:
    chunks = (b"%x\r\n%s\r\n" % (50_000, bytes(50_000)) for _ in range(10))
    answer = send(url, [request(headers=(("Transfer-Encoding", "chunked"),)), *chunks])
    assert code(answer) == (413, "body_too_large")


def test_trailers_are_not_taken_for_the_header(url: str) -> None:
    head = request(path="/headers", headers=(("Transfer-Encoding", "chunked"),))
    with connect(url) as opened:
        opened.sendall(head + b"1\r\nx\r\n0\r\nAuthorization: Bearer stolen\r\nX-Request-ID: other\r\n\r\n")
        assert receive(opened).body.splitlines() == [b"host=test", b"transfer-encoding=chunked"]
        opened.sendall(GET)
        assert receive(opened).status == 200


def test_the_trailers_of_a_chunked_body_count_as_its_header_does(url: str) -> None:
    head = request(path="/headers", headers=(("Transfer-Encoding", "chunked"),))
    assert code(send(url, head + b"0\r\n" + b"A: b\r\n" * 99 + b"\r\n")) == (431, "header_too_large")


def test_white_space_around_a_value_is_no_part_of_it(url: str) -> None:
    answer = send(url, request(path="/headers", headers=(("X-A", " \t b c \t "), ("X-B", "  "))))
    assert answer.body.splitlines()[-2:] == [b"x-a=b c", b"x-b="]


def test_a_client_that_expects_100_continue_gets_it(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(request(headers=(("Content-Length", "3"), ("Expect", "100-continue"))))
        assert opened.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        opened.sendall(b"abc")
        assert receive(opened).body == b"3"


def test_a_client_whose_expectation_was_not_met_must_connect_anew(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(request(path="/deaf", headers=(("Content-Length", "3"), ("Expect", "100-continue"))))
        assert receive(opened).status == 200
        assert closed_within(opened, 2)


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_an_offer_to_upgrade_is_passed_over(url: str, protocol: str) -> None:
    offer = (("Connection", "Upgrade"), ("Upgrade", protocol))
    assert send(url, request(method="GET", headers=offer)).status == 200
    assert code(send(url, request(b"abc", headers=offer))) == (400, "bad_http")


def test_a_client_that_does_not_read_its_answer_is_cut_off(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(request(path="/big"))
        time.sleep(2)
        size = 0
        with contextlib.suppress(OSError):
            while data := opened.recv(2**20):
                size += len(data)
    assert size < 2**26


def unread(url: str) -> socket.socket:
    """A connection whose client will read nothing, with little room in its kernel for answers."""
    parts = urlsplit(url)
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.connect((parts.hostname, parts.port))
    return opened


def kernels_room() -> int:
    """Bytes that the kernel takes for such a client."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        unread(f"http://127.0.0.1:{listener.getsockname()[1]}"),
        listener.accept()[0] as accepted,
    ):
        accepted.setblocking(False)
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += accepted.send(bytes(20_000))
        return taken


def with_a_little_unread(url: str) -> contextlib.ExitStack:
    """Clients of whose answers less than 64 KiB are left to the server: not enough to pause its writing."""
    stack = contextlib.ExitStack()
    fits = kernels_room() // 20_000
    counts = {stack.enter_context(unread(url)): count for count in range(fits, fits + 18)}
    for number in range(fits + 18):
        for opened, count in counts.items():
            if number < count:
                opened.sendall(b"GET /some HTTP/1.1\r\n\r\n")
        time.sleep(0.005)
    return stack


def test_a_client_that_leaves_the_end_of_an_answer_unread_is_let_go(url: str, connections: Connections) -> None:
    with with_a_little_unread(url):
        _until(lambda: connections.open == 0)


def test_a_client_that_sends_on_without_reading_is_let_go(url: str, connections: Connections) -> None:
    with unread(url) as opened:
        for data in (b"GET /big HTTP/1.1\r\n\r\n", GET, GET):
            opened.sendall(data)
            time.sleep(0.2)
        _until(lambda: connections.open == 0)


def test_a_stop_does_not_wait_for_clients_that_do_not_read(application: Application) -> None:
    limits = dataclasses.replace(LIMITS, header_seconds=30.0, keep_alive_seconds=30.0)
    with contextlib.ExitStack() as stack:
        with served(application, Connections(limits)) as address:
            stack.enter_context(with_a_little_unread(address))
            start = time.perf_counter()
        assert time.perf_counter() - start < 5


def test_http_1_0_is_answered_and_closed(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert receive(opened).status == 200
        assert closed_within(opened, 1)


def test_an_error_is_read_by_a_client_that_sends_on(url: str) -> None:
    answer = send(url, [b"NONSENSE\r\n\r\n"] + [bytes(100_000)] * 20)
    assert code(answer) == (400, "bad_http")
    assert json.loads(answer.body)["error"]["request_id"] == answer.headers["x-request-id"]
