"""Each input that a client should not send gets its own answer, and the next good request is answered."""

import contextlib
import io
import json
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from rrrbench.raw_http import FORM, JSON, Answer, chunked, connect, file_part, form, receive, request, send

MIB = 2**20
Files = Callable[[int], bytes]
Pictures = Callable[[int], npt.NDArray[np.uint8]]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 48, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


JPEG = encoded(noise(), "JPEG", quality=90)
PNG = encoded(noise(), "PNG")


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends after a valid header."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def black_png(side: int) -> bytes:
    """A PNG of side x side black pixels."""
    return encoded(Image.new("L", (side, side)), "PNG")


def scans(count: int) -> bytes:
    """A progressive JPEG with many more scans than it needs."""
    data = encoded(noise(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


FOREIGN = {
    "text": b"hello",
    "html": b"<!doctype html><html></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "psd": b"8BPS\x00\x01" + bytes(40),
    "fits": b"SIMPLE  =                    T" + b" " * 50,
    "riff": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(20),
    **{kind.lower(): encoded(noise(), kind) for kind in ("TIFF", "ICO", "PPM", "TGA", "BMP", "GIF")},
}


def image_json(text: Any) -> bytes:
    return json.dumps({"image": text}).encode()


def header_only(*headers: tuple[str, str]) -> bytes:
    return request(headers=headers)


GZIP = (("Content-Encoding", "gzip"),)
CHUNKED = (("Transfer-Encoding", "chunked"),)
UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "h2c"))
ONE = form(file_part(JPEG))
MANY_HEADERS = ONE.replace(b"\r\n\r\n", b"\r\nA: b" * 100 + b"\r\n\r\n", 1)

# (what, bytes, status, code)
REFUSED: list[tuple[str, bytes, int, str]] = [
    ("a form without the part image", request(form(), content_type=FORM), 400, "missing_image"),
    ("no body and no type", request(), 400, "missing_image"),
    ("no boundary", request(ONE, content_type="multipart/form-data"), 400, "bad_multipart"),
    ("another boundary", request(ONE, content_type="multipart/form-data; boundary=x"), 400, "bad_multipart"),
    ("a long boundary", request(ONE, content_type=f"multipart/form-data; boundary={'x' * 999}"), 400, "bad_multipart"),
    ("a form cut in its file", request(ONE[:-400], content_type=FORM), 400, "bad_multipart"),
    ("a form cut before its end", request(form(file_part(JPEG), end=b""), content_type=FORM), 400, "bad_multipart"),
    (
        "a part with 100 headers",
        request(ONE.replace(b"\r\n\r\n", b"\r\nA: b" * 100 + b"\r\n\r\n", 1), content_type=FORM),
        400,
        "bad_multipart",
    ),
    ("a text field of 2 MB", request(form(('name="note"', b"x" * 2 * MIB)), content_type=FORM), 413, "field_too_large"),
    ("an unknown field", request(form(file_part(JPEG, name="file")), content_type=FORM), 400, "bad_request"),
    ("two images", request(form(file_part(JPEG), file_part(PNG)), content_type=FORM), 400, "too_many_images"),
    ("a file of 0 bytes", request(form(file_part(b"")), content_type=FORM), 422, "empty_image"),
    *(
        (f"{kind} as a.jpg", request(form(file_part(data)), content_type=FORM), 415, "unsupported_image")
        for kind, data in FOREIGN.items()
    ),
    ("a JPEG cut by 200 bytes", request(JPEG[:-200]), 422, "truncated_image"),
    ("a JPEG of its first 20 bytes", request(JPEG[:20]), 422, "bad_image"),
    ("a JPEG of 300 scans", request(scans(300)), 422, "bad_image"),
    ("a PNG cut by 200 bytes", request(PNG[:-200]), 422, "truncated_image"),
    ("a header of 20000 x 20000 pixels", request(png_header(20_000, 20_000)), 413, "too_many_pixels"),
    ("12000 x 12000 black pixels", request(black_png(12_000)), 413, "too_many_pixels"),
    ("a width of 0 pixels", request(png_header(0, 10)), 422, "bad_image"),
    ("a height of 0 pixels", request(png_header(10, 0)), 422, "bad_image"),
    ("text in place of a file", request(form(('name="image"', b"hello")), content_type=FORM), 400, "not_a_file"),
    ("an announced body of 11 MB", header_only(("Content-Length", str(11 * MIB))), 413, "body_too_large"),
    ("a body without length of 11 MB", request(chunked(bytes(11 * MIB), MIB), headers=CHUNKED), 413, "body_too_large"),
    ("524 288 chunks", request(chunked(bytes(524_288), 1), headers=CHUNKED), 413, "body_too_large"),
    ("a chunk extension of 12 MB", request(b"1;" + b"x" * 12 * MIB, headers=CHUNKED), 413, "body_too_large"),
    (
        "trailers of 1 MB",
        request(b"0\r\n" + b"A: bcdef\r\n" * 100_000 + b"\r\n", headers=CHUNKED),
        431,
        "header_too_large",
    ),
    ("a chunk whose size is no number", request(b"zz\r\n", headers=CHUNKED), 400, "bad_http"),
    ("gzip", request(zlib.compress(JPEG, wbits=31), headers=GZIP), 415, "encoding_not_supported"),
    ("a gzip bomb", request(zlib.compress(bytes(300 * MIB), 9, wbits=31), headers=GZIP), 415, "encoding_not_supported"),
    ("garbage as gzip", request(b"garbage", headers=GZIP), 415, "encoding_not_supported"),
    (
        "gzip as transfer encoding",
        request(b"0\r\n\r\n", headers=(("Transfer-Encoding", "gzip, chunked"),)),
        415,
        "encoding_not_supported",
    ),
    ("a header of 100 KB", request(JPEG, headers=(("X-A", "a" * 100_000),)), 431, "header_too_large"),
    ("200 header fields", request(JPEG, headers=[(f"X-{i}", "a") for i in range(200)]), 431, "header_too_large"),
    ("an endless header", b"GET /livez HTTP/1.1\r\nX-A: " + b"a" * 2 * MIB, 431, "header_too_large"),
    ("two content types", request(JPEG, content_type=JSON, headers=(("content-type", FORM),)), 400, "bad_request"),
    ("two lengths", request(JPEG, headers=(("Content-Length", "4"), ("Content-Length", "5"))), 400, "bad_http"),
    ("a length and chunks", request(JPEG, headers=(("Content-Length", "4"), *CHUNKED)), 400, "bad_http"),
    ("a negative length", header_only(("Content-Length", "-1")), 400, "bad_http"),
    ("a header with NUL", request(JPEG, headers=(("X-A", "a\0b"),)), 400, "bad_http"),
    ("a TLS hello", bytes.fromhex("16030100c8010000c403036d") + bytes(190), 400, "bad_http"),
    ("a preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_http"),
    ("HTTP/3.7", b"GET /livez HTTP/3.7\r\n\r\n", 400, "bad_http"),
    ("a body with an offer to upgrade", request(JPEG, headers=UPGRADE), 400, "bad_http"),
    ("garbage", b"\x00\x01\x02\x03\r\n\r\n", 400, "bad_http"),
    ("JSON in latin-1", request(b'{"image": "\xe9"}', content_type=JSON), 400, "bad_json"),
    ("JSON with half a character as key", request(b'{"\\ud800": 1}', content_type=JSON), 400, "bad_request"),
    *(
        (f"JSON with {number}", request(b'{"image": %s}' % number.encode(), content_type=JSON), 400, code)
        for number, code in (
            ("NaN", "bad_json"),
            ("Infinity", "bad_json"),
            ("1e999", "bad_request"),
            ("-0", "bad_request"),
            ("null", "bad_request"),
            ("[]", "bad_request"),
            ("9" * 9999, "bad_json"),
        )
    ),
    ("JSON that is cut", request(b'{"image": "', content_type=JSON), 400, "bad_json"),
    ("JSON without image", request(b"{}", content_type=JSON), 400, "missing_image"),
    ("JSON with one more key", request(b'{"image": "", "url": ""}', content_type=JSON), 400, "bad_request"),
    ("JSON with a key twice", request(b'{"image": "", "image": ""}', content_type=JSON), 400, "bad_request"),
    ("JSON of 3 million objects", request(b"[" + b"{}," * 3_000_000 + b"{}]", content_type=JSON), 400, "bad_request"),
    ("JSON 100 000 deep", request(b"[" * 100_000, content_type=JSON), 400, "bad_request"),
    ("base64 of another alphabet", request(image_json("?*"), content_type=JSON), 400, "bad_request"),
    ("base64 badly padded", request(image_json("QQ"), content_type=JSON), 400, "bad_request"),
    ("base64 of 14 MB", request(image_json("Q" * 14 * MIB), content_type=JSON), 413, "body_too_large"),
    *(
        (f"top_k {value[:9]}", request(JPEG, path=f"/v1/predict?top_k={value}"), 400, "bad_request")
        for value in ("0", "-1", "1001", "%225%22", "2.5", "1" + "0" * 30)
    ),
    ("a batch of 0", request(b'{"images": []}', path="/v1/predict_batch", content_type=JSON), 400, "missing_image"),
    (
        "a batch of 33",
        request(form(*[file_part(PNG, name="images")] * 33), path="/v1/predict_batch", content_type=FORM),
        413,
        "batch_too_large",
    ),
    *(
        (f"a model named {name[:9]!r}", request(JPEG, path=f"/v1/models/{name}/predict"), 404, "unknown_model")
        for name in ("nobody", "", "../x", "%2e%2e%2fx", "x" * 300, "%00")
    ),
    *(
        (f"the type {kind}", request(JPEG, content_type=kind), 415, "unsupported_media_type")
        for kind in ("application/vnd.bentoml+pickle", "Application/VND.BentoML+Pickle; a=b", "text/xml", "text/plain")
    ),
    *(
        (f"{method} to a POST route", request(method=method), 405, "method_not_allowed")
        for method in ("GET", "DELETE", "TRACE", "OPTIONS", "PATCH", "HEAD")
    ),
    ("CONNECT", b"CONNECT other:80 HTTP/1.1\r\nHost: other\r\n\r\n", 405, "method_not_allowed"),
    *(
        (f"the path {path[:9]}", request(method="GET", path=path), 404, "not_found")
        for path in ("/nothing", "//", "/%2e%2e/", "/../../etc/passwd", "/" + "x" * 8000)
    ),
    ("a path of 20 KB", request(method="GET", path="/" + "x" * 20_000), 414, "target_too_long"),
    ("a path that is none", request(method="GET", path="*"), 404, "not_found"),
    ("a target that is none", request(method="GET", path="http://[/"), 400, "bad_http"),
]


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
    return sum(
        child.memory_info().rss for child in service.children() if "rrrserve.worker" in " ".join(child.cmdline())
    )


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
