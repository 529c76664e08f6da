"""Which trace a request belongs to, what Triton is told, what asks for spans; test_gateways.py has a service's."""

import asyncio
import logging
import subprocess
import sys
import time
from typing import Any

import grpc
import numpy as np
import pytest

from rrrbuild.repository_document import ServedModel
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrserve.api.requests import headers_of
from rrrserve.traces import export
from rrrserve.traces.context import context_of
from rrrserve.traces.trace import UNTRACED, Trace
from rrrserve.triton.calls import TritonError
from rrrserve.triton.client import TritonClient

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
MODEL = ServedModel("m", "1", "t", "python", 2, 4, ("a", "b"), Preprocess(32), 32, 1, 1, ("probabilities",))
PIXELS = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize("given", [PARENT, PARENT[:-2] + "00", f"01-{PARENT[3:]}", f"cc-{PARENT[3:]}-what.will-be"])
def test_a_traceparent_as_the_standard_has_it_is_taken_and_handed_on_as_it_came(given: str) -> None:
    context = context_of({b"traceparent": given.encode(), b"tracestate": b"a=1,b=2"})
    assert context == (TRACE, (("traceparent", given), ("tracestate", "a=1,b=2")))


@pytest.mark.parametrize(
    "given",
    [
        *("", "0", PARENT.upper(), f"ff-{PARENT[3:]}", f"{PARENT}-more", f" {PARENT}", PARENT[:-1], f"{PARENT}\n"),
        *(PARENT.replace(TRACE, "0" * 32), PARENT.replace("b7ad6b7169203331", "0" * 16), f"cc-{PARENT[3:]}-\x7f"),
    ],
)
def test_any_other_counts_as_none(given: str) -> None:
    assert context_of({b"traceparent": given.encode(), b"tracestate": b"a=1"}) is None


def test_a_traceparent_that_is_given_twice_counts_as_none_and_a_tracestate_of_other_characters_too() -> None:
    twice = [(b"traceparent", PARENT.encode())] * 2
    assert context_of(headers_of(twice)) is None
    assert context_of({b"traceparent": PARENT.encode(), b"tracestate": b"a=\xff"}) == (
        TRACE,
        (("traceparent", PARENT),),
    )


def test_triton_is_told_the_trace_as_metadata_and_nothing_where_there_is_none() -> None:
    seen: list[dict[str, Any]] = []

    async def infer(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
        seen.append(dict(context.invocation_metadata()))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "seen")
        return b""

    async def main() -> None:
        server = grpc.aio.server()
        handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client = TritonClient(f"127.0.0.1:{port}")
        for trace in (Trace(TRACE, (("traceparent", PARENT), ("tracestate", "a=1"))), UNTRACED):
            with trace.asking("inference") as told, pytest.raises(TritonError, match="seen"):
                await client.infer(MODEL, [PIXELS], timeout_seconds=5, trace=told)
        await client.close()
        await server.stop(0)

    asyncio.run(main())
    told, nothing = seen
    assert (told["traceparent"], told["tracestate"]) == (PARENT, "a=1")
    assert not {"traceparent", "tracestate"} & set(nothing)


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "rrr", "OTEL_TRACES_SAMPLER": "always_on"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/t"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, None),
    ],
)
def test_traces_are_recorded_where_the_standard_variables_ask_for_them(environ: dict[str, str], variable: str) -> None:
    assert export.asked_by(environ) == variable


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin': allowed are otlp and none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc': allowed is http/protobuf, .* at port 4318",
        ),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(environ: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        export.begin(environ)


def test_without_the_extra_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(UsageError, match=r"OTEL_TRACES_EXPORTER asks for traces, and .* is not installed: .*\[otel\]"):
        export.begin({"OTEL_TRACES_EXPORTER": "otlp"})


def test_a_bad_value_of_opentelemetrys_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "-1")
    with pytest.raises(
        UsageError, match="an OTEL_ variable has no usable value: schedule_delay_millis must be positive"
    ):
        export.begin({"OTEL_TRACES_EXPORTER": "otlp"})


def test_what_an_exporter_says_again_and_again_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    tracing = export.begin({"OTEL_TRACES_EXPORTER": "otlp"})
    assert tracing is not None
    exporter = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    for seconds in (0.9, 2.1, 3.3):
        exporter.warning("retrying in %.2fs", seconds)
    exporter.error("given up")
    assert caplog.messages == ["retrying in 0.90s", "given up"]
    asyncio.run(tracing.end())


def test_nothing_of_opentelemetry_is_imported_where_nobody_asks() -> None:
    code = "import sys; from rrrserve.traces import export; import rrrserve.api.endpoint; export.begin({})"
    code += "; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_collector_that_is_not_there_holds_up_a_stop_for_three_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    scope = {"method": "POST", "path": "/v1/predict", "scheme": "http", "http_version": "1.1"}

    async def stop() -> float:
        tracing = export.begin({"OTEL_EXPORTER_OTLP_ENDPOINT": "set"})
        assert tracing is not None
        trace = tracing.begin(scope, route="/v1/predict", request_id="a", caller=None, started=time.perf_counter())
        trace.end(200, "", "")
        start = time.perf_counter()
        await tracing.end()
        return time.perf_counter() - start

    assert asyncio.run(stop()) < 4
