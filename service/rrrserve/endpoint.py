"""What every route has in common: request id, deadline, the one error shape, metrics, the answer's headers."""

import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from rrrserve import metrics
from rrrserve.access import Access
from rrrserve.errors import APIError
from rrrserve.logs import log_request
from rrrserve.requests import Headers, headers_of, request_id

log = logging.getLogger("rrrserve")

JSON_TYPE = "application/json"


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
        headers: the request's, by lower-case name.
        request_id: the client's, or ours.
        started: clock of `time.perf_counter` when the request arrived.
        model: the model's name once it is known to be in the repository; the metric label.
    """

    scope: Scope
    receive: Receive
    headers: Headers
    request_id: str
    started: float
    model: str = ""


Handler = Callable[[Exchange], Awaitable[Reply]]


def to_json(document: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


class Endpoint:
    """An ASGI application around one handler.

    Args:
        template: the route's path with its parameters unfilled; the metric label.
        handler: gives the reply or raises `APIError`.
        access: who is answered; asked for each request.
        in_flight: whether the gauge of running predictions counts it.
    """

    def __init__(
        self, template: str, handler: Handler, *, access: Callable[[], Access], in_flight: bool = False
    ) -> None:
        self.template = template
        self._handler = handler
        self._access = access
        self._in_flight = in_flight
        metrics.REQUEST_DURATION.labels(template, "", "client_error")  # what a path or method of no use here adds to

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing that a client sends gets past as an exception."""
        exchange = Exchange(scope, receive, headers_of(scope["headers"]), "", time.perf_counter())
        if self._in_flight:
            metrics.IN_FLIGHT.inc()
        try:
            reply = await self._reply(exchange)
        finally:
            if self._in_flight:
                metrics.IN_FLIGHT.dec()
        # Counted before it is sent: who has an answer finds it in the next scrape, whichever worker that one asks.
        outcome = "client_error" if reply is None else metrics.outcome_of(reply.status)
        elapsed = time.perf_counter() - exchange.started
        metrics.REQUEST_DURATION.labels(self.template, exchange.model, outcome).observe(elapsed)
        log_request(
            request_id=exchange.request_id,
            route=self.template,
            model=exchange.model,
            status=0 if reply is None else reply.status,
            seconds=elapsed,
        )
        if reply is not None:
            await _send(send, reply, exchange.request_id)

    async def _reply(self, exchange: Exchange) -> Reply | None:
        """The handler's reply or the error's; None when the client has gone."""
        try:
            exchange.request_id = request_id(exchange.headers)
            self._access().check(self.template, exchange.headers)
            return await self._handler(exchange)
        except ClientDisconnect:
            return None
        except APIError as error:
            return error_reply(error, exchange)
        except Exception:  # a fault of ours must still be answered in the one shape, and be found in the log
            exchange.request_id = exchange.request_id or secrets.token_hex(8)
            log.exception("request %s to %s failed", exchange.request_id, self.template)
            message = "a fault of the service; its log has the details under this request id"
            return error_reply(APIError("internal_error", message), exchange)


def error_reply(error: APIError, exchange: Exchange) -> Reply:
    """The reply for an error; counts it."""
    exchange.request_id = exchange.request_id or secrets.token_hex(8)
    metrics.REJECTED.labels(error.code).inc()
    headers = dict(error.headers)
    if error.status == 413:
        headers["Connection"] = "close"  # the rest of the body is not read
    return Reply(to_json(error.to_json(exchange.request_id)), error.status, headers=headers)


async def _send(send: Send, reply: Reply, identifier: str) -> None:
    headers = {
        "content-type": reply.content_type,
        "content-length": str(len(reply.body)),
        "x-request-id": identifier,
        **reply.headers,
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": reply.body})
