"""The one gRPC connection to Triton: uint8 images out, checked probabilities back, a deadline on every call.

Shapes come from the sealed repository document and from arrays our own code made, never from a client's request.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2
from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from rrrbuild.repository_document import MEMBER_SECONDS, ServedModel

INPUT = "images"
OUTPUT = "probabilities"
# Rounding in bfloat16 moves a row's sum by about 1 %; zeros or logits in place of probabilities miss it by far.
SUM_TOLERANCE = 0.05

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # a proxy variable in the environment must not see images
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own limit is two minutes: too long after a restart
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
        self._client = InferenceServerClient(url, channel_args=_CHANNEL_OPTIONS)

    async def infer(self, model: ServedModel, images: npt.NDArray[np.uint8], *, timeout_seconds: float) -> Inference:
        """Per-member class probabilities of a batch.

        Args:
            model: which model.
            images: shape (N, S, S, 3), N at most the model's `max_batch_size`, S its image size.
            timeout_seconds: deadline; Triton is told too, and drops the work when it has passed.

        Raises:
            TritonError: Triton is not reachable or failed, the deadline passed, or the output is unusable.
        """
        if timeout_seconds <= 0:
            raise TritonError("deadline_exceeded", "the deadline passed before the inference began")
        tensor = InferInput(INPUT, images.shape, "UINT8")
        tensor.set_data_from_numpy(images)
        try:
            result = await self._client.infer(
                model.name,
                [tensor],
                model_version=model.version,
                outputs=[InferRequestedOutput(name) for name in model.outputs],
                client_timeout=timeout_seconds,
            )
        except InferenceServerException as error:
            raise _typed(error) from error
        response = result.get_response()
        return Inference(checked_output(response, model, len(images)), member_seconds(response, model))

    async def server_version(self, *, timeout_seconds: float) -> str:
        """Triton's version, such as "2.51.0".

        Raises:
            TritonError: Triton is not reachable or the deadline passed.
        """
        try:
            metadata = await self._client.get_server_metadata(client_timeout=timeout_seconds)
        except InferenceServerException as error:
            raise _typed(error) from error
        return str(metadata.version)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


def _typed(error: InferenceServerException) -> TritonError:
    """Our error for Triton's. The message is for the log: Triton's own texts hold paths of this machine."""
    status = str(error.status() or "")
    code = "deadline_exceeded" if status == "StatusCode.DEADLINE_EXCEEDED" else "backend_unavailable"
    return TritonError(code, f"{status}: {error.message()}")


def checked_output(
    response: service_pb2.ModelInferResponse, model: ServedModel, batch_size: int
) -> npt.NDArray[np.float32]:
    """The output tensor of an answer, if it is what `model` promises: float32 (N, M, C), finite, rows sum to 1.

    Triton 2.51 can answer 200 with an empty output (a Python stub under numpy 2), so the bytes are counted too.

    Raises:
        TritonError: `bad_model_output`.
    """
    expected = (batch_size, model.members, len(model.labels))
    output, raw = _output(response, OUTPUT)
    if output is None:
        raise TritonError("bad_model_output", f"model {model.name} gave no binary output {OUTPUT!r}")
    if output.datatype != "FP32" or tuple(output.shape) != expected or len(raw) != 4 * int(np.prod(expected)):
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


def member_seconds(response: service_pb2.ModelInferResponse, model: ServedModel) -> tuple[float, ...] | None:
    """The members' durations in an answer; None where there are none, or another plan ran the batch (NaN)."""
    output, raw = _output(response, MEMBER_SECONDS)
    if output is None or output.datatype != "FP32" or len(raw) < 4 * model.members:
        return None
    seconds = np.frombuffer(raw, dtype="<f4", count=model.members)  # the same in every row
    return tuple(seconds.tolist()) if bool(np.isfinite(seconds).all()) else None


def _output(response: service_pb2.ModelInferResponse, name: str) -> tuple[Any, bytes]:
    """An output tensor's description and bytes; None and nothing if the answer does not hold it in binary form."""
    if len(response.raw_output_contents) != len(response.outputs):
        return None, b""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return next(((output, raw) for output, raw in pairs if output.name == name), (None, b""))
