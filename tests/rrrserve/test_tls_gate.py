"""The limits of connections hold under TLS too, from the first byte of the handshake on."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
import uvicorn
from starlette.types import Receive, Scope, Send

from harness.raw_http import closed_within, connect, receive, request
from rrrserve.http.connections import Connections, Limits
from rrrserve.http.tls_gate import TlsGate

LIMITS = Limits(body_bytes=1_000_000, header_seconds=0.6, keep_alive_seconds=1.5, linger_seconds=0.5, connections=8)
GET = b"GET / HTTP/1.1\r\n\r\n"
BIG = 2**25


class Application:
    """Answers with the number of bytes it was sent.

    /big answers with 32 MB, /scope with who talks to whom, /block holds up the server, /slow waits.

    Attributes:
        waiting: requests for /slow.
        go_on: answers them.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.go_on = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        path = scope["path"]
        with contextlib.suppress(asyncio.CancelledError):
            if path == "/slow":
                self.waiting += 1
                while not self.go_on:  # noqa: ASYNC110  it is set by another thread
                    await asyncio.sleep(0.02)
            if path == "/block":
                time.sleep(0.3)  # noqa: ASYNC251  on purpose
            told = json.dumps([scope["scheme"], scope["client"], scope["server"]]).encode()
            body = {"/big": bytes(BIG), "/scope": told}.get(path, b"%d" % size)
            headers = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextlib.contextmanager
def served(authority: trustme.CA, connections: Connections, application: Application) -> Iterator[str]:
    """The address of a TLS server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    gate: Any = functools.partial(TlsGate, connections=connections, context=context)
    config = uvicorn.Config(application, http=gate, loop="uvloop", log_config=None, ws="none", lifespan="off")
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def connections() -> Connections:
    return Connections(LIMITS)


@pytest.fixture(scope="module")
def application() -> Application:
    return Application()


@pytest.fixture(scope="module")
def url(authority: trustme.CA, connections: Connections, application: Application) -> Iterator[str]:
    with served(authority, connections, application) as address:
        yield address


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def dial(trust: ssl.SSLContext, url: str) -> Iterator[Callable[[], ssl.SSLSocket]]:
    """Connects with TLS."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(trust.wrap_socket(connect(url), server_hostname="127.0.0.1"))


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What clients do is no event for the log, least of all with a traceback."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def until(condition: Callable[[], bool]) -> None:
    end = time.perf_counter() + 10
    while not condition():
        assert time.perf_counter() < end
        time.sleep(0.02)


def test_requests_follow_each_other_on_one_connection(dial: Callable[[], ssl.SSLSocket]) -> None:
    opened = dial()
    for size in (0, 7, 600_000):
        opened.sendall(request(bytes(size)))
        assert receive(opened).body == str(size).encode()


def test_the_application_is_told_that_it_is_https_and_who_talks_to_whom(dial: Callable[[], ssl.SSLSocket]) -> None:
    opened = dial()
    opened.sendall(b"GET /scope HTTP/1.1\r\n\r\n")
    assert json.loads(receive(opened).body) == ["https", [*opened.getsockname()], [*opened.getpeername()]]


def test_an_answer_of_many_pieces_arrives_whole(dial: Callable[[], ssl.SSLSocket]) -> None:
    opened = dial()
    for _ in range(2):
        opened.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        assert receive(opened).body == bytes(BIG)


def test_a_hello_that_comes_before_its_connection_is_accepted_is_read(dial: Callable[[], ssl.SSLSocket]) -> None:
    busy = dial()
    for _ in range(5):
        busy.sendall(b"GET /block HTTP/1.1\r\n\r\n")
        opened = dial()
        opened.sendall(GET)
        assert receive(opened).status == 200
        assert receive(busy).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(
    authority: trustme.CA, url: str, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    shaken, answer = False, b""
    with connect(url) as opened:
        while b"\r\n\r\n" not in answer:
            with contextlib.suppress(ssl.SSLWantReadError):
                if not shaken:
                    client.do_handshake()
                    shaken = True
                    client.write(request(bytes(300_000)))
                answer += client.read(65536)
            opened.sendall(outgoing.read())
            if b"\r\n\r\n" not in answer:
                received = opened.recv(65536)
                assert received, "closed"
                incoming.write(received)
    assert answer.startswith(b"HTTP/1.1 200")


def test_many_connections_one_after_the_other_leave_none_behind(
    dial: Callable[[], ssl.SSLSocket], connections: Connections
) -> None:
    for _ in range(50):
        opened = dial()
        opened.sendall(GET)
        assert receive(opened).status == 200
        opened.close()
    until(lambda: connections.open == 0)


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00\x01", GET], ids=["nothing", "half a hello", "no TLS"])
def test_who_does_not_shake_hands_is_closed_in_the_time_for_a_header(
    url: str, connections: Connections, first: bytes
) -> None:
    with connect(url) as opened:
        opened.sendall(first)
        assert closed_within(opened, 3)
    until(lambda: connections.open == 0)


@pytest.mark.parametrize("sent", [0, 1, 100, 1000], ids=["nothing", "a byte", "half a hello", "a hello"])
@pytest.mark.parametrize("abruptly", [False, True], ids=["closes", "resets"])
def test_a_client_that_goes_amid_the_handshake_is_forgotten(
    trust: ssl.SSLContext, url: str, connections: Connections, sent: int, abruptly: bool
) -> None:
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        trust.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1").do_handshake()
    hello = outgoing.read()
    for _ in range(20):
        with connect(url) as opened:
            opened.sendall(hello[:sent])
            if abruptly:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: connections.open == 0)


def test_a_client_that_distrusts_the_certificate_is_forgotten(url: str, connections: Connections) -> None:
    with connect(url) as opened, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(opened, server_hostname="127.0.0.1")
    until(lambda: connections.open == 0)


def test_half_a_header_is_answered_408(dial: Callable[[], ssl.SSLSocket]) -> None:
    opened = dial()
    opened.sendall(b"GET / HTTP/1.1\r\nX-A: ")
    answer = receive(opened)
    assert (answer.status, answer.code) == (408, "request_timeout")
    assert closed_within(opened, 3)


def test_an_idle_connection_is_closed_even_if_the_client_does_not_answer_the_close(
    dial: Callable[[], ssl.SSLSocket], connections: Connections
) -> None:
    opened = dial()
    opened.sendall(GET)
    assert receive(opened).status == 200
    until(lambda: connections.open == 0)


def test_handshakes_are_counted_and_the_longest_waiting_one_makes_room(
    url: str, dial: Callable[[], ssl.SSLSocket], connections: Connections
) -> None:
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(connect(url)) for _ in range(3 * LIMITS.connections)]
        opened = dial()
        opened.sendall(GET)
        assert receive(opened).status == 200
        assert connections.open <= LIMITS.connections
        assert closed_within(flood[0], 3)


def test_where_every_connection_is_at_work_a_new_one_is_closed_and_none_suffers(
    dial: Callable[[], ssl.SSLSocket], url: str, connections: Connections, application: Application
) -> None:
    until(lambda: connections.open == 0)
    working = []
    for _ in range(LIMITS.connections):
        working.append(dial())
        working[-1].sendall(b"GET /slow HTTP/1.1\r\n\r\n")
    until(lambda: application.waiting == LIMITS.connections)
    with connect(url) as refused:
        assert closed_within(refused, 5)
    application.go_on = True
    assert [receive(opened).status for opened in working] == [200] * LIMITS.connections
    until(lambda: connections.open == 0)


def test_a_client_that_does_not_read_is_let_go(dial: Callable[[], ssl.SSLSocket], connections: Connections) -> None:
    dial().sendall(b"GET /big HTTP/1.1\r\n\r\n")
    until(lambda: connections.open == 1)
    until(lambda: connections.open == 0)


def test_a_stop_waits_neither_for_who_does_not_read_nor_for_who_does_not_shake_hands(authority: trustme.CA) -> None:
    limits = dataclasses.replace(LIMITS, header_seconds=30.0, keep_alive_seconds=30.0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with contextlib.ExitStack() as stack:
        with served(authority, Connections(limits), Application()) as address:
            stack.enter_context(connect(address))
            opened = stack.enter_context(context.wrap_socket(connect(address), server_hostname="127.0.0.1"))
            opened.sendall(b"GET /big HTTP/1.1\r\n\r\n")
            time.sleep(0.3)
            start = time.perf_counter()
        assert time.perf_counter() - start < 5
