"""W3C Trace Context, https://www.w3.org/TR/trace-context/: the header in which a caller names its trace."""

import re
from collections.abc import Mapping
from typing import NamedTuple

# Version, trace id, the caller's span id, flags; ids of zeros and the version ff are invalid. Versions to come may add
# what they want behind a further hyphen.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_TRACESTATE = re.compile(rb"[ -~]{1,512}")

Fields = tuple[tuple[str, str], ...]


class Context(NamedTuple):
    """The trace that a caller named.

    Attributes:
        trace_id: 32 hexadecimal digits.
        fields: the headers that tell it, to be handed on as they came.
    """

    trace_id: str
    fields: Fields


def context_of(headers: Mapping[bytes, bytes]) -> Context | None:
    """The trace that a request belongs to; None where it names none, or not as the standard has it.

    Args:
        headers: the request's, by lower-case name.
    """
    traceparent = headers.get(b"traceparent")
    if traceparent is None:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found[2] is not None and traceparent.startswith(b"00")):
        return None
    fields: Fields = (("traceparent", traceparent.decode()),)
    state = headers.get(b"tracestate", b"")
    if _TRACESTATE.fullmatch(state):
        fields += (("tracestate", state.decode()),)
    return Context(found[1].decode(), fields)
