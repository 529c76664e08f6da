"""Requests that a client should not send, each with the answer that it must get."""

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from harness.raw_http import FORM, JSON, chunked, file_part, form, request

MIB = 2**20


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 48, *, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


JPEG = encoded(noise(), "JPEG", quality=90)
PNG = encoded(noise(), "PNG")
WEBP = encoded(noise(), "WEBP")


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends after a valid header."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def black_png(side: int) -> bytes:
    """A PNG of side x side black pixels."""
    return encoded(Image.new("1", (side, side)), "PNG", compress_level=1)


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
    """A JSON body with something in the place of an image."""
    return json.dumps({"image": text}).encode()


def header_only(*headers: tuple[str, str]) -> bytes:
    """A request without a body, whatever its header announces."""
    return request(headers=headers)


GZIP = (("Content-Encoding", "gzip"),)
CHUNKED = (("Transfer-Encoding", "chunked"),)
ONE = form(file_part(JPEG))
MANY_HEADERS = ONE.replace(b"\r\n\r\n", b"\r\nA: b" * 100 + b"\r\n\r\n", 1)

# (what, bytes, status, code); an answer to HEAD has no code, for it has no body.
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
        request(MANY_HEADERS, content_type=FORM),
        400,
        "bad_multipart",
    ),
    ("a text field of 2 MB", request(form(('name="note"', b"x" * 2 * MIB)), content_type=FORM), 413, "field_too_large"),
    ("a form with another part", request(form(file_part(JPEG, name="file")), content_type=FORM), 400, "missing_image"),
    (
        "an unknown file",
        request(form(file_part(JPEG), file_part(PNG, name="mask")), content_type=FORM),
        400,
        "bad_request",
    ),
    ("two images", request(form(file_part(JPEG), file_part(PNG)), content_type=FORM), 400, "too_many_images"),
    ("a file of 0 bytes", request(form(file_part(b"")), content_type=FORM), 422, "empty_image"),
    *(
        (f"{kind} as a.jpg", request(form(file_part(data)), content_type=FORM), 415, "unsupported_image")
        for kind, data in FOREIGN.items()
    ),
    ("a JPEG cut by 200 bytes", request(JPEG[:-200]), 422, "truncated_image"),
    ("a JPEG of its first 20 bytes", request(JPEG[:20]), 422, "bad_image"),
    ("a JPEG of 300 scans", request(scans(300)), 422, "bad_image"),
    ("a JPEG with 400 KB of fill bytes", request(JPEG[:2] + b"\xff" * 400_000 + JPEG[2:]), 422, "bad_image"),
    ("a JPEG of 100 000 segments", request(JPEG[:2] + b"\xff\xfe\0\2" * 100_000 + JPEG[2:]), 422, "bad_image"),
    ("a PNG cut by 200 bytes", request(PNG[:-200]), 422, "truncated_image"),
    ("a WebP cut by 200 bytes", request(WEBP[:-200]), 422, "truncated_image"),
    ("a PNG of 16 million rows", request(png_header(1, 2**24)), 413, "too_many_pixels"),
    ("a header of 20000 x 20000 pixels", request(png_header(20_000, 20_000)), 413, "too_many_pixels"),
    ("12000 x 12000 black pixels", request(black_png(12_000)), 413, "too_many_pixels"),
    ("a width of 0 pixels", request(png_header(0, 10)), 422, "bad_image"),
    ("a height of 0 pixels", request(png_header(10, 0)), 422, "bad_image"),
    ("text in place of a file", request(form(('name="image"', b"hello")), content_type=FORM), 400, "not_a_file"),
    ("an announced body of 11 MB", header_only(("Content-Length", str(11 * MIB))), 413, "body_too_large"),
    ("a body without length of 11 MB", request(chunked(bytes(11 * MIB), MIB), headers=CHUNKED), 413, "body_too_large"),
    ("524 288 chunks", request(b"1\r\n\0\r\n" * 524_288 + b"0\r\n\r\n", headers=CHUNKED), 413, "body_too_large"),
    ("a chunk extension of 12 MB", request(b"1;" + b"x" * 12 * MIB, headers=CHUNKED), 413, "body_too_large"),
    (
        "trailers of 1 MB",
        request(b"0\r\n" + b"A: bcdef\r\n" * 100_000 + b"\r\n", headers=CHUNKED),
        431,
        "header_too_large",
    ),
    ("a chunk whose size is no number", request(b"zz\r\n", headers=CHUNKED), 400, "bad_http"),
    ("gzip", request(zlib.compress(JPEG, wbits=31), headers=GZIP), 415, "encoding_not_supported"),
    ("a gzip bomb", request(zlib.compress(bytes(30 * MIB), 1, wbits=31), headers=GZIP), 415, "encoding_not_supported"),
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
    ("base64 badly padded", request(image_json("QQ="), content_type=JSON), 400, "bad_request"),
    ("base64 padded too much", request(image_json("QUJD="), content_type=JSON), 400, "bad_request"),
    ("base64 of 14 MB", request(image_json("Q" * 14 * MIB), content_type=JSON), 413, "body_too_large"),
    *(
        (f"top_k {value[:9]}", request(JPEG, path=f"/v1/predict?top_k={value}"), 400, "bad_request")
        for value in ("0", "-1", "%225%22", "2.5", "1e3")
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
