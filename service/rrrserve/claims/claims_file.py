"""The claims file: read strictly, refused with the line, the value seen and what is allowed."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rrrnet import sealed
from rrrnet.errors import ArtifactError
from rrrserve.claims.kinds import KINDS, AnyClaim
from rrrserve.claims.yaml_file import Place, YamlFile, read_yaml

VERSION = 1
DEFAULT_CONFIDENCE = 0.95
_CONFIDENCES = (0.5, 0.9999)
_TOP_FIELDS = ("version", "confidence", "claims")


@dataclass(frozen=True)
class Claims:
    """A claims file.

    Attributes:
        path: where it was read from.
        sha256: of its bytes.
        confidence: that every interval is to have.
        claims: in the file's order.
    """

    path: Path
    sha256: str
    confidence: float
    claims: tuple[AnyClaim, ...]


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A sentence with the allowed word that a misspelt one is nearest to, after a space; or nothing."""
    found = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""


def read_claims(path: Path) -> Claims:
    """Read and check a claims file.

    Raises:
        ArtifactError: anything in it is not as docs/claims.md says; begins with FILE:LINE.
    """
    document = read_yaml(path)
    top = document.value
    if not isinstance(top, dict):
        raise document.error((), f"expected {', '.join(_TOP_FIELDS)} as keys, not {_shown(top)}")
    for key in top:
        if key not in _TOP_FIELDS:
            raise document.error(
                (key,), f"unknown field {key!r}: allowed are {', '.join(_TOP_FIELDS)}.{nearest(key, _TOP_FIELDS)}"
            )
    if type(top.get("version")) is not int or top["version"] != VERSION:
        raise document.error(("version",), f"version is {_shown(top.get('version'))}: this rrr reads {VERSION}")
    claims = _claims(document, top.get("claims"))
    return Claims(path, sealed.sha256_of(path), _confidence(document, top), claims)


def _confidence(document: YamlFile, top: dict[str, Any]) -> float:
    value = top.get("confidence", DEFAULT_CONFIDENCE)
    low, high = _CONFIDENCES
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise document.error(
            ("confidence",),
            f"confidence is {_shown(value)}: allowed are numbers from {low} to {high}",
        )
    return float(value)


def _claims(document: YamlFile, values: Any) -> tuple[AnyClaim, ...]:
    if not isinstance(values, list) or not values:
        raise document.error(("claims",), f"claims is {_shown(values)}: expected a list of at least one claim")
    claims: list[AnyClaim] = []
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        claim = _claim(document, ("claims", index), value)
        if claim.name in first:
            raise document.error(
                ("claims", index, "name"), f"the name {claim.name!r} was given before, in line {first[claim.name]}"
            )
        first[claim.name] = document.line_of(("claims", index, "name"))
        claims.append(claim)
    return tuple(claims)


def _claim(document: YamlFile, place: Place, value: Any) -> AnyClaim:
    if not isinstance(value, dict):
        raise document.error(place, f"a claim has fields such as name and kind, and this is {_shown(value)}")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        hint = nearest(kind, KINDS) if isinstance(kind, str) else ""
        raise document.error((*place, "kind"), f"kind is {_shown(kind)}: allowed are {', '.join(KINDS)}.{hint}")
    try:
        return KINDS[kind].model_validate(value)
    except ValidationError as error:
        raise _explained(document, place, value, KINDS[kind], error) from error


def _explained(
    document: YamlFile, place: Place, value: dict[str, Any], kind: type[AnyClaim], error: ValidationError
) -> ArtifactError:
    """The first thing that is wrong, in the file's order; an unknown field before one that is missing for its sake."""
    claim = f"claim {value['name']!r}: " if isinstance(value.get("name"), str) else ""
    problems = sorted(
        error.errors(), key=lambda item: (item["type"] == "missing", document.line_of((*place, *item["loc"])))
    )
    problem = problems[0]
    inside = (*place, *problem["loc"])
    field = str(problem["loc"][0]) if problem["loc"] else ""
    fields = ", ".join(kind.model_fields)
    if problem["type"] == "extra_forbidden":
        allowed = [name for name in kind.model_fields if name not in value]
        message = f"unknown field {field!r} of a {value['kind']} claim: allowed are {fields}.{nearest(field, allowed)}"
    elif problem["type"] == "missing":
        message = f"a {value['kind']} claim needs the field {field!r}: its fields are {fields}"
    elif problem["type"] == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
    else:
        seen = value.get(field)
        hint = nearest(seen, _words(problem)) if isinstance(seen, str) else ""
        rule = problem["msg"].replace("Input should be", "it should be").replace("String should", "it should")
        message = f"{field} is {_shown(seen)}: {rule}.{hint}"
    return document.error(inside, claim + message)


def _words(problem: Any) -> list[str]:
    """The words that a Literal allows; none for another type."""
    expected = str(problem.get("ctx", {}).get("expected", "")).replace(" or ", ", ")
    return [word.strip("'") for word in expected.split(", ") if word]


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
