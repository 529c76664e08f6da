"""Pages of other origins, proxies with a prefix, and traces: parts, and one real service with all of it switched on."""

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from harness.raw_http import Answer, request, send
from harness.service import Service
from rrrbuild.repository_document import read_repository
from rrrnet.errors import UsageError
from rrrserve.api.cors import Cors
from rrrserve.api.endpoint import Access, Endpoint, Exchange, Reply
from rrrserve.api.errors import APIError
from rrrserve.api.gateways import behind_gateways
from rrrserve.api.routes import Routes
from rrrserve.net.addresses import origins_of, root_path_of
from rrrserve.net.tokens import digests_of
from rrrserve.triton.server import TritonServer
from rrrserve.versions.catalogue import backends_of

APP, OTHER, TOKEN = "https://app.example.com", "https://evil.example.com", "0123456789abcdef"
READABLE = "X-Request-ID, Retry-After, X-RRR-Ignored"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-own"}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
INTERNAL, SERVER, CLIENT = 1, 2, 3
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("*", "*"),
        (APP, APP),
        ("HTTPS://App.Example.com:443", APP),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("https://[::1]:08443", "https://[::1]:8443"),
    ],
)
def test_an_origin_is_taken_as_browsers_write_it(given: str, taken: str) -> None:
    assert origins_of("--cors", [given, given]) == (taken,)


@pytest.mark.parametrize(
    "given",
    [
        *("app.example.com", "https://", f"{APP}/", f"{APP}/path", "null", "", "https://*.example.com", "ftp://a"),
        *(
            "https://user@a",
            "https://a:0",
            "https://a:65536",
            "https://a:",
            f"{APP} ",
            f"{APP},http://b",
            "https://ä.de",
        ),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(given: str) -> None:
    told = re.escape(f"--cors is {given!r}: expected https://HOST or https://HOST:PORT of a page, without a path")
    with pytest.raises(UsageError, match=told):
        origins_of("--cors", [given])


@pytest.mark.parametrize(("given", "taken"), [("", ""), ("/", ""), ("/rrr", "/rrr"), ("/a/b-c.d_e~1/", "/a/b-c.d_e~1")])
def test_a_root_path_is_taken_with_and_without_a_slash_at_its_end(given: str, taken: str) -> None:
    assert root_path_of("--root-path", given) == taken


@pytest.mark.parametrize(
    "given", ["rrr", "//rrr", "/a//b", "/a b", "/../a", "/a?b", "/é", "/v1", "/docs/a", "http://a/b"]
)
def test_a_root_path_that_is_none_or_has_routes_below_it_is_refused(given: str) -> None:
    told = "expected a path such as /rrr, .* which does not begin with /docs, /metrics, /v1 or /v2"
    with pytest.raises(UsageError, match=f"--root-path is {re.escape(repr(given))}: {told}"):
        root_path_of("--root-path", given)


def ask(application: Any, method: str, path: str, **headers: str) -> httpx.Response:
    """One request, without a port between."""

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://rrr") as client:
            return await client.request(
                method, path, headers={name.replace("_", "-"): v for name, v in headers.items()}
            )

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("code", "status"), [("overloaded", 429), ("internal_error", 500), ("deadline_exceeded", 504), ("", 200)]
)
def test_every_answer_can_be_read_by_a_page_that_may_ask_and_only_by_it(code: str, status: int) -> None:
    async def handler(_: Exchange) -> Reply:
        if code:
            raise APIError(code, "told")
        return Reply(b"{}", headers={"Vary": "Accept"})

    application = behind_gateways(Endpoint("/v1/predict", handler, access=Access), cors=Cors([APP]), root_path="")
    for origin, allowed in ((APP, APP), (OTHER, None), (f"{APP}:8443", None), (None, None)):
        answer = ask(application, "POST", "/v1/predict", **({} if origin is None else {"Origin": origin}))
        assert answer.status_code == status
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        assert answer.headers.get("Access-Control-Expose-Headers") == (allowed and READABLE)
        assert "Origin" in answer.headers.get_list("Vary", split_commas=True)
    everybody = behind_gateways(Endpoint("/v1/predict", handler, access=Access), cors=Cors(["*", APP]), root_path="")
    assert ask(everybody, "POST", "/v1/predict", Origin=OTHER).headers["Access-Control-Allow-Origin"] == "*"


def test_without_either_the_application_is_left_as_it_is() -> None:
    application = Routes().application()
    assert behind_gateways(application, cors=Cors.of(()), root_path="") is application
    answer = ask(application, "OPTIONS", "/v1/predict", Origin=APP, **PREFLIGHT)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST, PUT")
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]


def test_a_preflight_is_answered_without_a_token_and_tells_another_origin_nothing() -> None:
    routes = Routes()
    routes.access = Access(digests_of((TOKEN,)))
    application = behind_gateways(routes.application(), cors=Cors([APP]), root_path="/rrr")
    for path in ("/v1/predict", "/rrr/v1/models", "/nowhere"):
        allowed = ask(application, "OPTIONS", path, Origin=APP, **PREFLIGHT)
        assert allowed.status_code == 200
        told = {name: value for name, value in allowed.headers.items() if name.startswith("access-control")}
        assert told == {
            "access-control-allow-origin": APP,
            "access-control-allow-methods": "GET, POST, PUT",
            "access-control-allow-headers": "Authorization, *",
            "access-control-max-age": "7200",
            "access-control-expose-headers": READABLE,
        }
        refused = ask(application, "OPTIONS", path, Origin=OTHER, **PREFLIGHT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
        assert not [name for name in refused.headers if name.startswith("access-control")]
        assert ask(application, "OPTIONS", path, Origin=APP).status_code in (401, 404)  # that is no preflight
    assert ask(application, "POST", "/v1/predict", Origin=APP).status_code == 401


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does, at /v1/traces."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        in_json = self.headers["Content-Type"] == "application/json"  # as Triton sends it
        taken = json.loads(body) if in_json else ExportTraceServiceRequest.FromString(body)
        self.server.taken.append(taken)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@dataclass
class Span:
    """A span that was exported, its ids in hexadecimal digits."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]


def spans_of(taken: list[Any]) -> Iterator[Span]:
    for resource in (resource for one in taken for resource in one.resource_spans):
        names = {item.key: item.value.string_value for item in resource.resource.attributes}
        assert names["service.name"] == "rrr"
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            attributes = {item.key: item.value.string_value or item.value.int_value for item in span.attributes}
            trace, own, parent = (item.hex() for item in (span.trace_id, span.span_id, span.parent_span_id))
            start, end = span.start_time_unix_nano, span.end_time_unix_nano
            yield Span(span.name, trace, own, parent, span.kind, start, end, span.status.code == 2, attributes)


@dataclass
class Told:
    """What a service answered, logged and exported; it has ended.

    Attributes:
        answers: by what was asked.
        refusal: of the protocol, below all routes.
        log: all of it.
        spans: all of them.
    """

    answers: dict[str, httpx.Response]
    refusal: Answer
    log: str
    spans: list[Span]

    def trace(self, name: str) -> dict[str, Span]:
        """The spans of one answer, by their names."""
        identifier = self.answers[name].headers["X-Request-ID"]
        (root,) = [span for span in self.spans if span.attributes.get("rrr.request_id") == identifier]
        return {span.name: span for span in self.spans if span.trace == root.trace}


@pytest.fixture(scope="module")
def told(repository: Path, tmp_path_factory: pytest.TempPathFactory, png: Callable[[int], bytes]) -> Told:
    """One service with CORS, a root path, a token and traces, whose spans are exported when it stops, not before."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.taken = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        folder = tmp_path_factory.mktemp("gateways")
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
            options: tuple[str, ...] = ("--cors", APP, "--cors", "http://localhost:5173", "--root-path", "/rrr/")
            options += ("--token-file", str(folder / "token"), "--access-log", "--drain", "0", "--workers", "1")
            service = Service(folder / "log", str(repository), *options)
        page = {"Origin": APP, **BEARER}
        with service, httpx.Client(base_url=service.url, trust_env=False) as client:
            predict, image = "/v1/predict", png(0)
            answers = {
                "preflight": client.options(predict, headers={"Origin": APP, **PREFLIGHT}),
                "predict": client.post(predict, content=image, headers={**page, **TRACEPARENT}),
                "other": client.post(predict, content=image, headers={**page, "Origin": OTHER}),
                "wrong traceparent": client.post(predict, content=image, headers={**page, "traceparent": "00-1-2-3"}),
                "prefixed": client.post(f"/rrr{predict}?user=1", content=image, headers=page),
                "no image": client.post(predict, content=b"text", headers=page),
                "no token": client.post(predict, content=image, headers={"Origin": APP}),
                "no path": client.get("/rrr/v3", headers=page),
                "metrics": client.get("/metrics", headers={**page, **TRACEPARENT}),
                "docs.json": client.get("/rrr/docs.json", headers=page),
                **{
                    path: client.get(path)
                    for path in ("/", "/docs", "/rrr", "/rrr/", "/rrr/docs", "/rrr/docs/start.js")
                },
            }
            assert server.taken == []  # type: ignore[attr-defined]
            many = [("Origin", APP), *[("X-A", "a")] * 101]
            refusal = send(service.url, [request(method="GET", headers=many)])
            assert service.stop() == 0, service.log.read_text()
        server.shutdown()
        return Told(answers, refusal, service.log.read_text(), list(spans_of(server.taken)))  # type: ignore[attr-defined]


def test_a_service_answers_pages_of_its_origins_and_errors_and_refusals_too(told: Told) -> None:
    asked = ("preflight", "predict", "prefixed", "no image", "no token", "no path", "metrics", "docs.json")
    statuses = [told.answers[name].status_code for name in asked]
    assert statuses == [200, 200, 200, 415, 401, 404, 200, 200]
    for name in asked:
        headers = told.answers[name].headers
        assert (headers["Access-Control-Allow-Origin"], headers["Access-Control-Expose-Headers"]) == (APP, READABLE)
        assert "Origin" in headers.get_list("Vary", split_commas=True)
    assert told.answers["prefixed"].headers["X-RRR-Ignored"] == "user"
    assert (told.refusal.status, told.refusal.headers["access-control-allow-origin"]) == (431, APP)
    assert told.answers["other"].status_code == 200
    assert "Access-Control-Allow-Origin" not in told.answers["other"].headers


def test_a_proxy_may_take_its_prefix_away_or_leave_it_and_links_hold(told: Told) -> None:
    assert told.answers["prefixed"].json()["predictions"] == told.answers["predict"].json()["predictions"]
    for path in ("/", "/docs", "/rrr", "/rrr/", "/rrr/docs"):
        assert '<base href="/rrr/">' in told.answers[path].text
    assert told.answers["/rrr/docs/start.js"].status_code == 200
    document = told.answers["docs.json"].json()
    assert document["servers"] == [{"url": "/rrr"}]
    assert "/v1/predict" in document["paths"]


def test_a_trace_has_a_span_for_each_stage_below_the_one_of_its_caller(told: Told) -> None:
    spans = told.trace("predict")
    root = spans.pop("POST /v1/predict")
    assert (root.trace, root.parent, root.kind, root.failed) == (TRACE, CALLER, SERVER, False)
    assert root.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/predict",
        "network.protocol.version": "1.1",
        "rrr.model": "tiny",
        "rrr.request_id": told.answers["predict"].headers["X-Request-ID"],
        "url.path": "/v1/predict",
        "url.scheme": "http",
    }
    assert len(spans) == 5
    spans = {name: spans[name] for name in ("read", "queue", "decode", "inference", "answer")}  # as they come to pass
    assert {span.parent for span in spans.values()} == {root.id}
    assert [span.kind for span in spans.values()] == [INTERNAL, INTERNAL, INTERNAL, CLIENT, INTERNAL]
    times = [time for span in spans.values() for time in (span.start_ns, span.end_ns)]
    assert times == sorted(times)
    assert root.start_ns == times[0]
    assert times[-1] <= root.end_ns
    told_ms = told.answers["predict"].json()["timing_ms"]["inference"]
    assert abs((spans["inference"].end_ns - spans["inference"].start_ns) / 1e6 - told_ms) < 1


def test_a_wrong_traceparent_begins_a_trace_and_an_error_shows_in_its_own(told: Told) -> None:
    assert told.answers["wrong traceparent"].status_code == 200
    begun = told.trace("wrong traceparent")["POST /v1/predict"]
    assert (begun.parent, begun.trace == TRACE) == ("", False)
    no_image, no_token = told.trace("no image"), told.trace("no token")
    assert set(no_image) == {"POST /v1/predict", "read", "decode"}
    assert set(no_token) == {"POST /v1/predict"}
    for spans, status, error in ((no_image, 415, "unsupported_image"), (no_token, 401, "unauthorized")):
        root = spans["POST /v1/predict"]
        found = [root.attributes.get(name) for name in ("http.response.status_code", "rrr.error", "error.type")]
        assert (found, root.failed) == ([status, error, None], False)  # what a client got wrong is no fault of a server
    assert {span.name for span in told.spans if span.kind == SERVER} == {"POST /v1/predict"}, "and no page or preflight"


def test_the_access_log_tells_the_trace_that_was_named_or_began(told: Told) -> None:
    lines = [line for line in told.log.splitlines() if "rrrserve.access" in line]
    traces = {re.findall(r"request_id=(\S+)", line)[0]: re.findall(r"trace_id=(\S+)", line) for line in lines}
    by_name = {name: traces[answer.headers["X-Request-ID"]] for name, answer in told.answers.items()}
    assert by_name["predict"] == by_name["metrics"] == [TRACE]
    begun = told.trace("wrong traceparent")["POST /v1/predict"]
    assert by_name["wrong traceparent"] == [begun.trace]
    assert by_name["preflight"] == by_name["docs.json"] == []
    assert "route=preflight" in told.log


class TracedTriton(TritonServer):
    """A Triton that exports spans itself."""

    collector = ""

    def _command(self, folder: Path, backends: Path) -> list[str]:
        settings = ("mode=opentelemetry", f"opentelemetry,url={self.collector}/v1/traces", "rate=1", "level=TIMESTAMPS")
        options = [word for setting in settings for word in ("--trace-config", setting)]
        return [*super()._command(folder, backends), *options]


@pytest.mark.nightly
@pytest.mark.parametrize("records", [False, True], ids=["caller", "inference"])
def test_the_spans_of_a_real_triton_lie_below_the_callers_or_that_of_the_inference(
    repository: Path, tmp_path: Path, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch, records: bool
) -> None:
    async def main(server: Any) -> None:
        triton = TracedTriton(repository, backends_of(read_repository(repository)))
        triton.collector = f"http://127.0.0.1:{server.server_port}"
        if records:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", triton.collector)
        await triton.start()
        try:
            options = ("--triton-url", triton.url, "--drain", "0", "--workers", "1")
            service = await asyncio.to_thread(Service, tmp_path / "log", str(repository), *options)
            with service:
                answer = await asyncio.to_thread(service.ask, "/v1/predict", content=png(0), headers=TRACEPARENT)
                assert answer.status_code == 200
                assert await asyncio.to_thread(service.stop) == 0
        finally:
            await triton.stop()

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.taken = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asyncio.run(main(server))
        server.shutdown()
        taken = server.taken  # type: ignore[attr-defined]
    scopes = [
        scope for one in taken if isinstance(one, dict) for r in one["resourceSpans"] for scope in r["scopeSpans"]
    ]
    theirs = {span["name"]: span for scope in scopes for span in scope["spans"] if span["traceId"] == TRACE}
    ours = {span.name: span for span in spans_of([one for one in taken if not isinstance(one, dict)])}
    assert set(theirs) >= {"InferRequest", "tiny", "compute"}
    assert theirs["InferRequest"]["parentSpanId"] == (ours["inference"].id if records else CALLER)
