"""What comes near to a request that is understood: read where its meaning is plain, else told what helps."""

import base64
import json

import pytest

from harness.raw_http import FORM, form
from rrrserve.api.errors import APIError
from rrrserve.api.requests import contents_of

FORM_HEADERS = {b"content-type": FORM.encode()}


def refusal(code: str, body: bytes, headers: dict[bytes, bytes], *, field: str) -> str:
    """The message with which `contents_of` refuses, after checking its code."""
    with pytest.raises(APIError) as caught:
        contents_of(body, headers, field=field, most=1)
    assert caught.value.code == code
    return caught.value.message


BYTES = b"\xfb\xff\xbe" * 30 + b"AB"
BASE64 = base64.b64encode(BYTES).decode()


@pytest.mark.parametrize(
    "text",
    [
        BASE64,
        BASE64 + "\n",
        base64.encodebytes(BYTES).decode(),
        "\r\n".join(BASE64[start : start + 20] for start in range(0, len(BASE64), 20)),
        BASE64.rstrip("="),
        base64.urlsafe_b64encode(BYTES).decode(),
        base64.urlsafe_b64encode(BYTES).decode().rstrip("="),
        f"data:image/jpeg;base64,{BASE64}",
        f"DATA:image/png;name=a.png;Base64,{BASE64}",
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "Application/VND.api+json; charset=utf-8"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_every_spelling_of_base64_and_of_jsons_type_is_read(text: str, kind: str, start: str) -> None:
    body = (start + json.dumps({"image": text})).encode()
    assert contents_of(body, {b"content-type": kind.encode()}, field="image", most=1).images == [BYTES]


JPEG = b"\xff\xd8\xff\xe0"
FORM_TYPE = FORM.encode()
URLENCODED = b"application/x-www-form-urlencoded"
FIELD = 'name="image"; filename="a"'
# (what was sent, its type, the route's field, code, words of the sentence)
NEAR_MISSES: list[tuple[bytes, bytes, str, str, tuple[str, ...]]] = [
    (
        b' {"image": "QQ=="}',
        b"",
        "image",
        "unsupported_media_type",
        ("JSON", "without", "Content-Type: application/json"),
    ),
    (b'{"image": "QQ=="}', URLENCODED, "image", "unsupported_media_type", ("JSON", "urlencoded")),
    (b'\xef\xbb\xbf{"images": []}', b"", "images", "unsupported_media_type", ("JSON", "application/json")),
    (b"image=%2F9j%2F4AA", URLENCODED, "image", "unsupported_media_type", ("curl -F image=@",)),
    (b"https://example.org/a.jpg", b"", "image", "unsupported_image", ("address", "fetches nothing", "curl -T")),
    (base64.b64encode(JPEG + b"\0" * 8), b"", "image", "unsupported_image", ("base64", "application/json")),
    (b"data:image/png;base64,QQ==", b"", "image", "unsupported_image", ("data: URL",)),
    (form((FIELD, JPEG)), b"application/octet-stream", "image", "unsupported_media_type", ("multipart", "curl -F")),
    (form((FIELD, JPEG)), b"multipart/form-data", "image", "bad_multipart", ("no boundary", "files=")),
    (
        form((FIELD, JPEG)),
        b"multipart/mixed; boundary=rrr-boundary",
        "image",
        "unsupported_media_type",
        ("'multipart/mixed'", "curl -F"),
    ),
    (JPEG, b"text/plain", "image", "unsupported_media_type", ("'text/plain'", "octet-stream", "curl -F image=@")),
    (JPEG, b"application/json", "image", "bad_json", ("is an image", "curl -T")),
    (JPEG, b"image/jpeg", "images", "missing_image", ("curl -F images=@a.jpg",)),
    (form(('name="file"; filename="a"', JPEG)), FORM_TYPE, "image", "missing_image", ("'file'", "curl -F image=@")),
    (
        form(('name="images[]"; filename="a"', JPEG)),
        FORM_TYPE,
        "images",
        "missing_image",
        ("'images[]'", "-F images=@"),
    ),
    (form(("name=image", b"https://a")), FORM_TYPE, "image", "not_a_file", ("address", "fetches nothing", "uploaded")),
    (b'{"image": "https://example.org/a.jpg"}', b"application/json", "image", "bad_request", ("address", "base64")),
    (
        b'{"instances": [{"b64": "QQ=="}]}',
        b"application/json",
        "image",
        "bad_request",
        ("'instances'", '{"image": "<base64>"}'),
    ),
]


@pytest.mark.parametrize(("body", "kind", "field", "code", "words"), NEAR_MISSES)
def test_a_near_miss_gets_the_sentence_that_helps(
    body: bytes, kind: bytes, field: str, code: str, words: tuple[str, ...]
) -> None:
    message = refusal(code, body, {b"content-type": kind} if kind else {}, field=field)
    assert all(word in message for word in words), message
    assert len(message) < 300
    assert message.isascii()


def test_what_stands_before_and_after_a_form_is_passed_over() -> None:
    body = b"This is a form.\r\n" + form((FIELD, JPEG)) + b"The end.\r\n"
    assert contents_of(body, FORM_HEADERS, field="image", most=1).images == [JPEG]


def test_a_part_in_base64_by_its_own_header_is_read() -> None:
    header = 'name="image"; filename="a"\r\nContent-Transfer-Encoding: BASE64'
    assert contents_of(form((header, base64.encodebytes(BYTES))), FORM_HEADERS, field="image", most=1).images == [BYTES]
    assert "announces" in refusal("bad_multipart", form((header, JPEG)), FORM_HEADERS, field="image")
