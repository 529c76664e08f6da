"""multipart/form-data parsed in memory, with python-multipart's parser: no temporary files, file names ignored."""

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from rrrserve.api.errors import APIError

if TYPE_CHECKING:  # exists for type checkers only
    from python_multipart.multipart import MultipartCallbacks

# It tells the log about every body that it cannot parse; the client is told, and the metric counts it.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

MAX_TEXT_BYTES = 64 * 1024
_MAX_PARTS = 1024
# Some clients write a file name that is not ASCII in this way only, which RFC 7578 forbids and the parser passes over.
_EXTENDED_FILENAME = re.compile(rb";[ \t]*filename\*", re.IGNORECASE)
_QUOTED = re.compile(rb'"[^"]*"')


@dataclass
class Part:
    """One part: its field name, whether it was sent as a file, whether its bytes are base64, and they themselves."""

    name: str = ""
    is_file: bool = False
    is_base64: bool = False
    data: bytearray = field(default_factory=bytearray)


def parse_multipart(body: bytes, content_type: bytes) -> list[Part]:
    """Split a complete body into its parts.

    Args:
        body: the whole body; its size was limited while it was read.
        content_type: the request's header, which holds the boundary.

    Raises:
        APIError: `bad_multipart`, or `field_too_large` for a text field over 64 KiB.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        help_ = "let the client write it itself, as curl -F and Python's requests do with files=..."
        raise APIError("bad_multipart", f"the header Content-Type names no boundary: {help_}")
    if not body.startswith(first := b"--" + boundary) and (start := body.find(b"\r\n" + first)) >= 0:
        body = body[start + 2 :]  # behind a preamble, which RFC 2046 allows and the parser does not
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
    except FormParserError as error:
        what = "the body is not the multipart/form-data that its header announces (its lines end with CR LF)"
        raise APIError("bad_multipart", what) from error
    if not collector.ended:
        raise APIError("bad_multipart", "the multipart body ends before its closing boundary")
    return collector.parts


class _Collector:
    """Receives the parser's events."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._header = bytearray()
        self._value = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._part_begin,
            "on_header_begin": self._header_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise APIError("bad_multipart", f"the body has more than {_MAX_PARTS} parts")
        self.parts.append(Part())

    def _header_begin(self) -> None:
        self._header.clear()
        self._value.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            value = bytes(self._value)
            options = parse_options_header(value)[1]
            part = self.parts[-1]
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            part.is_file = b"filename" in options or bool(_EXTENDED_FILENAME.search(_QUOTED.sub(b"", value)))
        elif self._header.lower() == b"content-transfer-encoding":  # of mail; some clients write forms as mail
            self.parts[-1].is_base64 = self._value.strip().lower() == b"base64"

    def _headers_finished(self) -> None:
        if not self.parts[-1].name:
            raise APIError("bad_multipart", "a part has no name in its header Content-Disposition")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.data += memoryview(data)[start:end]
        if not part.is_file and len(part.data) > MAX_TEXT_BYTES:
            what = f"a text field is larger than {MAX_TEXT_BYTES} bytes"
            raise APIError("field_too_large", f"{what}: an image must be an uploaded file (curl -F image=@cat.jpg URL)")

    def _end(self) -> None:
        self.ended = True
