"""The spans of one request, by OpenTelemetry. Imported only where traces are asked for.

Names and attributes are those of https://opentelemetry.io/docs/specs/semconv/http/http-spans/; ours begin with `rrr.`.
Stages become spans when the answer has been sent; only what asks another service has one before, whose id it tells.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rrrserve.traces.context import Fields
from rrrserve.traces.trace import Trace

_MOST_OF_A_PATH = 256  # a client chooses it
_CLIENT_GONE = "client_gone"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_propagator = TraceContextTextMapPropagator()


class RecordedTrace(Trace):
    """The trace of one request, with one server span and one span below it for each stage.

    Args:
        tracer: makes the spans.
        scope: the request's ASGI scope.
        route: the template.
        request_id: the client's, or ours.
        caller: the trace that the caller named, as headers; none begins a new one.
        started: when the request arrived, on the clock of `time.perf_counter`.
    """

    def __init__(
        self, tracer: Tracer, scope: Mapping[str, Any], route: str, request_id: str, caller: Fields, started: float
    ) -> None:
        self._tracer = tracer
        self._since_1970_ns = time.time_ns() - time.perf_counter_ns()
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        self._span = tracer.start_span(
            f"{method if method != '_OTHER' else 'HTTP'} {route}",
            _propagator.extract(dict(caller), Context()),
            SpanKind.SERVER,
            {
                "http.request.method": method,
                "http.route": route,
                "url.path": scope["path"][:_MOST_OF_A_PATH],
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
                "rrr.request_id": request_id,
            },
            start_time=self._ns(started),
        )
        self._stages: list[tuple[str, float, float]] = []
        self._inside = set_span_in_context(self._span, Context())
        super().__init__(format_trace_id(self._span.get_span_context().trace_id))

    def _ns(self, clock: float) -> int:
        return int(clock * 1e9) + self._since_1970_ns

    def stage(self, name: str, started: float, ended: float) -> None:
        """See `Trace`."""
        self._stages.append((name, started, ended))

    @contextmanager
    def asking(self, name: str) -> Iterator[Fields | None]:
        """See `Trace`."""
        span = self._tracer.start_span(name, self._inside, SpanKind.CLIENT)
        told: dict[str, str] = {}
        _propagator.inject(told, set_span_in_context(span, self._inside))
        try:
            yield tuple(told.items())
        except BaseException as error:
            span.set_attribute("error.type", getattr(error, "code", type(error).__name__))
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    def end(self, status: int, error: str, model: str) -> None:
        """See `Trace`."""
        span = self._span
        for name, started, ended in self._stages:
            self._tracer.start_span(name, self._inside, start_time=self._ns(started)).end(self._ns(ended))
        if model:
            span.set_attribute("rrr.model", model)
        if error:
            span.set_attribute("rrr.error", error)
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= 500 or not status:  # what a client got wrong is no error of a server's span
            span.set_attribute("error.type", error or _CLIENT_GONE)
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()
