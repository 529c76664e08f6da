"""The service's log on standard error: one line an event, as text or JSON, never longer than 1 KiB.

Nothing that a client chose freely is logged. What comes from elsewhere (texts of libraries, of Triton) is escaped: a
line break or a terminal's control character in it can neither forge a line nor reach the terminal.
"""

import json
import logging
import math
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

from rrrnet.errors import UsageError

Format = Literal["text", "json"]
FORMATS: tuple[str, ...] = get_args(Format)
MOST_BYTES = 1024  # of a line with its end

# To so many characters message and fields are cut, the stack to half as many, one after the other until the line fits.
_MOST_CHARACTERS = (sys.maxsize, 700, 350, 175, 87, 43)
_MOST_NAME_CHARACTERS = 80
_MOST_FRAMES = 4
_CUT = "..."

access_log = logging.getLogger("rrrserve.access")
_life_log = logging.getLogger("rrrserve.life")


def check_format(style: str) -> None:
    """Check that a style is one of `FORMATS`.

    Raises:
        UsageError: it is not.
    """
    if style not in FORMATS:
        raise UsageError(f"RRR_LOG_FORMAT is {style!r}: allowed are {' and '.join(FORMATS)}")


def configure(style: str, *, access: bool = False, stream: TextIO | None = None) -> None:
    """Send the log of this process to standard error.

    Args:
        style: one of `FORMATS`.
        access: also log each request: id, route template, model, status, duration.
        stream: instead of standard error.

    Raises:
        UsageError: an unknown style.
    """
    check_format(style)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter(style))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    access_log.setLevel(logging.INFO if access else logging.WARNING)
    _life_log.setLevel(logging.INFO)


def tell(event: str, **fields: Any) -> None:
    """Log a step in the life of the service, such as that it is ready."""
    _life_log.info(event, extra={"fields": fields})


def log_request(*, request_id: str, route: str, model: str, status: int, seconds: float, trace_id: str = "") -> None:
    """Log one request, if that is wanted.

    Args:
        request_id: checked, or ours.
        route: the template.
        model: one of the repository's, or empty.
        status: of the answer; 0 for a client that went away.
        seconds: from the request's arrival to its answer.
        trace_id: 32 hexadecimal digits; empty where the request belongs to no trace.
    """
    if access_log.isEnabledFor(logging.INFO):
        fields = {"request_id": request_id, "route": route, "model": model, "status": status}
        fields["duration_ms"] = round(1000 * seconds, 3)
        if trace_id:
            fields["trace_id"] = trace_id
        access_log.info("request", extra={"fields": fields})


class _Formatter(logging.Formatter):
    """Both forms: the same parts, made safe, and shortened until the line fits."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self._line = _json_line if style == "json" else _text_line

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = (when, record.levelname, _cut(escaped(record.name), _MOST_NAME_CHARACTERS))
        message, stack = escaped(record.getMessage()), _stack(record)
        fields = {name: _plain(value) for name, value in getattr(record, "fields", {}).items()}
        for most in _MOST_CHARACTERS:
            message, stack = _cut(message, most), _cut(stack, most // 2)
            line = self._line(*head, message, {key: _shortened(value, most) for key, value in fields.items()}, stack)
            if len(line) < MOST_BYTES:  # its end comes on top
                return line
        # Without fields the rest always fits, even where JSON doubles every character of it.
        return self._line(*head, message, {}, stack)


def _text_line(when: str, level: str, name: str, message: str, fields: dict[str, Any], stack: str) -> str:
    told = "".join(escaped(f" {key}={value}") for key, value in fields.items())
    return f"{when} {level} {name} {message}{told}{f' [{stack}]' if stack else ''}"


def _json_line(when: str, level: str, name: str, message: str, fields: dict[str, Any], stack: str) -> str:
    document = {"time": when, "level": level.lower(), "logger": name, "event": message, **fields}
    return json.dumps({**document, "error": stack} if stack else document)  # ASCII: what is not is escaped


def escaped(text: str) -> str:
    """`text` without characters that a terminal or a reader of lines would act upon, nor any outside ASCII."""
    return "".join(char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: max(0, characters - len(_CUT))] + _CUT


def _plain(value: Any) -> Any:
    """What JSON can tell of a field's value."""
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _shortened(value: Any, characters: int) -> Any:
    """A field's value in about so many characters; of a list as many items as fit, and how many more there are."""
    if isinstance(value, list):
        kept: list[Any] = []
        for item in value:
            characters -= len(str(item)) + 4  # quotes, comma and space
            if characters < 0:
                break
            kept.append(item)
        return kept if len(kept) == len(value) else [*kept, f"{_CUT} {len(value) - len(kept)} more"]
    return value if len(str(value)) <= characters else _cut(str(value), characters)


def _stack(record: logging.LogRecord) -> str:
    """An exception's name and the innermost places it went through; its text may hold what a client sent."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    kind, _, trace = record.exc_info
    frames = traceback.extract_tb(trace)[-_MOST_FRAMES:]
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[::-1])
    return escaped(f"{kind.__name__} at {places}")
