"""The HTTP routes and what each answers, from a `Backend` that is there once the service has started."""

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import httpx
from starlette.routing import Route, Router

from rrrbuild.repository_document import Repository, ServedModel
from rrrserve.api.access import Access
from rrrserve.api.admission import Admission, BodyMemory
from rrrserve.api.data_plane import DataPlane, Timing
from rrrserve.api.endpoint import Endpoint, Exchange, Handler, Reply, to_json
from rrrserve.api.errors import APIError
from rrrserve.api.openapi import document
from rrrserve.api.readiness import Readiness
from rrrserve.api.requests import OPTIONS, options_of, read_body, timeout_ms
from rrrserve.api.swagger import swagger_page
from rrrserve.config.service_config import ServiceConfig
from rrrserve.metrics import instruments
from rrrserve.stamps.travelling import served_claims
from rrrserve.state.shared_state import Phase

# The last two are BentoML's: its clients send options in the body.
PREDICTION_ROUTES = (
    "/v1/predict",
    "/v1/predict_batch",
    "/v1/models/{name}/predict",
    "/v1/models/{name}/predict_batch",
    "/predict",
    "/predict_batch",
)


@dataclass(frozen=True)
class Backend:
    """What the routes answer from, once the service has started."""

    settings: ServiceConfig
    repository: Repository
    data_plane: DataPlane
    readiness: Readiness
    triton_metrics_url: str | None
    http: httpx.AsyncClient
    admission: Admission
    body_memory: BodyMemory


class Routes:
    """The handlers. The application exists before the service starts, so backend and tokens are set later.

    Attributes:
        schema: gives what BentoML's clients read at /schema.json.
    """

    def __init__(self) -> None:
        self.schema: Callable[[], dict[str, Any]] = dict
        self.backend: Backend | None = None
        self.access = Access()
        # Of its own, and one: several would take turns with the event loop, 5 ms each.
        self._exposing = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    def open(self, backend: Backend) -> None:
        """Answer from this backend from now on."""
        plane = backend.data_plane
        instruments.create_series(
            plane.models.values(),
            [
                (route, name)
                for route in PREDICTION_ROUTES
                for name in (plane.models if "{name}" in route else (plane.default.name,))
            ],
        )
        self.backend = backend

    def _backend(self) -> Backend:
        if self.backend is None:
            raise APIError("not_ready", "the service is starting")
        return self.backend

    def application(self) -> Router:
        """The ASGI application. What matches no route, or a route but not its methods, is answered here too."""
        pages: dict[str, Handler] = {
            "/v1/models": self.models,
            "/livez": self.livez,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/metrics/triton": self.triton_metrics,
            "/schema.json": self.bentoml_schema,
            "/docs.json": self.docs,
            **dict.fromkeys(("/", "/docs", "/docs/{file}"), swagger_page),
        }
        endpoint = functools.partial(Endpoint, access=lambda: self.access)
        routes = []
        for template in PREDICTION_ROUTES:
            options = () if template.startswith("/v1/") else OPTIONS
            predict = functools.partial(self._predict, batch=template.endswith("_batch"), body_options=options)
            path = template.replace("{name}", "{name:path}")  # any name at all: what is none of ours is unknown_model
            # PUT as well as POST: it is what `curl -T cat.jpg` sends.
            routes.append(Route(path, endpoint(template, predict, in_flight=True), methods=["POST", "PUT"]))
            routes.append(Route(path, endpoint(template, _only("POST, PUT"))))
        for path, handler in pages.items():
            template = "/docs" if handler is swagger_page else path
            routes.append(Route(path, endpoint(template, handler), methods=["GET"]))
            routes.append(Route(path, endpoint(template, _only("GET, HEAD"))))
        return Router(routes, redirect_slashes=False, default=endpoint(instruments.UNMATCHED, _not_found))

    async def _predict(self, exchange: Exchange, *, batch: bool, body_options: Sequence[str]) -> Reply:
        """One image, one answer; of several an unusable one gives an error item and leaves the others as they are."""
        backend = self._backend()
        with backend.data_plane.in_use():  # all of the request is answered by one version
            return await self._predict_by(backend, exchange, batch=batch, body_options=body_options)

    async def _predict_by(
        self, backend: Backend, exchange: Exchange, *, batch: bool, body_options: Sequence[str]
    ) -> Reply:
        settings = backend.settings
        if backend.data_plane.state.phase is Phase.REFUSING:
            raise APIError("shutting_down", "the service is stopping: ask another instance")
        model = self._model(exchange, backend.data_plane)
        query = _query(exchange)
        options = options_of(query, num_classes=len(model.labels))
        milliseconds = timeout_ms(
            exchange.headers, default=settings.request_timeout_ms, largest=settings.max_request_timeout_ms
        )
        timing = Timing(exchange.started)
        deadline = exchange.started + milliseconds / 1000
        backend.admission.check(deadline - time.perf_counter())  # before the body is read: there may be many of them
        code = "request_timeout"
        held = 0
        try:
            async with asyncio.timeout(deadline - time.perf_counter()):
                body = await read_body(
                    exchange.receive,
                    exchange.headers,
                    max_bytes=settings.max_body_bytes,
                    memory=backend.body_memory,
                )
                held = len(body)
                code = "deadline_exceeded"
                timing.read = time.perf_counter() - exchange.started
                backend.data_plane.observe_stage("read", model, timing.read)
                field, most = ("images", settings.max_batch_images) if batch else ("image", 1)
                unpacked = await backend.data_plane.pool.unpack(
                    body, exchange.headers, field=field, most=most, options=body_options
                )
                del body
                images = unpacked.images
                if unpacked.options:
                    options = options_of([*query, *unpacked.options], num_classes=len(model.labels))
                with backend.admission.admitted(len(images), deadline - time.perf_counter()):
                    results = await backend.data_plane.predict(model, images, options, deadline=deadline, timing=timing)
        except TimeoutError as error:
            raise APIError(code, f"the deadline of {milliseconds} ms passed") from error
        finally:
            backend.body_memory.give_back(held)
        return self._encode(backend.data_plane, exchange, model, results, timing, batch=batch)

    def _encode(
        self,
        data_plane: DataPlane,
        exchange: Exchange,
        model: ServedModel,
        results: list[dict[str, Any] | APIError],
        timing: Timing,
        *,
        batch: bool,
    ) -> Reply:
        start = time.perf_counter()
        result: dict[str, Any] = {
            "request_id": exchange.request_id,
            "model": {
                "name": model.name,
                "version": model.version,
                "target": model.target,
                "members": model.members,
                "repository": data_plane.repository,
            },
        }
        if batch:
            result["results"] = [
                {"error": {"code": item.code, "message": item.message}} if isinstance(item, APIError) else item
                for item in results
            ]
        else:
            (item,) = results
            if isinstance(item, APIError):
                raise item
            result |= item
        reply = Reply(to_json(result | {"timing_ms": timing.to_json()}))
        data_plane.observe_stage("encode", model, time.perf_counter() - start)
        return reply

    def _model(self, exchange: Exchange, data_plane: DataPlane) -> ServedModel:
        name = exchange.scope["path_params"].get("name")
        model = data_plane.default if name is None else data_plane.models.get(name)
        if model is None:
            raise APIError("unknown_model", f"no such model here: GET /v1/models lists {len(data_plane.models)}")
        exchange.model = model.name
        return model

    async def models(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """The repository's models, each with the claims that are stamped on it now."""
        backend = self._backend()
        data_plane = backend.data_plane
        listed = [
            {
                "name": model.name,
                "version": model.version,
                "target": model.target,
                "backend": model.backend,
                "members": model.members,
                "num_classes": len(model.labels),
                "labels": list(model.labels),
                "image_size": model.image_size,
                "max_batch_size": model.max_batch_size,
                "parameters": model.parameters,
                "macs": model.macs,
                "claims": [claim.to_json() for claim in served_claims(backend.repository, model)],
            }
            for model in data_plane.models.values()
        ]
        return Reply(
            to_json({"default": data_plane.default.name, "repository": data_plane.repository, "models": listed})
        )

    async def livez(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """The event loop turns; says nothing about models, so that a broken model does not restart the front."""
        return Reply(b'{"status":"alive"}')

    async def readyz(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """Every model has answered a real inference within the last second."""
        backend = self._backend()
        with backend.data_plane.in_use():
            failure = await backend.readiness.check()
        if failure is not None:
            raise APIError("not_ready", failure)
        return Reply(b'{"status":"ready"}')

    async def metrics(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """Our metrics in Prometheus text format."""
        # In a thread: it takes some 20 ms, which the predictions under way would wait for otherwise.
        text = await asyncio.get_running_loop().run_in_executor(self._exposing, instruments.exposition)
        return Reply(text, content_type=instruments.CONTENT_TYPE)

    async def triton_metrics(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """Triton's own metrics: its port is on loopback, so they are handed through here."""
        backend = self._backend()
        if backend.triton_metrics_url is None:
            raise APIError("not_found", "Triton's metrics address is not known: set RRR_TRITON_METRICS_URL")
        try:
            answer = await backend.http.get(backend.triton_metrics_url)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise APIError("backend_unavailable", "Triton's metrics cannot be read") from error
        return Reply(answer.content, content_type=instruments.CONTENT_TYPE)

    async def bentoml_schema(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """BentoML's own description of its routes."""
        return Reply(to_json(await asyncio.to_thread(self.schema)))

    async def docs(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """OpenAPI 3."""
        settings = self._backend().settings
        return Reply(to_json(await asyncio.to_thread(document, settings, needs_token=self.access.needs_token)))


def _query(exchange: Exchange) -> list[tuple[str, str]]:
    raw = exchange.scope["query_string"]
    return parse_qsl(raw.decode("latin-1"), keep_blank_values=True) if raw else []


def _only(methods: str) -> Handler:
    async def refuse(exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
        raise APIError("method_not_allowed", f"allowed here: {methods}", headers={"Allow": methods})

    return refuse


async def _not_found(exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
    raise APIError("not_found", "no such path: GET /docs.json lists the paths")
