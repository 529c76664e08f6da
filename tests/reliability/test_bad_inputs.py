"""Each input that a client should not send gets its own answer, and the next good request is answered."""

import contextlib
import io
import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from harness.bad_requests import JPEG, MIB, REFUSED, encoded, header_only, image_json, noise
from harness.raw_http import FORM, JSON, Answer, connect, form, receive, request, send

Files = Callable[[int], bytes]
Pictures = Callable[[int], npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def good(service: Any) -> Callable[[], None]:
    """Asks for what must be answered, and checks that it is the right answer."""
    first = json.loads(send(service.url, request(JPEG)).body)["predictions"]

    def check() -> None:
        answer = send(service.url, request(JPEG))
        assert answer.status == 200
        assert json.loads(answer.body)["predictions"] == first

    return check


@pytest.mark.parametrize(("data", "status", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_bad_request_gets_its_answer_and_the_next_good_one_is_answered(
    service: Any, good: Callable[[], None], data: bytes, status: int, code: str
) -> None:
    head = data.startswith(b"HEAD")
    answer = send(service.url, data, method="HEAD" if head else "POST")
    assert (answer.status, answer.code) == (status, "" if head else code)
    assert answer.headers["content-type"] == "application/json"
    if not head:
        assert json.loads(answer.body)["error"]["request_id"] == answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"]
    good()


@pytest.fixture(scope="module", autouse=True)
def half_sent(service: Any) -> Iterator[socket.socket]:
    """A connection with half a header on it, open since before the first test."""
    with connect(service.url, timeout_seconds=10) as opened:
        opened.sendall(b"POST /v1/predict HTTP/1.1\r\nContent-Le")
        yield opened


def predictions(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["predictions"]


@pytest.mark.parametrize("label", ["image/jpg", "image/png", "application/octet-stream", "", "text/html"])
def test_a_good_image_is_answered_whatever_its_label_in_a_form(service: Any, label: str) -> None:
    part = form(('name="image"; filename="a"\r\nContent-Type: ' + label, JPEG))
    expected = predictions(send(service.url, request(JPEG)))
    assert predictions(send(service.url, request(part, content_type=FORM))) == expected


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "x" * 400, "a\0b", "\u202egpj.exe", "a.php", 'a"; name="other', "", "CON"]
)
def test_a_file_name_is_passed_over(service: Any, name: str) -> None:
    part = ('name="image"; filename="' + name.replace('"', "%22") + '"', JPEG)
    assert predictions(send(service.url, request(form(part), content_type=FORM)))


def grey16() -> Image.Image:
    values = np.random.default_rng(1).integers(0, 65536, (48, 64), np.uint16)
    return Image.fromarray(values)


MODES = {
    **{mode: (noise().convert(mode), "PNG") for mode in ("L", "LA", "P", "RGBA", "1")},
    "CMYK": (noise().convert("CMYK"), "JPEG"),
    "I;16": (grey16(), "PNG"),
    "webp": (noise(), "WEBP"),
    "webp with alpha": (noise().convert("RGBA"), "WEBP"),
    "progressive": (noise(), "JPEG"),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_of_image_is_answered_like_its_conversion_to_rgb(service: Any, name: str) -> None:
    image, kind = MODES[name]
    data = encoded(image, kind, **({"progressive": True} if name == "progressive" else {}))
    with Image.open(io.BytesIO(data)) as opened:
        if name == "I;16":
            plain = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)).convert("RGB")
        else:
            plain = opened.convert("RGB")
    assert predictions(send(service.url, request(data))) == predictions(
        send(service.url, request(encoded(plain, "PNG")))
    )


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_say(service: Any, png: Files, picture: Pictures, orientation: int) -> None:
    upright = Image.fromarray(picture(5))
    stored = upright.transpose(_TURNS[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = predictions(send(service.url, request(encoded(stored, "PNG", exif=exif))))
    assert turned == predictions(send(service.url, request(png(5))))


def test_a_film_behind_a_photograph_is_passed_over(service: Any) -> None:
    film = np.random.default_rng(2).bytes(9 * MIB)
    assert film.count(b"\xff\xda") > 100
    assert predictions(send(service.url, request(JPEG + film))) == predictions(send(service.url, request(JPEG)))


def test_damaged_metadata_cost_an_image_nothing_and_the_log_no_line(service: Any) -> None:
    tags = b"".join(struct.pack("<HHII", 0x9000 + tag, 7, 2**20, 0) for tag in range(2000))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2000) + tags + bytes(4)
    before = service.log.stat().st_size
    answer = send(service.url, request(encoded(noise(), "JPEG", quality=90, exif=exif)))
    assert predictions(answer) == predictions(send(service.url, request(JPEG)))
    assert service.log.stat().st_size - before < 1024


def test_as_many_labels_as_there_are_may_be_asked_for(service: Any) -> None:
    assert len(predictions(send(service.url, request(JPEG, path="/v1/predict?top_k=3")))) == 3


def test_no_address_is_ever_fetched(service: Any) -> None:
    connections = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg"
        local = (address, address.replace("127.0.0.1", "[::ffff:127.0.0.1]"), address.replace("http", "https"))
        for url in (*local, "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"):
            field = send(service.url, request(form(('name="image"', url.encode())), content_type=FORM))
            assert (field.status, field.code) == (400, "not_a_file")
            assert send(service.url, request(image_json(url), content_type=JSON)).code == "bad_request"
            assert send(service.url, request(url.encode())).code == "unsupported_image"
        with pytest.raises(TimeoutError):
            connections += bool(listener.accept())
    assert connections == 0


def resident_bytes(service: Any) -> int:
    """Memory of the HTTP workers."""
    return sum(child.memory_info().rss for child in service.of_kind("worker"))


# In a body of 9 MB, what is kept of its pieces is some MB; its objects would take 250.
@pytest.mark.parametrize(("word", "most"), [("bomb", 5), ("pixels", 5), ("objects", 40)])
def test_bombs_are_refused_before_memory_is_spent(service: Any, word: str, most: int) -> None:
    bombs = [row[1] for row in REFUSED if word in row[0]]
    for data in bombs:
        send(service.url, data)
    before = resident_bytes(service)
    for data in bombs * 3:
        assert send(service.url, data).status in (400, 413, 415, 422)
    assert resident_bytes(service) - before < most * MIB


def test_a_body_that_is_announced_too_large_is_refused_at_once(service: Any) -> None:
    with connect(service.url) as opened:
        opened.sendall(header_only(("Content-Length", str(11 * MIB))))
        answer = receive(opened)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert answer.seconds < 0.5
        assert opened.recv(1) == b""


def test_a_body_that_stops_is_answered_408_at_its_deadline(service: Any) -> None:
    headers = (("Content-Length", "1000"), ("X-Request-Timeout-Ms", "200"))
    answer = send(service.url, request(b"x" * 10, headers=headers))
    assert (answer.status, answer.code) == (408, "request_timeout")
    assert 0.2 <= answer.seconds < 2


def test_clients_that_go_away_at_once_leave_nothing_behind(service: Any, good: Callable[[], None]) -> None:
    for _ in range(50):
        with connect(service.url) as opened:
            opened.sendall(request(JPEG))
    good()
    text = send(service.url, request(method="GET", path="/metrics")).body.decode()
    assert "\nrrr_in_flight_requests 0.0\n" in text


def test_slow_clients_do_not_keep_good_ones_waiting(service: Any, good: Callable[[], None]) -> None:
    with contextlib.ExitStack() as stack:
        for index in range(200):
            opened = stack.enter_context(connect(service.url))
            opened.sendall(request(headers=(("Content-Length", "9999"),)) if index % 2 else b"GET / HTTP/1.1\r\nA: ")
        good()


def test_half_a_header_is_answered_408_after_less_than_ten_seconds(half_sent: socket.socket) -> None:
    answer = receive(half_sent)
    assert (answer.status, answer.code) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


def test_the_port_of_triton_is_not_one_that_a_client_can_reach(service: Any) -> None:
    listening = [
        connection.laddr
        for child in service.children()
        for connection in child.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
