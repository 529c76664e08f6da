"""What the guarded HTTP protocol makes of a client's bytes, on a real port."""

import json
from collections.abc import Iterator
from typing import get_args

import pytest

from harness.guarded import GET, LIMITS, Application, served
from harness.raw_http import Answer, chunked, closed_within, connect, receive, request, send
from rrrserve.api.endpoint import raw_error
from rrrserve.api.errors import ERRORS
from rrrserve.http.connections import Connections
from rrrserve.http.refusal import Code


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server with short limits."""
    with served(Application(), Connections(LIMITS)) as address:
        yield address


def code(answer: Answer) -> tuple[int | None, str]:
    return answer.status, answer.code


def test_every_refusal_has_an_answer() -> None:
    assert set(get_args(Code)) <= set(ERRORS)


def test_a_request_in_single_bytes_is_read(url: str) -> None:
    assert send(url, [bytes([byte]) for byte in request(b"12345")]).body == b"5"


def test_an_answer_comes_in_one_piece_and_one_without_a_body_too(url: str) -> None:
    with connect(url) as opened:
        for asked, end in ((request(b"123"), b"\r\n\r\n3"), (GET.replace(b"GET", b"HEAD", 1), b"\r\n\r\n")):
            opened.sendall(asked)
            piece = opened.recv(65536)
            assert piece.startswith(b"HTTP/1.1 200 OK\r\n")
            assert piece.endswith(end)


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


@pytest.mark.parametrize(
    ("target", "root_path", "of_kserve"),
    [
        *((b"/v2", "", True), (b"/v2/models/a/infer?x=1", "", True), (b"/rrr/v2/health/live", "/rrr", True)),
        *((b"/v2x", "", False), (b"/v1/predict?next=/v2/", "", False), (b"/rrr/v2", "", False), (b"", "", False)),
    ],
)
def test_an_error_has_the_shape_of_the_protocol_that_the_path_is_of(
    target: bytes, root_path: str, *, of_kserve: bool
) -> None:
    status, _, body = raw_error("body_too_large", "too large", {}, target, (), root_path=root_path)
    error = json.loads(body)["error"]
    assert (status, error if of_kserve else error["message"]) == (413, "too large")


def test_a_header_over_the_limit_under_v2_ends_with_the_error_of_kserve(url: str) -> None:
    answer = send(url, request(method="GET", path="/v2/models/a", headers=[("A", "b")] * 101))
    told = f"at most {LIMITS.header_fields} header fields of {LIMITS.header_bytes} bytes together are allowed"
    assert (answer.status, json.loads(answer.body)) == (431, {"error": told})


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


# What JDK 17's default client sends with every request, curl --http2, and a browser.
OFFERS = {
    "jdk": (
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
        ("Upgrade", "h2c"),
    ),
    "curl": (("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQCAAAA")),
    "websocket": (("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x")),
    "other": (("connection", "upgrade"), ("upgrade", "TLS/1.0, HTTP/2.0")),
}
CHUNKED = (("Transfer-Encoding", "chunked"),)


@pytest.mark.parametrize("name", OFFERS)
def test_an_offer_to_upgrade_is_passed_over_with_and_without_a_body_and_the_connection_goes_on(
    url: str, name: str
) -> None:
    offer = OFFERS[name]
    requests = [
        (request(method="GET", headers=offer), b"0"),
        (request(b"abc", headers=offer), b"3"),
        (request(bytes(90_000), headers=offer), b"90000"),
        (request(b"GET / HTTP/1.1\r\n\r\n", headers=offer), b"18"),  # a body is never taken for a request
        (request(chunked(b"abcdef", 4), headers=(*offer, *CHUNKED)), b"6"),
        (request(method="HEAD", headers=offer), b""),
        (request(b"abcd"), b"4"),
    ]
    with connect(url) as opened:
        for data, body in requests:
            opened.sendall(data)
            answer = receive(opened, method="HEAD" if data.startswith(b"HEAD") else "POST")
            assert (answer.status, answer.body) == (200, body)
            assert "upgrade" not in answer.headers
    assert send(url, [bytes([byte]) for byte in requests[1][0]]).body == b"3"
    data = b"".join(part for part, _ in requests[:4])
    with connect(url) as opened:
        opened.sendall(data)
        text = b""
        while text.count(b"HTTP/1.1 200") < 4:
            text += opened.recv(65536)


def test_the_limits_hold_for_a_request_that_offers_an_upgrade(url: str) -> None:
    offer = OFFERS["jdk"]
    assert code(send(url, request(bytes(300_000), headers=offer))) == (413, "body_too_large")
    head = request(headers=(*offer, *CHUNKED))
    assert code(send(url, head + b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n")) == (431, "header_too_large")
    assert code(send(url, head + b"zz\r\n")) == (400, "bad_http")
    gzipped = request(headers=(*offer, ("Transfer-Encoding", "gzip")))
    assert code(send(url, gzipped)) == (400, "bad_http")
    with connect(url) as opened:
        opened.sendall(request(headers=(*offer, ("Content-Length", "3"), ("Expect", "100-continue"))))
        assert opened.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        opened.sendall(b"abc")
        assert receive(opened).body == b"3"


def test_http_1_0_is_answered_and_closed(url: str) -> None:
    with connect(url) as opened:
        opened.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert receive(opened).status == 200
        assert closed_within(opened, 1)


def test_an_error_is_read_by_a_client_that_sends_on(url: str) -> None:
    answer = send(url, [b"NONSENSE\r\n\r\n"] + [bytes(100_000)] * 20)
    assert code(answer) == (400, "bad_http")
    assert json.loads(answer.body)["error"]["request_id"] == answer.headers["x-request-id"]
