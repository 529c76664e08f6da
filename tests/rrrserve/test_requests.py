import base64
import json
import re
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from starlette.requests import ClientDisconnect

from rrrserve.api import bodies
from rrrserve.api.bodies import BodyMemory, read_body, this_task
from rrrserve.api.errors import APIError
from rrrserve.api.requests import contents_of, headers_of, ignored_header, options_of, request_id, timeout_ms, together

JSON = {b"content-type": b"application/json"}
FORM = {b"content-type": b"multipart/form-data; boundary=xyz"}


def form(*parts: tuple[str, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    """A multipart body; each part is (Content-Disposition parameters, data)."""
    pieces = [
        b"--xyz\r\nContent-Disposition: form-data; " + header.encode() + b"\r\n\r\n" + data + b"\r\n"
        for header, data in parts
    ]
    return b"".join(pieces) + end


def refusal(code: str, body: bytes, headers: dict[bytes, bytes], *, field: str = "image", most: int = 1) -> str:
    """The message with which `contents_of` refuses, after checking its code."""
    with pytest.raises(APIError) as caught:
        contents_of(body, headers, field=field, most=most)
    assert caught.value.code == code
    return caught.value.message


def test_a_file_in_a_form_is_read_and_its_name_ignored() -> None:
    body = form(('name="image"; filename="../../etc/passwd"', b"\x00\r\n--xy bytes"))
    assert contents_of(body, FORM, field="image", most=1).images == [b"\x00\r\n--xy bytes"]


@pytest.mark.parametrize("name", ["filename*=UTF-8''%e2%82%ac.jpg", "FileName*0=a; filename*1=b", "filename*=?''%ff"])
def test_a_file_whose_name_is_written_in_the_extended_way_is_a_file(name: str) -> None:
    body = form((f'name="image"; {name}', b"bytes"))
    assert contents_of(body, FORM, field="image", most=1).images == [b"bytes"]


def test_the_words_of_a_file_name_in_another_parameter_make_no_file() -> None:
    refusal("not_a_file", form(('name="image"; note="; filename*=a"', b"text")), FORM)


def test_several_files_are_read_in_order() -> None:
    body = form(('name="images"; filename="a"', b"1"), ('name="images"; filename="b"', b""))
    assert contents_of(body, FORM, field="images", most=2).images == [b"1", b""]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (form(("name=top_k", b"3"), ('name="image"; filename="a"', b"1"), ("name=members", b"null")), FORM),
        (form(("name=top_k", b"3"), ('name="image"; filename="a"', b"1"), ("name=members", b"")), FORM),
        (b'{"image": "MQ==", "top_k": 3, "members": null}', JSON),
    ],
)
def test_a_body_may_hold_options_beside_the_image(body: bytes, headers: dict[bytes, bytes]) -> None:
    unpacked = contents_of(body, headers, field="image", most=1)
    assert (unpacked.images, unpacked.options) == ([b"1"], [("top_k", "3")])


@pytest.mark.parametrize("first", ["text", "image"])
def test_text_fields_that_are_no_options_are_ignored_and_named(first: str) -> None:
    parts = [("name=user", b"me"), ('name="image"; filename="a"', b"1"), ("name=topk", b"2")]
    unpacked = contents_of(form(*(parts if first == "text" else reversed(parts))), FORM, field="image", most=1)
    assert unpacked.images == [b"1"]
    assert sorted(unpacked.ignored) == ["topk", "user"]


def test_what_is_ignored_is_named_in_a_header_that_a_client_can_neither_break_nor_blow_up() -> None:
    assert ignored_header([]) == {}
    assert ignored_header(["user", "_", "user"]) == {"X-RRR-Ignored": "user, _"}
    assert ignored_header(["a b\r\nSet-Cookie: x", "\ud800", "é,"]) == {
        "X-RRR-Ignored": "a%20b%0D%0ASet-Cookie%3A%20x, %3F, %C3%A9%2C"
    }
    long = ignored_header([f"{number}" + "é" * 9999 for number in range(1000)])["X-RRR-Ignored"]
    assert long.endswith(", ...")
    assert len(long) < 1100


@pytest.mark.parametrize(
    ("code", "body", "content_type"),
    [
        ("bad_multipart", form(('name="image"; filename="a"', b"1")), b"multipart/form-data"),
        ("bad_multipart", form(('name="image"; filename="a"', b"1")), b"multipart/form-data; boundary=other"),
        ("bad_multipart", form(('name="image"; filename="a"', b"1"), end=b""), FORM[b"content-type"]),
        ("bad_multipart", b"", FORM[b"content-type"]),
        ("bad_multipart", form(("filename=a", b"1")), FORM[b"content-type"]),
        ("missing_image", form(), FORM[b"content-type"]),
        ("missing_image", form(('name="other"; filename="a"', b"1")), FORM[b"content-type"]),
        (
            "bad_request",
            form(('name="image"; filename="a"', b"1"), ('name="x"; filename="b"', b"1")),
            FORM[b"content-type"],
        ),
        ("missing_image", form(('name="x"', b"1")), FORM[b"content-type"]),
        ("not_a_file", form(('name="image"', b"http://127.0.0.1/")), FORM[b"content-type"]),
        ("field_too_large", form(('name="note"', b"x" * 70_000)), FORM[b"content-type"]),
        (
            "too_many_images",
            form(('name="image"; filename="a"', b"1"), ('name="image"; filename="b"', b"2")),
            FORM[b"content-type"],
        ),
        ("missing_image", b"", b""),
        ("unsupported_media_type", b"<a/>", b"text/xml"),
        ("unsupported_media_type", b"x", b"Application/VND.bentoml+pickle; a=b"),
        ("bad_json", b"{", b"application/json"),
        ("bad_json", b'{"image": "\xff"}', b"application/json; charset=utf-8"),
        ("bad_json", b'{"image": NaN}', b"application/json"),
        ("bad_json", b"[" * 2000, b"application/json"),
        ("bad_request", b"[" * 100_000, b"application/json"),
        ("bad_request", b"[]", b"application/json"),
        ("bad_request", b'{"image": null}', b"application/json"),
        ("bad_json", b'{"image": ""}{', b"application/json"),
        ("bad_request", b'{"image": "", "image": ""}', b"application/json"),
        ("bad_request", b'{"image": "", "url": ""}', b"application/json"),
        ("bad_request", b'{"image": "?"}', b"application/json"),
        ("missing_image", b"{}", b"application/json"),
    ],
)
def test_an_unusable_body_is_refused_with_its_code(code: str, body: bytes, content_type: bytes) -> None:
    refusal(code, body, {b"content-type": content_type} if content_type else {})


def test_a_json_image_is_decoded_from_base64() -> None:
    body = json.dumps({"image": base64.b64encode(b"bytes").decode()}).encode()
    assert contents_of(body, JSON, field="image", most=1).images == [b"bytes"]


@pytest.mark.parametrize(
    "text", ["QUJD=", "QUJD==", "QUJD====", "Q", "QQ=", "QQ===", "=", "QQ==QQ==", "QU?D", "data:,A"]
)
def test_base64_that_is_badly_padded_or_none_is_refused(text: str) -> None:
    refusal("bad_request", json.dumps({"image": text}).encode(), JSON)


def test_options_may_come_in_the_url_and_the_body_and_the_urls_count() -> None:
    given = together([("top_k", "1"), ("_", "2")], [("top_k", "2"), ("members", "true")])
    assert given == [("top_k", "1"), ("_", "2"), ("members", "true")]
    body = b'{"image": "MQ==", "top_k": 2.0, "timing": false}'
    assert contents_of(body, JSON, field="image", most=1).options == [("top_k", "2"), ("timing", "false")]


def test_a_json_batch_must_be_a_list_of_strings() -> None:
    assert contents_of(b'{"images": ["QQ==", ""]}', JSON, field="images", most=2).images == [b"A", b""]
    refusal("bad_request", b'{"images": "QQ=="}', JSON, field="images", most=2)
    refusal("missing_image", b'{"images": []}', JSON, field="images", most=2)
    assert refusal("batch_too_large", b'{"images": ["", "", ""]}', JSON, field="images", most=2) == (
        "3 images: most is 2"
    )


@pytest.mark.parametrize("content_type", [b"", b"image/jpg", b"application/octet-stream", b"binary/octet-stream"])
def test_a_raw_body_is_the_image_whatever_its_label(content_type: bytes) -> None:
    assert contents_of(b"raw", {b"content-type": content_type}, field="image", most=1).images == [b"raw"]


def test_top_k_and_members_are_read_and_default() -> None:
    assert options_of([], {}, num_classes=3).top_k == 3
    assert options_of([], {}, num_classes=20).top_k == 5
    chosen = options_of([("top_k", "20"), ("members", "True"), ("timing", "false")], {}, num_classes=20)
    assert (chosen.top_k, chosen.members, chosen.timing, chosen.ignored) == (20, True, False, ())
    for many in ("4", "5", "007", "1000", "1" + "0" * 8000):
        assert options_of([("top_k", many)], {}, num_classes=3).top_k == 3


def test_unknown_parameters_are_ignored_and_named() -> None:
    chosen = options_of([("_", "123"), ("top_k", "2"), ("topk", "1"), ("_", "4")], {}, num_classes=3)
    assert (chosen.top_k, chosen.ignored) == (2, ("_", "topk", "_"))


@pytest.mark.parametrize(
    "query",
    [
        [("top_k", value)]
        for value in ("0", "00", "-1", "2.5", "", " 1", "1e3", "٣")  # the last is an Arabic-Indic 3
    ]
    + [[("members", "yes")], [("timing", "")], [("top_k", "1"), ("top_k", "2")]]
    + [[("effort", value)] for value in ("", "FAST", "slow", '"fast"')]
    + [
        [("coverage", value)]
        for value in ("", "0", "0.", "1", "95", "-0.5", "nan", "inf", " 0.9", "0_9", ".", "1e-999")
    ],
)
def test_a_bad_query_parameter_is_refused(query: list[tuple[str, str]]) -> None:
    with pytest.raises(APIError) as caught:
        options_of(query, {}, num_classes=3)
    assert caught.value.code == "bad_request"


def test_an_effort_may_come_in_url_body_or_header_and_the_header_counts_last() -> None:
    header = {b"x-rrr-effort": b"full"}
    assert (options_of([], {}, num_classes=3).effort, options_of([], header, num_classes=3).effort) == ("auto", "full")
    assert options_of([("effort", "fast")], {b"x-rrr-effort": b"?"}, num_classes=3).effort == "fast"
    document = b'{"image": "MQ==", "effort": "fast", "coverage": 0.9}'
    fields = form(("name=effort", b'"fast"'), ("name=coverage", b"0.9"), ('name="image"; filename="a"', b"1"))
    for body, headers in ((document, JSON), (fields, FORM)):
        unpacked = contents_of(body, headers, field="image", most=1)
        assert unpacked.options == [("effort", "fast"), ("coverage", "0.9")]
    for given, name in (([("effort", "x")], "effort"), ([], "X-RRR-Effort")):
        with pytest.raises(APIError, match=f"^{name} must be fast, auto or full: it is 'x'$"):
            options_of(given, {b"x-rrr-effort": b"x"}, num_classes=3)


def test_a_coverage_is_a_number_between_0_and_1() -> None:
    for text in ("0.95", ".5", "5e-324", "1E-5", "0.9999999999999999"):
        assert options_of([("coverage", text)], {}, num_classes=3).coverage == float(text)
    with pytest.raises(APIError, match=r"^coverage must be a number between 0 and 1, such as 0.95: it is '95'$"):
        options_of([("coverage", "95")], {}, num_classes=3)


def test_a_header_that_is_read_must_not_be_given_twice() -> None:
    assert headers_of([(b"accept", b"a"), (b"accept", b"b"), (b"host", b"c")])[b"host"] == b"c"
    with pytest.raises(APIError, match="content-type is given twice"):
        headers_of([(b"content-type", b"a"), (b"content-type", b"a")])
    assert b"x-request-id" not in headers_of([(b"x-request-id", b"a"), (b"x-request-id", b"b")])


def test_the_key_that_is_wrong_is_named_in_plain_letters() -> None:
    assert "'url'" in refusal("bad_request", b'{"url": 1}', JSON)
    assert r"'\ud800'" in refusal("bad_request", rb'{"\ud800": 1, "\ud800": 2}', JSON)
    assert "x..." in refusal("bad_request", b'{"' + b"x" * 9999 + b'": 1}', JSON)


def test_a_clients_request_id_is_taken_if_it_is_plain() -> None:
    assert request_id({b"x-request-id": b"run-7.a_B"}) == "run-7.a_B"
    assert len(request_id({})) == 16
    for bad in (b"", b"a b", b"x" * 65, b'"', b"\xe9", b"{3f2504e0-4f89-11d3-9a0c-0305e82c3301}", b"Root=1-6789"):
        assert re.fullmatch("[0-9a-f]{16}", request_id({b"x-request-id": bad}))


def test_a_clients_deadline_is_cut_to_the_largest() -> None:
    assert timeout_ms({}, default=10, largest=20) == 10
    assert timeout_ms({b"x-request-timeout-ms": b"15"}, default=10, largest=20) == 15
    assert timeout_ms({b"x-request-timeout-ms": b"0015"}, default=10, largest=20) == 15
    for large in (b"21", b"99999", b"9" * 13, b"9" * 9999):
        assert timeout_ms({b"x-request-timeout-ms": large}, default=10, largest=20) == 20
    for bad in (b"0", b"000", b"-1", b"1.5", b"", b"1e3", b"+5", b"5_0", b"5 0", b"\xb2"):
        with pytest.raises(APIError, match="X-Request-Timeout-Ms"):
            timeout_ms({b"x-request-timeout-ms": bad}, default=10, largest=20)


def read(chunks: Sequence[bytes], headers: dict[bytes, bytes]) -> tuple[bytes | APIError, int]:
    """What `read_body` makes of these chunks with a limit of 10 bytes, and how many it took."""
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": chunks[taken - 1], "more_body": taken < len(chunks)}

    memory = BodyMemory(100)

    async def run() -> bytes | APIError:
        with memory.begin(this_task().cancel) as coming:
            try:
                result = await read_body(receive, headers, coming, max_bytes=10)
            except APIError as error:
                return error
            assert (coming.whole, coming.size) == (True, len(result))
            return result

    result = anyio.run(run)
    memory.begin(lambda: None).take(100)  # neither what was refused nor what was read is counted any more
    return result, taken


def test_a_body_is_joined_from_its_chunks() -> None:
    assert read([b"12345", b"", b"67890"], {}) == (b"1234567890", 3)


@pytest.mark.parametrize(
    ("chunks", "headers", "code", "taken"),
    [
        ([b"12345678901"], {b"content-length": b"11"}, "body_too_large", 0),
        ([b"123456"] * 9, {}, "body_too_large", 2),
        ([b"x"], {b"content-encoding": b"gzip"}, "encoding_not_supported", 0),
    ],
    ids=["announced", "without a length", "compressed"],
)
def test_no_more_of_a_body_is_read_than_tells_that_it_is_refused(
    chunks: list[bytes], headers: dict[bytes, bytes], code: str, taken: int
) -> None:
    error, found = read(chunks, headers)
    assert isinstance(error, APIError)
    assert (error.code, found) == (code, taken)


def test_a_body_that_does_not_come_to_an_end_gives_way_to_others_once_it_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunks = [b"x" * 9]

    async def stalled() -> dict[str, Any]:
        if not chunks:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": chunks.pop(), "more_body": True}

    memory = BodyMemory(10)
    codes: list[str] = []

    async def run() -> None:
        async def slow() -> None:
            with pytest.raises(APIError) as caught, memory.begin(this_task().cancel) as coming:
                await read_body(stalled, {}, coming, max_bytes=10)
            codes.append(caught.value.code)

        async with anyio.create_task_group() as clients:
            clients.start_soon(slow)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(APIError, match="too many large bodies"):
                memory.begin(lambda: None).take(10)
            monkeypatch.setattr(bodies, "SLOW_SECONDS", 0.0)
            memory.begin(lambda: None).take(10)

    anyio.run(run)
    assert codes == ["overloaded"]


def test_a_client_that_goes_away_ends_the_reading() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def run() -> None:
        with pytest.raises(ClientDisconnect), BodyMemory(10).begin(this_task().cancel) as coming:
            await read_body(receive, {}, coming, max_bytes=10)

    anyio.run(run)
