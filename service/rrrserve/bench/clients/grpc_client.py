"""Triton over gRPC: what a model takes is asked of Triton itself, requests are serialised once, before the run."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from rrrbuild.cascade_runner import AUTO
from rrrbuild.manifest import OUTPUT
from rrrbuild.repository_document import MEMBERS_USED
from rrrnet.errors import CheckFailedError, UsageError
from rrrserve.bench.clients.client import AnsweredBy, RequestFailedError

SERVICE = "inference.GRPCInferenceService"
EMPTY_OUTPUT = "empty_output"
_ASK_TIMEOUT_SECONDS = 5.0
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # a proxy variable in the environment must not see images
]


@dataclass(frozen=True)
class TritonModel:
    """What a request to a model has to say.

    Attributes:
        name: in Triton.
        version: the newest that Triton serves.
        input_name: of its one input, of type UINT8.
        dims: that input's shape without the batch.
        in_batches: whether a batch dimension comes before those.
        outputs: names.
        members: first dimension of an output `probabilities` (members, classes), else None.
    """

    name: str
    version: str
    input_name: str
    dims: tuple[int, ...]
    in_batches: bool
    outputs: tuple[str, ...]
    members: int | None


class GrpcClient:
    """Sends prepared messages over one HTTP/2 connection, which takes any number of requests at a time."""

    def __init__(
        self,
        address: str,
        messages: Sequence[bytes],
        *,
        timeout_seconds: float,
        effort: str | None = None,
        members: int | None = None,
    ) -> None:
        """Open a connection.

        Args:
            address: HOST:PORT.
            messages: serialised `ModelInferRequest`s, sent in turns.
            timeout_seconds: deadline of a request; Triton is told too.
            effort: that the messages ask for, to count answers by.
            members: of the model, likewise; None counts none.
        """
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")  # no serializer: bytes go through
        self._messages = messages
        self._timeout_seconds = timeout_seconds
        self._effort, self._members = effort or AUTO, members
        self.answered_by: Counter[AnsweredBy] = Counter()

    async def ask(self, ticket: int) -> float:
        """See `Client.ask`. Triton 2.51 can answer without any output (a Python stub under numpy 2): not an answer."""
        message = self._messages[ticket % len(self._messages)]
        try:
            answer = await self._infer(message, timeout=self._timeout_seconds)
            finished = time.perf_counter()
            response = pb.ModelInferResponse.FromString(answer)
            outputs = response.raw_output_contents
        except grpc.aio.AioRpcError as error:
            code = error.code()
            answered = code is not grpc.StatusCode.UNAVAILABLE
            raise RequestFailedError(code.name, answered=answered) from error
        except DecodeError as error:
            raise RequestFailedError(type(error).__name__, answered=True) from error
        if not outputs or not all(outputs):
            raise RequestFailedError(EMPTY_OUTPUT, answered=True)
        if self._members is not None:
            for tensor, raw in zip(response.outputs, outputs, strict=False):
                if tensor.name == MEMBERS_USED:
                    used = np.frombuffer(raw, "<i4").tolist()
                    self.answered_by.update(AnsweredBy(self._effort, count, self._members) for count in used)
        return finished

    async def close(self) -> None:
        """See `Client.close`."""
        await self._channel.close()


def model_of(address: str, name: str) -> TritonModel:
    """Ask a Triton server about a model; its metadata, since `rrr serve` locks its Triton's configurations.

    Args:
        address: HOST:PORT of its gRPC.
        name: of the model.

    Raises:
        CheckFailedError: nobody answers there.
        UsageError: no such model, or it does not take one uint8 tensor of a fixed shape.
    """
    request = pb.ModelMetadataRequest(name=name).SerializeToString()
    metadata = pb.ModelMetadataResponse.FromString(_call(address, "ModelMetadata", request, name))
    described = ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
    shape = tuple(metadata.inputs[0].shape) if metadata.inputs else ()
    in_batches = shape[:1] == (-1,)
    dims = shape[1:] if in_batches else shape
    if [tensor.datatype for tensor in metadata.inputs] != ["UINT8"] or not all(size > 0 for size in dims):
        raise UsageError(f"the model {name} takes {described}: rrr bench sends one UINT8 tensor of a fixed shape")
    outputs = {tensor.name: tuple(tensor.shape) for tensor in metadata.outputs}
    probabilities = outputs.get(OUTPUT, ())
    return TritonModel(
        name,
        metadata.versions[-1],
        metadata.inputs[0].name,
        dims,
        in_batches,
        tuple(outputs),
        int(probabilities[-2]) if len(probabilities) > 1 and probabilities[-2] > 0 else None,
    )


def request_message(model: TritonModel, tensor: bytes, batch: int, effort: str | None = None) -> bytes:
    """A serialised request.

    Args:
        model: whom it asks.
        tensor: the input's bytes, `batch` times those of `dims`.
        batch: N.
        effort: a request parameter; None sends none.

    Raises:
        UsageError: the model does not take several at a time.
    """
    if batch > 1 and not model.in_batches:
        raise UsageError(f"--batch is {batch}: the model {model.name} takes one at a time")
    shape = (batch, *model.dims) if model.in_batches else model.dims
    request = pb.ModelInferRequest(
        model_name=model.name,
        model_version=model.version,
        inputs=[pb.ModelInferRequest.InferInputTensor(name=model.input_name, datatype="UINT8", shape=shape)],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in model.outputs],
        raw_input_contents=[tensor],
    )
    if effort is not None:
        request.parameters["effort"].string_param = effort
    message: bytes = request.SerializeToString()
    return message


def try_once(address: str, message: bytes, name: str) -> None:
    """Have one request answered before any load.

    Raises:
        CheckFailedError: nobody answers there.
        UsageError: Triton refuses the request; holds its words.
    """
    _call(address, "ModelInfer", message, name)


def _call(address: str, method: str, request: bytes, name: str) -> bytes:
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            answer: bytes = channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=_ASK_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise UsageError(f"--model is {name!r}: Triton at {address} says: {error.details()}") from error
            raise CheckFailedError(
                f"no answer from Triton at {address} ({error.code().name}: {error.details()}): start it, or name the "
                "HOST:PORT of its gRPC by --triton"
            ) from error
    return answer
