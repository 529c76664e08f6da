"""How long and how many connections are held open for their clients, and how they end: plain and with TLS."""

import contextlib
import dataclasses
import json
import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import trustme

from harness.guarded import BIG, GET, LIMITS, Application, served, trust_in
from harness.raw_http import Answer, closed_within, connect, receive, request, send
from rrrserve.http.connections import Connections


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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secured(application: Application, connections: Connections, authority: trustme.CA) -> Iterator[str]:
    """The address of one that speaks TLS, which counts its connections together with the other's."""
    with served(application, connections, authority) as address:
        yield address


Dial = Callable[[], socket.socket]


@pytest.fixture(params=["plain", pytest.param("TLS", marks=pytest.mark.nightly)])
def dial(request: pytest.FixtureRequest, url: str, secured: str, authority: trustme.CA) -> Iterator[Dial]:
    """Connects; what it connects to is let go of at the end."""
    with contextlib.ExitStack() as stack:
        if request.param == "plain":
            yield lambda: stack.enter_context(connect(url))
        else:
            trust = trust_in(authority)
            yield lambda: stack.enter_context(trust.wrap_socket(connect(secured), server_hostname="127.0.0.1"))


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What clients do is no event for the log, least of all with a traceback."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def code(answer: Answer) -> tuple[int | None, str]:
    return answer.status, answer.code


def test_requests_follow_each_other_on_one_connection(dial: Dial) -> None:
    opened = dial()
    for size in (0, 7, 60_000, 90_000):
        opened.sendall(request(bytes(size)))
        assert receive(opened).body == str(size).encode()


def test_the_application_is_told_the_scheme_and_who_talks_to_whom(dial: Dial) -> None:
    opened = dial()
    opened.sendall(b"GET /scope HTTP/1.1\r\n\r\n")
    scheme = "https" if isinstance(opened, ssl.SSLSocket) else "http"
    assert json.loads(receive(opened).body) == [scheme, [*opened.getsockname()], [*opened.getpeername()]]


def test_before_a_stop_clients_are_told_to_close(dial: Dial, application: Application) -> None:
    application.draining = True
    time.sleep(0.3)
    opened = dial()
    opened.sendall(GET)
    assert receive(opened).headers["connection"] == "close"
    application.draining = False


def test_a_header_that_does_not_end_is_answered_408_and_the_connection_closed(dial: Dial) -> None:
    opened = dial()
    opened.sendall(b"GET / HTTP/1.1\r\nX-A: ")
    answer = receive(opened)
    assert code(answer) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"
    assert closed_within(opened, 3)


def test_a_header_that_drips_gets_no_more_time_than_one_that_stops(url: str) -> None:
    with connect(url) as opened:
        start = time.perf_counter()
        with contextlib.suppress(OSError):
            opened.sendall(b"GET / HTTP/1.1\r\n")
            while time.perf_counter() - start < 10 and not closed_within(opened, 0.1):
                opened.sendall(b"X-A: b\r\n")
        assert time.perf_counter() - start < 5


def test_a_connection_that_says_nothing_is_closed(dial: Dial) -> None:
    assert closed_within(dial(), 5)


def test_an_idle_connection_lives_for_the_keep_alive_and_no_longer(dial: Dial, connections: Connections) -> None:
    opened = dial()
    opened.sendall(GET)
    assert receive(opened).status == 200
    assert not closed_within(opened, 0.8)
    _until(lambda: connections.open == 0)  # with TLS even if the client does not answer the close


def test_when_all_connections_are_taken_the_longest_idle_one_makes_room(dial: Dial, connections: Connections) -> None:
    flood = [dial() for _ in range(3 * LIMITS.connections)]
    opened = dial()
    opened.sendall(GET)
    assert receive(opened).status == 200
    assert connections.open <= LIMITS.connections
    assert closed_within(flood[0], 3)


def test_a_new_client_is_refused_while_all_connections_are_busy(
    dial: Dial, url: str, application: Application, connections: Connections
) -> None:
    _until(lambda: connections.open == 0)
    before = application.given_up
    busy = [dial() for _ in range(LIMITS.connections)]
    for opened in busy:
        opened.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
    time.sleep(0.3)
    refused = dial()
    answer = receive(refused)
    assert code(answer) == (429, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    for opened in (*busy, refused):
        opened.close()
    _until(lambda: application.given_up == before + LIMITS.connections)
    assert send(url, GET).status == 200


def _until(condition: Callable[[], bool]) -> None:
    end = time.perf_counter() + 10
    while not condition():
        assert time.perf_counter() < end
        time.sleep(0.02)


def test_work_for_a_client_that_has_gone_is_given_up(dial: Dial, application: Application) -> None:
    before = application.given_up
    opened = dial()
    opened.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
    time.sleep(0.1)
    assert application.given_up == before
    opened.close()
    _until(lambda: application.given_up == before + 1)


def test_a_client_that_does_not_read_its_answer_is_cut_off(dial: Dial, connections: Connections) -> None:
    _until(lambda: connections.open == 0)
    opened = dial()
    opened.sendall(request(path="/big"))
    _until(lambda: connections.open == 1)
    _until(lambda: connections.open == 0)
    size = 0
    with contextlib.suppress(OSError):
        while data := opened.recv(2**20):
            size += len(data)
    assert size < BIG


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


@pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport:ResourceWarning")  # which uvloop then closes
@pytest.mark.parametrize("over", ["plain", pytest.param("TLS", marks=pytest.mark.nightly)])
def test_a_stop_does_not_wait_for_clients_that_do_not_read(
    application: Application, authority: trustme.CA, over: str
) -> None:
    limits = dataclasses.replace(LIMITS, header_seconds=30.0, keep_alive_seconds=30.0)
    with contextlib.ExitStack() as stack:
        with served(application, Connections(limits), authority if over == "TLS" else None) as address:
            if over == "plain":
                stack.enter_context(with_a_little_unread(address))
            else:
                stack.enter_context(connect(address))  # nor for one that does not shake hands
                trust = trust_in(authority)
                opened = stack.enter_context(trust.wrap_socket(connect(address), server_hostname="127.0.0.1"))
                opened.sendall(b"GET /big HTTP/1.1\r\n\r\n")
                time.sleep(0.3)
            start = time.perf_counter()
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize("sent", [0, 1, 100, 1000], ids=["nothing", "a byte", "half a hello", "a hello"])
@pytest.mark.parametrize("abruptly", [False, True], ids=["closes", "resets"])
def test_a_client_that_goes_amid_the_handshake_is_forgotten(
    authority: trustme.CA, secured: str, connections: Connections, sent: int, abruptly: bool
) -> None:
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        trust_in(authority).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1").do_handshake()
    hello = outgoing.read()
    for _ in range(20):
        with connect(secured) as opened:
            opened.sendall(hello[:sent])
            if abruptly:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _until(lambda: connections.open == 0)


def test_a_client_that_distrusts_the_certificate_is_forgotten(secured: str, connections: Connections) -> None:
    with connect(secured) as opened, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(opened, server_hostname="127.0.0.1")
    _until(lambda: connections.open == 0)


def test_the_end_of_a_long_last_answer_is_left_to_a_slow_client_with_tls(
    application: Application, authority: trustme.CA
) -> None:
    limits = dataclasses.replace(LIMITS, header_seconds=20.0, linger_seconds=0.2)
    with (
        served(application, Connections(limits), authority) as address,
        trust_in(authority).wrap_socket(connect(address), server_hostname="127.0.0.1") as opened,
    ):
        opened.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        time.sleep(1.0)
        assert receive(opened).body == bytes(BIG)
