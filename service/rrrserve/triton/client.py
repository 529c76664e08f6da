"""The one gRPC connection to Triton: uint8 images out, checked probabilities back, a deadline on every call.

A request is put together from bytes: protobuf copies a field of that size twice and costs 0.5 ms for an image of 224
pixels; tritonclient's own client adds another copy.

Shapes come from the sealed repository document and from arrays our own code made, never from a client's request.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2 as pb

from rrrbuild.repository_document import MEMBER_SECONDS, ServedModel

INPUT = "images"
OUTPUT = "probabilities"
# Rounding in bfloat16 moves a row's sum by about 1 %; zeros or logits in place of probabilities miss it by far.
SUM_TOLERANCE = 0.05

_SERVICE = "/inference.GRPCInferenceService"
_RAW_INPUT_TAG = bytes([pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])  # 2: length and bytes follow
_BAD_OUTPUT = "the engine's output"  # begins what triton_model.py tells about an output that it does not pass on
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # a proxy variable in the environment must not see images
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),  # gRPC's own limit is two minutes: too long after a restart
    ("grpc.use_local_subchannel_pool", 1),  # else a new connection inherits the pause of an older one
]


class TritonError(Exception):
    """An inference that gave no usable answer.

    Attributes:
        code: `backend_unavailable`, `deadline_exceeded` or `bad_model_output`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Inference:
    """One answer of a model.

    Attributes:
        probabilities: shape (N, M, C); finite, each row a distribution.
        member_seconds: durations of the M members where they were run side by side and timed, else None.
    """

    probabilities: npt.NDArray[np.float32]
    member_seconds: tuple[float, ...] | None


class TritonClient:
    """Asynchronous client of one Triton server. Make it inside a running event loop."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.aio.insecure_channel(url, options=_CHANNEL_OPTIONS)
        self._infer = self._channel.unary_unary(f"{_SERVICE}/ModelInfer")  # no serializer: bytes go through
        self._metadata = self._channel.unary_unary(f"{_SERVICE}/ServerMetadata")

    async def infer(
        self, model: ServedModel, images: Sequence[npt.NDArray[np.uint8]], *, timeout_seconds: float
    ) -> Inference:
        """Per-member class probabilities of a batch.

        Args:
            model: which model.
            images: N arrays of shape (S, S, 3), N at most the model's `max_batch_size`, S its image size.
            timeout_seconds: deadline; Triton is told too, and drops the work when it has passed.

        Raises:
            TritonError: Triton is not reachable or failed, the deadline passed, or the output is unusable.
        """
        if timeout_seconds <= 0:
            raise TritonError("deadline_exceeded", "the deadline passed before the inference began")
        answer = await _call(self._infer, request_bytes(model, images), timeout_seconds)
        response = _parsed(pb.ModelInferResponse, answer)
        return Inference(checked_output(response, model, len(images)), member_seconds(response, model))

    async def server_version(self, *, timeout_seconds: float) -> str:
        """Triton's version, such as "2.51.0".

        Raises:
            TritonError: Triton is not reachable or the deadline passed.
        """
        answer = await _call(self._metadata, b"", timeout_seconds)
        return str(_parsed(pb.ServerMetadataResponse, answer).version)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Close the connection; what is under way after `grace_seconds` gets `backend_unavailable`."""
        await self._channel.close(grace_seconds)


def _parsed(kind: type[Message], answer: bytes) -> Any:
    try:
        return kind.FromString(answer)
    except DecodeError as error:  # changed on the way from somebody else's Triton
        raise TritonError("backend_unavailable", "Triton's answer cannot be parsed") from error


async def _call(method: grpc.aio.UnaryUnaryMultiCallable, request: bytes, timeout_seconds: float) -> bytes:
    """The answer's bytes; gRPC's errors become ours, for the log: Triton's own texts hold paths of this machine."""
    try:
        answer: bytes = await method(request, timeout=timeout_seconds)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled us: gRPC tells so that the connection was closed under the call.
        raise TritonError("backend_unavailable", "the connection was closed") from error
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            code = "deadline_exceeded"
        elif _BAD_OUTPUT in (error.details() or ""):
            code = "bad_model_output"
        else:
            code = "backend_unavailable"
        raise TritonError(code, f"{error.code()}: {error.details()}") from error
    return answer


def request_bytes(model: ServedModel, images: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """A serialized `ModelInferRequest` that asks `model` about a batch; each image's pixels are copied once.

    A protobuf message may be given in pieces, in any order: the small fields come first, the pixels as the raw bytes
    of field 7 after them.

    Args:
        model: which model.
        images: N contiguous arrays of shape (S, S, 3).
    """
    head = pb.ModelInferRequest(
        model_name=model.name,
        model_version=model.version,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=INPUT, datatype="UINT8", shape=(len(images), *images[0].shape))
        ],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in model.outputs],
    )
    size_bytes = sum(image.nbytes for image in images)
    pixels = (image.data for image in images)
    return b"".join((head.SerializeToString(), _RAW_INPUT_TAG, _varint(size_bytes), *pixels))


def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))


def checked_output(response: pb.ModelInferResponse, model: ServedModel, batch_size: int) -> npt.NDArray[np.float32]:
    """The output tensor of an answer, if it is what `model` promises: float32 (N, M, C), finite, rows sum to 1.

    Triton 2.51 can answer 200 with an empty output (a Python stub under numpy 2), so the bytes are counted too.

    Raises:
        TritonError: `bad_model_output`.
    """
    expected = (batch_size, model.members, len(model.labels))
    output, raw = _output(response, OUTPUT)
    if output is None:
        raise TritonError("bad_model_output", f"model {model.name} gave no binary output {OUTPUT!r}")
    if output.datatype != "FP32" or tuple(output.shape) != expected or len(raw) != 4 * math.prod(expected):
        raise TritonError(
            "bad_model_output",
            f"model {model.name} gave {output.datatype} {tuple(output.shape)} in {len(raw)} bytes: expected FP32 "
            f"{expected}",
        )
    probabilities = np.frombuffer(raw, dtype="<f4").reshape(expected)
    # NaN and infinity fail this comparison as well.
    if (
        not bool((np.abs(probabilities.sum(axis=-1) - 1.0) <= SUM_TOLERANCE).all())
        or float(probabilities.min()) < -1e-3
    ):
        raise TritonError("bad_model_output", f"model {model.name} gave values that are no probabilities")
    return probabilities


def member_seconds(response: pb.ModelInferResponse, model: ServedModel) -> tuple[float, ...] | None:
    """The members' durations in an answer; None where there are none, or another plan ran the batch (NaN)."""
    output, raw = _output(response, MEMBER_SECONDS)
    if output is None or output.datatype != "FP32" or len(raw) < 4 * model.members:
        return None
    seconds = np.frombuffer(raw, dtype="<f4", count=model.members)  # the same in every row
    return tuple(seconds.tolist()) if bool(np.isfinite(seconds).all()) else None


def _output(response: pb.ModelInferResponse, name: str) -> tuple[Any, bytes]:
    """An output tensor's description and bytes; None and nothing if the answer does not hold it in binary form."""
    if len(response.raw_output_contents) != len(response.outputs):
        return None, b""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return next(((output, raw) for output, raw in pairs if output.name == name), (None, b""))
