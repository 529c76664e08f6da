"""REST bodies: JSON, alone or before the bytes of tensors (the binary tensor data extension)."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild.repository_document import ServedModel
from rrrserve.api import strict_json
from rrrserve.api.endpoint import Reply, to_json
from rrrserve.api.errors import APIError
from rrrserve.api.near_misses import shown
from rrrserve.api.requests import Headers, ignored_header
from rrrserve.api.v2.inference import Answer
from rrrserve.api.v2.question import Output, Question, question
from rrrserve.api.v2.tensors import Tensor

HEADER_LENGTH = "Inference-Header-Content-Length"
_HEADER_LENGTH_RAW = HEADER_LENGTH.lower().encode()
BINARY_TYPE = "application/octet-stream"
# A number of JSON takes four times its size in memory, and a list of nothing twenty times; pixels belong into bytes.
_STRUCTURE = (b"{", b"[", b",")
_MOST_STRUCTURE = 2**19
_MUST_BE = 'it must be {"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}]}'
_KEYS = ("id", "inputs", "outputs", "parameters")


def read(body: bytes, headers: Headers, model: ServedModel, *, most: int, query: Sequence[str]) -> Question:
    """What a body asks of a model.

    Args:
        body: the whole body.
        headers: the request's.
        model: which model.
        most: images allowed.
        query: names of parameters of the URL, which mean nothing here.

    Raises:
        APIError: the body cannot be understood, or asks for what there is not.
    """
    size = _header_length(headers, len(body))
    document = _document(body[:size] if size < len(body) else body)
    rest = memoryview(body)[size:]
    parameters = _mapping(document.get("parameters"), "parameters")
    binary = _flag(parameters, "binary_data_output")
    tensors: list[Tensor] = []
    for item in _items(document, "inputs"):
        tensor, rest = _tensor(item, rest)
        tensors.append(tensor)
    if rest:
        raise APIError("bad_request", f"{len(rest)} bytes follow that are no input's: see binary_data_size")
    return question(
        model,
        tensors,
        parameters,
        [_output(item, binary) for item in _items(document, "outputs")],
        identifier=_string(document, "id", ""),
        headers=headers,
        most=most,
        binary=binary,
        ignored=[*query, *(key for key in document if key not in _KEYS)],
    )


def is_quick(body: bytes, headers: Headers, most_bytes: int) -> bool:
    """Whether the JSON of a body is so short that it can be read on the event loop."""
    length = headers.get(_HEADER_LENGTH_RAW, b"")
    return len(body) <= most_bytes or (length.isdigit() and int(length) <= most_bytes)


def write(answer: Answer) -> Reply:
    """An answer in JSON, with the outputs that were asked for as bytes behind it."""
    blobs: list[bytes] = []
    outputs = []
    for wanted, datatype, array in answer.results:
        output: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": list(array.shape)}
        if wanted.binary:
            blobs.append(to_bytes(array))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = _values(array)
        outputs.append(output)
    document = {
        "model_name": answer.model.name,
        "model_version": answer.model.version,
        **({"id": answer.question.id} if answer.question.id else {}),
        "parameters": {"effort": answer.effort, "partial": answer.partial},
        "outputs": outputs,
    }
    head, headers = to_json(document), ignored_header(answer.question.options.ignored)
    if not blobs:
        return Reply(head, headers=headers)
    headers[HEADER_LENGTH] = str(len(head))
    return Reply(b"".join((head, *blobs)), content_type=BINARY_TYPE, headers=headers)


def to_bytes(array: npt.NDArray[Any]) -> bytes:
    """A tensor in binary form; of BYTES each element behind its length."""
    if array.dtype != object:
        return array.tobytes()
    return b"".join(len(value).to_bytes(4, "little") + value for value in array.ravel())


def _values(array: npt.NDArray[Any]) -> list[Any]:
    """A tensor's values, flat; JSON has no NaN: null, which tritonclient turns into NaN again."""
    flat = array.ravel()
    if array.dtype == object:
        return [value.decode() for value in flat]
    values: list[Any] = flat.tolist()
    if array.dtype.kind == "f" and np.isnan(flat).any():
        return [None if value != value else value for value in values]
    return values


def _header_length(headers: Headers, body_bytes: int) -> int:
    """How many bytes of a body are JSON."""
    sent = headers.get(_HEADER_LENGTH_RAW)
    if sent is None:
        return body_bytes
    if not sent.isdigit() or len(sent) > len(str(body_bytes)) or int(sent) > body_bytes:
        seen = shown(sent.decode("latin-1"))
        message = f"{HEADER_LENGTH} must be the bytes of JSON before the tensors, {body_bytes} at most: it is {seen}"
        raise APIError("bad_request", message)
    return int(sent)


def _document(text: bytes) -> dict[str, Any]:
    if sum(map(text.count, _STRUCTURE)) > _MOST_STRUCTURE:
        raise APIError("bad_request", f"more than {_MOST_STRUCTURE} values in JSON: send them as binary data")
    document = strict_json.loads(text, _MUST_BE)
    if not isinstance(document, dict):
        raise APIError("bad_request", f"the body is no JSON object: {_MUST_BE}")
    return document


def _items(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = document.get(name)
    items = [] if items is None else items
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise APIError("bad_request", f"{name} must be a list of objects")
    return items


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise APIError("bad_request", f"{name} must be an object")
    return value or {}


def _string(item: dict[str, Any], name: str, default: str | None = None) -> str:
    value = item.get(name, default)
    if not isinstance(value, str):
        raise APIError("bad_request", f"{name} must be a string: it is {shown(json.dumps(value))}")
    return value


def _flag(parameters: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise APIError("bad_request", f"{name} must be true or false: it is {shown(json.dumps(value))}")
    return value


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor(item: dict[str, Any], rest: memoryview) -> tuple[Tensor, memoryview]:
    """An input, and what is left of the bytes behind the JSON."""
    name, shape = _string(item, "name"), item.get("shape")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise APIError("bad_request", f"the shape of {shown(name)} must be a list of whole numbers")
    size, values = _mapping(item.get("parameters"), "parameters").get("binary_data_size"), item.get("data")
    tensor = Tensor(name, _string(item, "datatype"), tuple(shape))
    if (size is None) == (values is None):
        raise APIError("bad_request", f"{shown(name)} must have either data or the parameter binary_data_size")
    if values is not None:
        if not isinstance(values, list):
            raise APIError("bad_request", f"the data of {shown(name)} must be a list")
        return tensor._replace(values=values), rest
    if size is None or not _is_size(size) or size > len(rest):
        message = f"binary_data_size of {shown(name)} is {shown(str(size))}: {len(rest)} bytes follow the JSON"
        raise APIError("bad_request", message)
    return tensor._replace(raw=rest[:size]), rest[size:]


def _output(item: dict[str, Any], binary: bool) -> Output:
    parameters = _mapping(item.get("parameters"), "parameters")
    return Output(_string(item, "name"), parameters, _flag(parameters, "binary_data", default=binary))
