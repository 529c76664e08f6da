"""What every route has in common: who is answered, request id, the one error shape, metrics, the answer's headers."""

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from rrrserve.api.cors import Cors
from rrrserve.api.errors import APIError
from rrrserve.api.requests import Headers, headers_of, request_id
from rrrserve.metrics import instruments
from rrrserve.net.tokens import digest_of
from rrrserve.process.logs import log_request
from rrrserve.traces.context import context_of
from rrrserve.traces.export import Tracing
from rrrserve.traces.trace import UNTRACED, Trace

log = logging.getLogger("rrrserve")

JSON_TYPE = "application/json"
_CLIENT_GONE = "rrr.client_gone"

# Probes of an orchestrator carry no token, and a browser that opens a page neither; probes are told nothing but yes or
# no and a model's name, and the pages nothing: they ask for a token, and then for what they show.
OPEN_ROUTES = frozenset(
    {"/livez", "/readyz", "/docs", "/", "/v2/health/live", "/v2/health/ready", "grpc ServerLive", "grpc ServerReady"}
)

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rrr"'}
_WRONG = {"WWW-Authenticate": 'Bearer realm="rrr", error="invalid_token"'}

_NOT_READ = (408, 413)  # the rest of the body is not read, so that no further request can follow


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    body: bytes
    status: int = 200
    content_type: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Exchange:
    """One request on its way through a handler.

    Attributes:
        scope: ASGI scope.
        receive: ASGI receive.
        started: clock of `time.perf_counter` when the request arrived.
        headers: the request's, by lower-case name.
        request_id: the client's, or ours.
        model: the model's name once it is known to be in the repository; the metric label.
        trace: which trace it belongs to.
        error: the code of the error that it is answered with.
    """

    scope: Scope
    receive: Receive
    started: float
    headers: Headers = field(default_factory=dict)
    request_id: str = ""
    model: str = ""
    trace: Trace = UNTRACED
    error: str = ""


Handler = Callable[[Exchange], Awaitable[Reply]]
ErrorBody = Callable[[APIError, str], dict[str, Any]]


def to_json(document: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


class Access:
    """Decides who is answered: whoever sends one of the service's bearer tokens (RFC 6750), where it has any.

    Keeps digests: the tokens themselves are in no log, dump or representation of it.
    """

    def __init__(self, digests: tuple[str, ...] = ()) -> None:
        self._digests = digests

    @property
    def needs_token(self) -> bool:
        """Whether requests must carry a token."""
        return bool(self._digests)

    def check(self, template: str, headers: Mapping[bytes, bytes]) -> None:
        """Pass, or raise.

        Args:
            template: the route's.
            headers: the request's, by lower-case name.

        Raises:
            APIError: `unauthorized`.
        """
        if not self._digests or template in OPEN_ROUTES:
            return
        sent = headers.get(b"authorization")
        if sent is None:
            raise APIError("unauthorized", "send the header Authorization: Bearer TOKEN", headers=_CHALLENGE)
        scheme, _, token = sent.partition(b" ")
        digest = digest_of(token.strip())
        # All are compared, each in the same time whatever it is: neither tells how near a guess was.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or not any(matches):
            raise APIError("unauthorized", "the token is not one of this service's", headers=_WRONG)


class Endpoint:
    """An ASGI application around one handler.

    Args:
        template: the route's path with its parameters unfilled.
        handler: gives the reply or raises `APIError`.
        access: who is answered; asked for each request.
        tracing: records spans, of the requests that the gauge counts; asked for each of them.
        in_flight: whether the gauge of running predictions counts it.
        counted_as: the metric label, where it is not the template.
        error_body: an error's document, where it is not in our own shape.
    """

    def __init__(
        self,
        template: str,
        handler: Handler,
        *,
        access: Callable[[], Access],
        tracing: Callable[[], Tracing | None] = lambda: None,
        in_flight: bool = False,
        counted_as: str | None = None,
        error_body: ErrorBody = APIError.to_json,
    ) -> None:
        self.template = template
        self._error_body = error_body
        self._label = counted_as or template
        self._handler = handler
        self._access = access
        self._tracing = tracing
        self._in_flight = in_flight
        if in_flight or self._label == instruments.UNMATCHED:  # what a name, path or method of no use here adds to
            instruments.REQUEST_DURATION.labels(self._label, "", "client_error")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing that a client sends gets past as an exception."""
        exchange = Exchange(scope, receive, time.perf_counter())
        if self._in_flight:
            instruments.IN_FLIGHT.inc()
        try:
            reply = await self._reply(exchange)
        finally:
            if self._in_flight:
                instruments.IN_FLIGHT.dec()
        # Counted before it is sent: who has an answer finds it in the next scrape, whichever worker that one asks.
        outcome = "client_error" if reply is None else instruments.outcome_of(reply.status)
        elapsed = time.perf_counter() - exchange.started
        instruments.REQUEST_DURATION.labels(self._label, exchange.model, outcome).observe(elapsed)
        status = 0 if reply is None else reply.status
        log_request(
            request_id=exchange.request_id,
            route=self.template,
            model=exchange.model,
            status=status,
            seconds=elapsed,
            trace_id=exchange.trace.trace_id,
        )
        if reply is not None:
            headers = _raw_headers(reply, exchange.request_id)
            # Cancelled while earlier answers wait to be read: there is nobody left to read this one.
            with contextlib.suppress(asyncio.CancelledError):
                await send({"type": "http.response.start", "status": reply.status, "headers": headers})
                await send({"type": "http.response.body", "body": reply.body})
        exchange.trace.end(status, exchange.error, exchange.model)  # after the answer: it takes time

    async def _reply(self, exchange: Exchange) -> Reply | None:
        """The handler's reply or the error's; None when the client has gone."""
        error: APIError
        try:
            exchange.headers = headers_of(exchange.scope["headers"])
            exchange.request_id = request_id(exchange.headers)
            exchange.trace = self._trace(exchange)
            self._access().check(self.template, exchange.headers)
            return await self._handler(exchange)
        except ClientDisconnect:
            return None
        except asyncio.CancelledError:
            if exchange.scope.get(_CLIENT_GONE):
                return None
            error = APIError("shutting_down", "the service is stopping: ask another instance")
        except APIError as refusal:
            error = refusal
        except Exception:  # a fault of ours must still be answered in the one shape, and be found in the log
            exchange.request_id = exchange.request_id or _new_request_id()
            log.exception("request %s to %s failed", exchange.request_id, self.template)
            error = APIError("internal_error", "a fault of the service; its log has the details under this request id")
        exchange.request_id = exchange.request_id or _new_request_id()
        exchange.error = error.code
        return _error_reply(error, exchange.request_id, self._error_body)

    def _trace(self, exchange: Exchange) -> Trace:
        """The trace that the client named, or that begins here."""
        caller = context_of(exchange.headers)
        tracing = self._tracing() if self._in_flight else None
        if tracing is not None:
            return tracing.begin(
                exchange.scope,
                route=self.template,
                request_id=exchange.request_id,
                caller=caller,
                started=exchange.started,
            )
        return UNTRACED if caller is None else Trace(*caller)


def client_gone(scope: Scope) -> None:
    """To be called before a request's task is cancelled because nobody is there any more to read the answer."""
    scope[_CLIENT_GONE] = True


def raw_error(
    code: str,
    message: str,
    headers: dict[str, str],
    target: bytes,
    sent: Sequence[tuple[bytes, bytes]],
    *,
    root_path: str = "",
    cors: Cors | None = None,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, header fields and body of an error that no route has to do with; counts it.

    Args:
        code: a key of `ERRORS`.
        message: see `APIError`.
        headers: see `APIError`.
        target: path and query of the request, as far as they were read.
        sent: the request's header, as far as it was read.
        root_path: what a proxy puts before the paths.
        cors: which pages may read the answer.
    """
    identifier = _new_request_id()
    path = target.partition(b"?")[0].removeprefix(root_path.encode())
    body = APIError.to_kserve if path == b"/v2" or path.startswith(b"/v2/") else APIError.to_json
    reply = _error_reply(APIError(code, message, headers=headers), identifier, body)
    fields = _raw_headers(reply, identifier)
    return reply.status, fields if cors is None else [*fields, *cors.fields(sent)], reply.body


def _new_request_id() -> str:
    return secrets.token_hex(8)


def _error_reply(error: APIError, identifier: str, body: ErrorBody = APIError.to_json) -> Reply:
    """The reply for an error; counts it."""
    instruments.REJECTED.labels(error.code).inc()
    headers = dict(error.headers)
    if error.status in _NOT_READ:
        headers["Connection"] = "close"
    return Reply(to_json(body(error, identifier)), error.status, headers=headers)


def _raw_headers(reply: Reply, identifier: str) -> list[tuple[bytes, bytes]]:
    headers = {
        "content-type": reply.content_type,
        "content-length": str(len(reply.body)),
        "x-request-id": identifier,
        **reply.headers,
    }
    if reply.status == 304:  # it would have to be that of the body which is left out
        del headers["content-length"]
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
