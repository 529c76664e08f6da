"""JSON as RFC 8259 has it: no NaN, no key twice."""

import json
from collections import Counter
from typing import Any, NoReturn

from rrrserve.api.errors import APIError
from rrrserve.api.near_misses import shown


def loads(body: bytes, must_be: str) -> Any:
    """What a body says.

    Args:
        body: UTF-8; some programs begin with a byte order mark.
        must_be: told of a body that is no JSON.

    Raises:
        APIError: `bad_json`, or `bad_request` for a key that is given twice.
    """
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise APIError("bad_json", f"the body is not valid JSON in UTF-8; {must_be}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise APIError("bad_json", f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise APIError("bad_request", f"the key {shown(twice)} is given twice")
    return dict(pairs)
