"""The tensors that a model takes and gives, and what a client sent in place of them, checked.

N images, S the model's image size, M members, C classes.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rrrbuild.manifest import EMBEDDING
from rrrbuild.repository_document import ServedModel
from rrrserve.api import near_misses
from rrrserve.api.errors import APIError
from rrrserve.api.near_misses import shown

IMAGES, IMAGE_BYTES = "images", "image_bytes"
PROBABILITIES, MEAN, MEMBERS_USED, IN_SET = "probabilities", "mean_probabilities", "members_used", "in_set"
_LENGTH = struct.Struct("<I")  # before each element of BYTES in binary form
_ONE = f"exactly one input, {IMAGES} or {IMAGE_BYTES}"

Uint8s = npt.NDArray[np.uint8]


class Tensor(NamedTuple):
    """A tensor that a client sent: its bytes, or else its values, as JSON and protobuf have them.

    Attributes:
        name, datatype, shape: as the client says.
        raw: little endian, row by row; of BYTES each element behind its length.
        values: in lists of any depth.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview | None = None
    values: Sequence[Any] | None = None


class Images(NamedTuple):
    """What is asked about: N arrays (S, S, 3), or N encoded images; the other is empty."""

    arrays: Sequence[Uint8s] = ()
    encoded: Sequence[bytes] = ()

    def __len__(self) -> int:
        return len(self.arrays) or len(self.encoded)


def has_sets(model: ServedModel) -> bool:
    """Whether a set can be asked for."""
    return model.confidence is not None and any(model.confidence.scores.values())


def inputs_of(model: ServedModel) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of the inputs, one of which a request has; -1 is N."""
    size = model.image_size
    return [(IMAGES, "UINT8", [-1, size, size, 3]), (IMAGE_BYTES, "BYTES", [-1])]


def outputs_of(model: ServedModel) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of the outputs; -1 is N."""
    classes = len(model.labels)
    found = [
        (PROBABILITIES, "FP32", [-1, model.members, classes]),
        (MEAN, "FP32", [-1, classes]),
        (MEMBERS_USED, "INT32", [-1]),
    ]
    if has_sets(model):
        found.append((IN_SET, "BOOL", [-1, classes]))
    if model.embedding_dim is not None:
        found.append((EMBEDDING, "FP32", [-1, model.embedding_dim]))
    return found


def images_of(tensors: Sequence[Tensor], model: ServedModel, most: int) -> Images:
    """The images of a request.

    Args:
        tensors: its inputs.
        model: which model is asked.
        most: images allowed.

    Raises:
        APIError: `missing_image`, `bad_request` or `batch_too_large`.
    """
    known = {name: (datatype, shape) for name, datatype, shape in inputs_of(model)}
    for tensor in tensors:
        if tensor.name not in known:
            raise APIError("bad_request", f"there is no input {shown(tensor.name)}: {model.name} takes {_ONE}")
    if len(tensors) != 1:
        code = "bad_request" if tensors else "missing_image"
        raise APIError(code, f"the request has {len(tensors)} inputs: {model.name} takes {_ONE}")
    (tensor,) = tensors
    datatype, shape = known[tensor.name]
    if tensor.datatype != datatype:
        raise APIError("bad_request", f"{tensor.name} must be {datatype}: it is {shown(tensor.datatype)}")
    if len(tensor.shape) != len(shape) or list(tensor.shape[1:]) != shape[1:] or tensor.shape[0] < 1:
        wanted = ", ".join(["N", *map(str, shape[1:])])
        given = shown(", ".join(map(str, tensor.shape)))
        raise APIError("bad_request", f"{tensor.name} must have the shape [{wanted}], N from 1: it is [{given[1:-1]}]")
    if tensor.shape[0] > most:
        raise APIError("batch_too_large", f"{shown(str(tensor.shape[0]))[1:-1]} images: most is {most}")
    if tensor.name == IMAGES:
        return Images(arrays=list(_pixels(tensor)))
    return Images(encoded=_elements(tensor) if tensor.raw is not None else _texts(tensor))


def _pixels(tensor: Tensor) -> Uint8s:
    """The pixels of `images`, shape (N, S, S, 3); bytes are not copied."""
    raw = _from_values(tensor) if tensor.raw is None else tensor.raw
    if len(raw) != (expected := math.prod(tensor.shape)):
        what = "values" if tensor.raw is None else "bytes"
        raise APIError("bad_request", f"{tensor.name} has {len(raw)} {what}: its shape asks for {expected}")
    return np.frombuffer(raw, np.uint8).reshape(tensor.shape)


def _from_values(tensor: Tensor) -> bytes:
    """Nested or flat lists of whole numbers as bytes."""
    values = tensor.values or ()
    for _ in tensor.shape[1:]:
        if set(map(type, values)) != {list}:
            break
        values = [value for part in values for value in part]
    # Of bool and of numpy's own reading of mixed lists nothing is wanted.
    if not set(map(type, values)) <= {int} or not all(0 <= value <= 255 for value in values):
        message = f"{tensor.name} must hold whole numbers from 0 to 255, in one list or nested as its shape"
        raise APIError("bad_request", message)
    return bytes(values)


def _elements(tensor: Tensor) -> list[bytes]:
    """The elements of a tensor of BYTES in binary form."""
    raw = memoryview(tensor.raw or b"")
    found, place = [], 0
    for _ in range(tensor.shape[0]):
        start = place + _LENGTH.size
        place = start + _LENGTH.unpack_from(raw, place)[0] if start <= len(raw) else len(raw) + 1
        if place > len(raw):
            break
        found.append(bytes(raw[start:place]))
    if place != len(raw):
        what = f"{tensor.shape[0]} elements, each behind its length in 4 bytes, little endian"
        raise APIError("bad_request", f"the {len(raw)} bytes of {tensor.name} must be {what}")
    return found


def _texts(tensor: Tensor) -> list[bytes]:
    """The elements of a tensor of BYTES as values: base64 in JSON, bytes in protobuf."""
    values = tensor.values or ()
    if len(values) != tensor.shape[0]:
        raise APIError("bad_request", f"{tensor.name} has {len(values)} values: its shape asks for {tensor.shape[0]}")
    found = []
    for value in values:
        if isinstance(value, bytes):
            found.append(value)
            continue
        if not isinstance(value, str):
            raise APIError("bad_request", f"{tensor.name} must hold strings of base64, or be sent as binary data")
        try:
            found.append(near_misses.from_base64(value))
        except ValueError as error:
            raise APIError("bad_request", near_misses.in_text(value, tensor.name)) from error
    return found
