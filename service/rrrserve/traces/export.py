"""Traces by OpenTelemetry, where the standard OTEL_ variables ask for them; else nothing is imported, and nothing done.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/: what is not named here is read by
OpenTelemetry itself, such as OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and OTEL_BSP_*.
"""

import asyncio
import contextlib
import importlib
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rrrnet import __version__
from rrrnet.errors import UsageError
from rrrnet.installing import install_line
from rrrserve.traces.context import Context
from rrrserve.traces.trace import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_DISABLED = "OTEL_SDK_DISABLED"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_SERVICE_NAME = "rrr"
_QUIET_SECONDS = 60.0
_FLUSH_SECONDS = 3.0  # a collector that does not answer must not hold up a stop


def asked_by(environ: Mapping[str, str]) -> str | None:
    """The variable that asks for traces; None if none does.

    Raises:
        UsageError: traces are asked for in a way that is not offered.
    """
    if environ.get(_DISABLED, "").strip().lower() == "true":
        return None
    exporter = environ.get(_EXPORTER, "").strip()
    if exporter == "none":
        return None
    variable = next((name for name in (_EXPORTER, *_ENDPOINTS) if environ.get(name, "").strip()), None)
    if variable is None:
        return None
    if exporter not in ("", "otlp"):
        raise UsageError(f"{_EXPORTER} is {exporter!r}: allowed are otlp and none")
    for name in _PROTOCOLS:
        protocol = environ.get(name, "").strip()
        if protocol not in ("", _PROTOCOL):
            raise UsageError(
                f"{name} is {protocol!r}: allowed is {_PROTOCOL}, for which collectors listen at port 4318"
            )
        if protocol:
            break
    return variable


class _Seldom(logging.Filter):
    """Lets a message of a kind through once a minute: a collector that is away would have some told every second."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is told."""
        told = record.created >= self._next.get(record.msg, 0.0)
        if told:
            self._next[record.msg] = record.created + _QUIET_SECONDS
        return told


class Tracing:
    """Records the spans of requests and has them exported, by a thread of its own. Full queues drop spans."""

    def __init__(self, provider: "TracerProvider") -> None:
        from rrrserve.traces.recorded import RecordedTrace

        self._provider = provider
        self._tracer = provider.get_tracer("rrrserve", __version__)
        self._make = RecordedTrace

    def begin(
        self, scope: Mapping[str, Any], *, route: str, request_id: str, caller: Context | None, started: float
    ) -> Trace:
        """The trace of one request; see `RecordedTrace`."""
        return self._make(self._tracer, scope, route, request_id, () if caller is None else caller.fields, started)

    async def end(self) -> None:
        """Export what is left, for three seconds at most."""
        loop, exported = asyncio.get_running_loop(), asyncio.Event()

        def export() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(exported.set)

        # A daemon: an export that is still under way then must not keep the process.
        threading.Thread(target=export, name="last spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exported.wait(), _FLUSH_SECONDS)


def begin(environ: Mapping[str, str]) -> Tracing | None:
    """Begin to record and export traces, where they are asked for.

    Args:
        environ: the variables of this process, which OpenTelemetry reads too.

    Raises:
        UsageError: they are asked for, and cannot be exported.
    """
    variable = asked_by(environ)
    if variable is None:
        return None
    try:
        exporter = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        what = f"{variable} asks for traces, and {error.name} is not installed"
        raise UsageError(f"{what}: {install_line('otel')}") from error
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # neither variable has a name
        resource = resource.merge(Resource({SERVICE_NAME: _SERVICE_NAME}))
    try:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter.OTLPSpanExporter()))
    except ValueError as error:
        raise UsageError(f"{variable} asks for traces, and an OTEL_ variable has no usable value: {error}") from error
    logging.getLogger(exporter.__name__).addFilter(_Seldom())
    return Tracing(provider)
