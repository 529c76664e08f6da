"""`inference.GRPCInferenceService`: the same inferences over gRPC, beside the HTTP server of each worker.

gRPC cannot take over a socket that is listening already: each worker listens at the port itself, with SO_REUSEPORT, and
the kernel gives each connection to one of them.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2 as pb

from rrrbuild.repository_document import ServedModel
from rrrserve.api.bodies import ComingBody
from rrrserve.api.endpoint import Access
from rrrserve.api.errors import APIError
from rrrserve.api.prediction import Backend
from rrrserve.api.requests import Headers, headers_of, ignored_header, request_id
from rrrserve.api.v2 import messages
from rrrserve.api.v2.inference import admit, infer, model_of, readiness
from rrrserve.api.v2.question import Question
from rrrserve.api.v2.rest import SERVER
from rrrserve.config.service_config import ServiceConfig
from rrrserve.metrics import instruments
from rrrserve.net.tls import TlsFiles
from rrrserve.process.logs import log_request
from rrrserve.traces.context import context_of
from rrrserve.traces.trace import UNTRACED, Trace

log = logging.getLogger("rrrserve")

INFER_LABEL = "grpc ModelInfer"
_SERVICE = "inference.GRPCInferenceService"
_STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_METADATA_BYTES = 16 * 1024  # as of HTTP's header
_CALLS_OF_A_CONNECTION = 128
# gRPC keeps a message that is coming to itself, so that its bytes cannot be counted: these calls are.
_MOST_COMING = 64


@dataclass
class _Call:
    """One call; see `rrrserve.api.v2.inference.Call`."""

    label: str
    context: grpc.aio.ServicerContext
    started: float
    request_id: str = ""
    headers: Headers = field(default_factory=dict)
    model: str = ""
    trace: Trace = UNTRACED
    ignored: tuple[str, ...] = ()


_Work = Callable[[_Call, bytes], Awaitable[bytes]]


class GrpcDoor:
    """The gRPC server of one worker.

    Args:
        address: HOST:PORT.
        config: its limits and its certificate are HTTP's.
        backend: gives what answers, or raises `APIError` while the service starts.
        access: who is answered.
    """

    def __init__(
        self, address: str, config: ServiceConfig, backend: Callable[[], Backend], access: Callable[[], Access]
    ) -> None:
        self._address = address
        self._config = config
        self._backend = backend
        self._access = access
        self._coming = 0
        self._server: grpc.aio.Server | None = None
        instruments.REQUEST_DURATION.labels(INFER_LABEL, "", "client_error")

    async def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: the address cannot be listened at.
        """
        config = self._config
        options = [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", config.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
            ("grpc.max_concurrent_streams", _CALLS_OF_A_CONNECTION),
            ("grpc.max_allowed_incoming_connections", config.max_connections),
            ("grpc.max_connection_idle_ms", config.keep_alive_ms),
            ("grpc.server_handshake_timeout_ms", config.header_timeout_ms),
            ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message must not become a large one
        ]
        self._server = grpc.aio.server(options=options)
        unary: dict[str, _Work] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._metadata,
            "ModelMetadata": self._model_metadata,
        }
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._unary(name, work)) for name, work in unary.items()}
        # Looks the same to clients; but we are asked before the message has come.
        handlers["ModelInfer"] = grpc.stream_unary_rpc_method_handler(self._infer)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        if config.tls is None:
            self._server.add_insecure_port(self._address)
        else:
            self._server.add_secure_port(self._address, _credentials(config.tls))
        await self._server.start()

    async def stop(self) -> None:
        """Take no more calls, and let those under way finish."""
        if self._server is not None:
            await self._server.stop(self._config.grace_seconds)

    def _unary(self, name: str, work: _Work) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
        async def handler(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            call = _Call(f"grpc {name}", context, time.perf_counter())
            return await self._answered(call, lambda: work(call, request))

        return handler

    async def _infer(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        call = _Call(INFER_LABEL, context, time.perf_counter())
        instruments.IN_FLIGHT.inc()
        try:
            return await self._answered(call, lambda: self._inference(call, requests))
        finally:
            instruments.IN_FLIGHT.dec()

    async def _answered(self, call: _Call, work: Callable[[], Awaitable[bytes]]) -> bytes:
        """What every call has in common: request id, token, the one way of errors, metrics, the log."""
        error: APIError | None = None
        reply, status = b"", 0  # 0: the client has gone
        try:
            pairs = [(name.encode(), _bytes(value)) for name, value in call.context.invocation_metadata() or ()]
            headers = call.headers = headers_of(pairs)
            call.request_id = request_id(headers)
            if (caller := context_of(headers)) is not None:
                call.trace = Trace(*caller)
            self._access().check(call.label, headers)
            reply = await work()
            status = 200
        except APIError as refusal:
            error = refusal
        except Exception:  # a fault of ours must still be answered, and be found in the log
            call.request_id = call.request_id or request_id({})
            log.exception("request %s to %s failed", call.request_id, call.label)
            error = APIError("internal_error", "a fault of the service; its log has the details under this request id")
        finally:
            call.request_id = call.request_id or request_id({})
            if error is not None:
                status = error.status
                instruments.REJECTED.labels(error.code).inc()
            outcome = instruments.outcome_of(status) if status else "client_error"
            elapsed = time.perf_counter() - call.started
            instruments.REQUEST_DURATION.labels(call.label, call.model, outcome).observe(elapsed)
            log_request(
                request_id=call.request_id,
                trace_id=call.trace.trace_id,
                route=call.label,
                model=call.model,
                status=status,
                seconds=elapsed,
            )
        told = {"X-Request-ID": call.request_id, **ignored_header(call.ignored), **(error.headers if error else {})}
        trailing = tuple((name.lower(), value) for name, value in told.items())
        if error is not None:
            await call.context.abort(_STATUSES[error.status], error.message, trailing)
        call.context.set_trailing_metadata(trailing)
        return reply

    async def _live(self, call: _Call, request: bytes) -> bytes:  # noqa: ARG002  handlers have one signature
        return bytes(pb.ServerLiveResponse(live=True).SerializeToString())

    async def _ready(self, call: _Call, request: bytes) -> bytes:  # noqa: ARG002  handlers have one signature
        try:
            failure = await readiness(self._backend())
        except APIError as error:
            failure = error.message
        return bytes(pb.ServerReadyResponse(ready=failure is None).SerializeToString())

    async def _model_ready(self, call: _Call, request: bytes) -> bytes:
        asked, backend = messages.parsed(pb.ModelReadyRequest, request), self._backend()
        call.model = model_of(backend, asked.name, asked.version).name
        failure = await readiness(backend, call.model)
        return bytes(pb.ModelReadyResponse(ready=failure is None).SerializeToString())

    async def _metadata(self, call: _Call, request: bytes) -> bytes:  # noqa: ARG002  handlers have one signature
        return bytes(pb.ServerMetadataResponse(**SERVER).SerializeToString())

    async def _model_metadata(self, call: _Call, request: bytes) -> bytes:
        asked = messages.parsed(pb.ModelMetadataRequest, request)
        model = model_of(self._backend(), asked.name, asked.version)
        call.model = model.name
        return messages.metadata(model)

    async def _inference(self, call: _Call, requests: AsyncIterator[bytes]) -> bytes:
        """Read, infer, write. The model is named in the message, which therefore comes first."""
        config = self._config
        milliseconds = config.request_timeout_ms
        if (left := call.context.time_remaining()) is not None:
            milliseconds = int(min(1000 * left, config.max_request_timeout_ms))
        admit(self._backend(), milliseconds)
        raw = await self._message(requests, milliseconds / 1000)
        messages.check_size(raw)
        request = messages.parsed(pb.ModelInferRequest, raw)

        async def read(model: ServedModel, coming: ComingBody) -> Question:
            coming.take(len(raw))
            coming.finish()
            return messages.read(request, model, most=config.max_batch_images)

        name, version = request.model_name, request.model_version
        answer = await infer(self._backend(), call, name, version, milliseconds=milliseconds, read=read)
        call.ignored = answer.question.options.ignored
        start = time.perf_counter()
        reply = messages.write(answer)
        answer.plane.observe_stage("encode", answer.model, time.perf_counter() - start)
        return reply

    async def _message(self, requests: AsyncIterator[bytes], seconds: float) -> bytes:
        """A call's message, once all of it is here.

        Raises:
            APIError: it did not come, or too many are coming.
        """
        if self._coming >= _MOST_COMING:
            raise APIError("overloaded", f"{_MOST_COMING} messages are coming, the most that is allowed")
        self._coming += 1
        try:
            async with asyncio.timeout(seconds):
                return await anext(requests)
        except TimeoutError as error:
            raise APIError("request_timeout", f"the message did not come in {1000 * seconds:.0f} ms") from error
        except StopAsyncIteration as error:  # gRPC has refused it
            limit = self._config.max_body_bytes
            raise APIError("body_too_large", f"no message, or one larger than {limit} bytes") from error
        finally:
            self._coming -= 1


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(files.key.read_bytes(), files.certificate.read_bytes())])
