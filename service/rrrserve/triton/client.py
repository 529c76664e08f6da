"""What Triton, or several, are asked: uint8 images out, checked probabilities back.

A request is put together from bytes: protobuf copies a field of that size twice and costs 0.5 ms for an image of 224
pixels; tritonclient's own client adds another copy. Its small fields are written once for each shape of request.

Shapes come from the sealed repository document and from arrays our own code made, never from a client's request.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2 as pb

from rrrbuild.cascade_runner import AUTO, FULL, LATE, USED
from rrrbuild.manifest import EMBEDDING
from rrrbuild.repository_document import MEMBER_SECONDS, MEMBER_STATUS, MEMBERS_USED, ServedModel
from rrrserve.traces.context import Fields
from rrrserve.triton.calls import Calls, TritonError

INPUT = "images"
OUTPUT = "probabilities"
# Rounding in bfloat16 moves a row's sum by about 1 %; zeros or logits in place of probabilities miss it by far.
SUM_TOLERANCE = 0.05
# BF16 moves an embedding's length by less than 1 %; features that were not divided by it miss it by far.
_LENGTH_TOLERANCE = 0.02
# Before a request's deadline an answer without the late members must be on its way: this share of what is left, or so
# many seconds if that is more.
_MARGIN_SHARE, _MARGIN_SECONDS = 0.05, 0.005

_RAW_INPUT_TAG = bytes([pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])  # 2: length and bytes follow
_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4"), "UINT8": np.dtype("u1")}


@dataclass(frozen=True)
class Inference:
    """One answer of a model.

    Attributes:
        probabilities: shape (N, M, C); each row a distribution, or NaN of a member that was left out.
        status: shape (N, M), what became of each member (see `rrrbuild.cascade_runner`), at least one of an image is
            `USED`; None where none can be left out.
        member_seconds: durations of the M members where they were run side by side and timed, else None.
        embedding: shape (N, D), each row of length 1 (or 0, of an image without features); None where not asked for.
    """

    probabilities: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8] | None = None
    member_seconds: tuple[float, ...] | None = None
    embedding: npt.NDArray[np.float32] | None = None


class TritonClient:
    """Asynchronous client of one Triton, or of several that are one target. Make it inside a running event loop."""

    def __init__(self, url: str, count: Callable[[int], None] = lambda _: None) -> None:
        """Nothing is connected yet.

        Args:
            url: a target (see `rrrserve.net.targets`).
            count: see `Calls`.
        """
        self._calls = Calls(url, count)

    async def infer(
        self,
        model: ServedModel,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        timeout_seconds: float,
        effort: str = FULL,
        quorum: int | None = None,
        trace: Fields | None = None,
        embed: bool = False,
    ) -> Inference:
        """Per-member class probabilities of a batch.

        Args:
            model: which model.
            images: N arrays of shape (S, S, 3), N at most the model's `max_batch_size`, S its image size.
            timeout_seconds: deadline; one Triton is not told and goes on, several are and drop the work.
            effort: which members of a cascade are asked; see `cascade_runner.EFFORTS`.
            quorum: see `quorum_of`.
            trace: told to Triton, as the metadata of the call.
            embed: whether to ask for embeddings too; only of a model that has them.

        Raises:
            TritonError: Triton is not reachable or failed, the deadline passed, or the output is unusable.
        """
        if timeout_seconds <= 0:
            raise TritonError("deadline_exceeded", "the deadline passed before the inference began")
        request = request_bytes(
            model, images, timeout_seconds=timeout_seconds, effort=effort, quorum=quorum, embed=embed
        )
        answer = await self._calls.ask("ModelInfer", request, timeout_seconds, trace, images=len(images))
        response = _parsed(pb.ModelInferResponse, answer)
        probabilities, status = checked_output(response, model, len(images))
        embedding = checked_embedding(response, model, len(images)) if embed else None
        return Inference(probabilities, status, member_seconds(response, model), embedding)

    async def server_version(self, *, timeout_seconds: float) -> str:
        """Triton's version, such as "2.51.0".

        Raises:
            TritonError: Triton is not reachable or the deadline passed.
        """
        answer = await self._calls.ask("ServerMetadata", b"", timeout_seconds)
        return str(_parsed(pb.ServerMetadataResponse, answer).version)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Close the connection; what is under way after `grace_seconds` gets `backend_unavailable`."""
        await self._calls.close(grace_seconds)


def _parsed(kind: type[Message], answer: bytes) -> Any:
    try:
        return kind.FromString(answer)
    except DecodeError as error:  # changed on the way from somebody else's Triton
        raise TritonError("backend_unavailable", "Triton's answer cannot be parsed") from error


def quorum_of(model: ServedModel, quorum: int | None) -> int:
    """How many members must have answered for an answer without the late ones.

    Args:
        model: which model.
        quorum: what is set; None: half of the members, rounded up, or the first members of a cascade, which are an
            answer of their own.
    """
    if quorum is not None:
        return min(quorum, model.members)
    half = -(-model.members // 2)
    return half if model.cascade is None else min(half, int(model.cascade["k"]))


def request_bytes(
    model: ServedModel,
    images: Sequence[npt.NDArray[np.uint8]],
    *,
    timeout_seconds: float,
    effort: str = FULL,
    quorum: int | None = None,
    embed: bool = False,
) -> bytes:
    """A serialized `ModelInferRequest` that asks `model` about a batch; each image's pixels are copied once.

    A protobuf message may be given in pieces, in any order: the small fields come first, the pixels as the raw bytes
    of field 7 after them.

    Args:
        model: which model.
        images: N contiguous arrays of shape (S, S, 3).
        timeout_seconds: see `TritonClient.infer`, also of the others.
        effort: told to a cascade, unless it is `auto`.
        quorum: told, with the deadline, to a model that may leave members out.
        embed: see `TritonClient.infer`.
    """
    parts = MEMBER_STATUS in model.outputs
    head = _head(
        model.name,
        model.version,
        (len(images), *images[0].shape),
        model.outputs if embed else tuple(name for name in model.outputs if name != EMBEDDING),
        None if model.cascade is None or effort == AUTO else effort,
        quorum_of(model, quorum) if parts else None,
    )
    deadline = _deadline(timeout_seconds) if parts else b""
    size_bytes = sum(image.nbytes for image in images)
    pixels = (image.data for image in images)
    return b"".join((head, deadline, _RAW_INPUT_TAG, _varint(size_bytes), *pixels))


@functools.lru_cache(256)
def _head(
    name: str, version: str, shape: tuple[int, ...], outputs: tuple[str, ...], effort: str | None, quorum: int | None
) -> bytes:
    """The fields of a request that do not change from one to the next: writing them takes 12 us."""
    head = pb.ModelInferRequest(
        model_name=name,
        model_version=version,
        inputs=[pb.ModelInferRequest.InferInputTensor(name=INPUT, datatype="UINT8", shape=shape)],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=output) for output in outputs],
    )
    if effort is not None:
        head.parameters["effort"].string_param = effort
    if quorum is not None:
        head.parameters["quorum"].int64_param = quorum
    return bytes(head.SerializeToString())


def _deadline(timeout_seconds: float) -> bytes:
    """The parameter `deadline_us`: when the model must answer with what it has, in microseconds since 1970."""
    left = timeout_seconds - max(_MARGIN_SECONDS, _MARGIN_SHARE * timeout_seconds)
    request = pb.ModelInferRequest()
    request.parameters["deadline_us"].int64_param = int((time.time() + left) * 1e6)
    return bytes(request.SerializeToString())


def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))


def checked_output(
    response: pb.ModelInferResponse, model: ServedModel, batch_size: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8] | None]:
    """Probabilities and status of an answer, if they are what `model` promises; see `Inference`.

    Triton 2.51 can answer 200 with an empty output (a Python stub under numpy 2), so the bytes are counted too.

    Raises:
        TritonError: `bad_model_output`.
    """
    found = _tensor(response, model, OUTPUT, "FP32", (batch_size, model.members, len(model.labels)))
    # NaN and infinity fail this comparison as well.
    good = np.abs(found.sum(axis=-1) - 1.0) <= SUM_TOLERANCE
    status = _checked_status(response, model, found) if MEMBER_STATUS in model.outputs else None
    right = good if status is None else good == (status == USED)
    if not right.all() or (found < -1e-3).any():
        raise _unusable(model, "values that are no probabilities")
    return found, status


def checked_embedding(response: pb.ModelInferResponse, model: ServedModel, batch_size: int) -> npt.NDArray[np.float32]:
    """The embeddings of an answer, (N, D), each made exactly as long as it should be.

    Raises:
        TritonError: `bad_model_output`.
    """
    found = _tensor(response, model, EMBEDDING, "FP32", (batch_size, model.embedding_dim or 0))
    lengths = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
    # NaN and infinity fail this comparison as well.
    if not ((np.abs(lengths - 1) <= _LENGTH_TOLERANCE) | (lengths == 0)).all():
        raise _unusable(model, "embeddings that are not of length 1")
    embeddings: npt.NDArray[np.float32] = (found / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return embeddings


def _checked_status(
    response: pb.ModelInferResponse, model: ServedModel, found: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """What became of each member, if numbers and the NaN in place of those left out, (N, M, C), go with it."""
    status: npt.NDArray[np.uint8] = _tensor(response, model, MEMBER_STATUS, "UINT8", found.shape[:2])
    told = _tensor(response, model, MEMBERS_USED, "INT32", (len(found), 1))[:, 0].tolist()
    rows = status.tolist()  # so few that lists are quicker
    if told != [row.count(USED) for row in rows] or 0 in told or max(map(max, rows)) > LATE:
        raise _unusable(model, f"the status {rows} of its members, and {told} as members used")
    if min(told) < model.members and not np.isnan(found[status != USED]).all():
        raise _unusable(model, "numbers for members that it left out")
    return status


def _tensor(
    response: pb.ModelInferResponse, model: ServedModel, name: str, datatype: str, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """An output tensor of that type and shape; its bytes are not copied.

    Raises:
        TritonError: `bad_model_output`.
    """
    output, raw = _output(response, name)
    if output is None:
        raise _unusable(model, f"no binary output {name!r}")
    dtype = _DTYPES[datatype]
    if output.datatype != datatype or tuple(output.shape) != shape or len(raw) != dtype.itemsize * math.prod(shape):
        told = f"{output.datatype} {tuple(output.shape)} in {len(raw)} bytes as {name}"
        raise _unusable(model, f"{told}: expected {datatype} {shape}")
    return np.frombuffer(raw, dtype).reshape(shape)


def _unusable(model: ServedModel, what: str) -> TritonError:
    return TritonError("bad_model_output", f"model {model.name} gave {what}")


def member_seconds(response: pb.ModelInferResponse, model: ServedModel) -> tuple[float, ...] | None:
    """The members' durations in an answer; None where there are none, or another plan ran the batch (NaN)."""
    output, raw = _output(response, MEMBER_SECONDS)
    if output is None or output.datatype != "FP32" or len(raw) < 4 * model.members:
        return None
    seconds = np.frombuffer(raw, dtype="<f4", count=model.members)  # the same in every row
    return tuple(seconds.tolist()) if bool(np.isfinite(seconds).all()) else None


def _output(response: pb.ModelInferResponse, name: str) -> tuple[Any, bytes]:
    """An output tensor's description and bytes; None and nothing if the answer does not hold it in binary form."""
    if len(response.raw_output_contents) == len(response.outputs):
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            if output.name == name:
                return output, raw
    return None, b""
