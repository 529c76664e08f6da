"""The HTTP routes: which handler answers what, from a `Backend` that is there once the service has started."""

import asyncio
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
from prometheus_client import REGISTRY
from starlette.routing import Route, Router

from rrrserve.api.docs.openapi import METRICS, TRITON_METRICS, document
from rrrserve.api.docs.swagger import swagger_page
from rrrserve.api.endpoint import Access, Endpoint, Exchange, Handler, Reply, to_json
from rrrserve.api.errors import ERRORS, APIError
from rrrserve.api.page import handlers
from rrrserve.api.prediction import Backend, predict
from rrrserve.api.v2 import rest as v2
from rrrserve.config.routes import DEFAULT
from rrrserve.metrics import exposition, instruments
from rrrserve.traces.export import Tracing

_ResultT = TypeVar("_ResultT")

# The last two are BentoML's.
PREDICTION_ROUTES = (
    "/v1/predict",
    "/v1/predict_batch",
    "/v1/models/{name}/predict",
    "/v1/models/{name}/predict_batch",
    "/predict",
    "/predict_batch",
)
EMBEDDING_ROUTES = ("/v1/embed", "/v1/embed_batch", "/v1/models/{name}/embed", "/v1/models/{name}/embed_batch")


class Routes:
    """The handlers. The application exists before the service starts, so the attributes are set later.

    Attributes:
        schema: gives what BentoML's clients read at /schema.json.
        named_routes: further ones that reach every model, as metrics name them.
        page: whether / is the page for people, else Swagger UI is there too.
    """

    def __init__(self) -> None:
        self.page = False
        self.schema: Callable[[], dict[str, Any]] = dict
        self.backend: Backend | None = None
        self.access = Access()
        self.tracing: Tracing | None = None
        self.registry = REGISTRY
        self.named_routes = [v2.INFER_ROUTE]
        # Of its own, and one: several would take turns with the event loop, 5 ms each.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pages")

    def open(self, backend: Backend) -> None:
        """Answer from this backend from now on."""
        plane = backend.data_plane
        route = backend.routing.routes.get(DEFAULT)
        unnamed = {plane.default.name} if route is None else {*route.weights}
        embedding = {name: model for name, model in plane.models.items() if model.embedding_dim is not None}
        instruments.create_series(
            ERRORS,
            plane.models.values(),
            _answered(PREDICTION_ROUTES, plane.models, unnamed)
            + _answered(EMBEDDING_ROUTES, embedding, unnamed)
            + [(route, name) for route in self.named_routes for name in plane.models],
        )
        self.backend = backend

    def beat(self) -> bool:
        """Tell the supervisor that this worker goes on; whether the service is stopping."""
        if self.backend is None:
            return False
        state = self.backend.data_plane.state
        state.beat()
        return state.draining

    def now(self) -> Backend:
        """What answers.

        Raises:
            APIError: `not_ready`, while the service starts.
        """
        if self.backend is None:
            raise APIError("not_ready", "the service is starting")
        return self.backend

    def application(self) -> Router:
        """The ASGI application. What matches no route, or a route but not its methods, is answered here too."""
        pages: dict[str, Handler] = {
            "/v1/models": self.models,
            "/livez": self.livez,
            "/readyz": self.readyz,
            **self._scraped(),
            "/schema.json": self.bentoml_schema,
            "/docs.json": self.docs,
            "/v1/samples": self.samples,
            "/v1/samples/{number:int}": self.sample,
            **dict.fromkeys(("/docs", "/docs/{file}", "/"), swagger_page),
            **(dict.fromkeys(("/", "/page/{file}"), handlers.page) if self.page else {}),
        }
        shared: dict[Handler, str] = {swagger_page: "/docs", handlers.page: "/"}  # templates of the files of a page
        endpoint = functools.partial(Endpoint, access=lambda: self.access, tracing=lambda: self.tracing)
        routes = []
        for template in (*PREDICTION_ROUTES, *EMBEDDING_ROUTES):
            embed = template in EMBEDDING_ROUTES
            predict = functools.partial(self._predict, batch=template.endswith("_batch"), embed=embed)
            path = template.replace("{name}", "{name:path}")  # any name at all: what is none of ours is unknown_model
            # PUT as well as POST: it is what `curl -T cat.jpg` sends.
            routes.append(Route(path, endpoint(template, predict, in_flight=True), methods=["POST", "PUT"]))
            routes.append(Route(path, endpoint(template, _only("POST, PUT"))))
        routes += _read_only(pages, endpoint, shared)
        routes += v2.routes(self.now, endpoint)
        return Router(routes, redirect_slashes=False, default=endpoint(instruments.UNMATCHED, _not_found))

    def metrics_application(self) -> Router:
        """What answers at a port for metrics alone: a scrape, of whoever asks, and nothing else."""
        endpoint = functools.partial(Endpoint, access=Access)
        default = endpoint(instruments.UNMATCHED, _only_metrics)
        return Router([*_read_only(self._scraped(), endpoint, {})], redirect_slashes=False, default=default)

    def _scraped(self) -> dict[str, Handler]:
        return {METRICS: self.metrics, TRITON_METRICS: self.triton_metrics}

    async def _predict(self, exchange: Exchange, *, batch: bool, embed: bool) -> Reply:
        """One image, one answer; of several an unusable one gives an error item and leaves the others as they are."""
        return await predict(self.now(), exchange, batch=batch, embed=embed)

    async def models(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """The repository's models, each with the claims that are stamped on it now, and the routes to them."""
        backend = self.now()
        models = backend.model_list
        routes = {"routes": {name: route.shares for name, route in backend.routing.routes.items()}}
        return Reply(await self._on_the_thread(lambda: to_json(models.document() | routes)))

    async def samples(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """The labelled images that the repository carries."""
        return handlers.sample_list(self.now().samples)

    async def sample(self, exchange: Exchange) -> Reply:
        """One of them."""
        backend = self.now()
        with backend.data_plane.in_use():
            return await handlers.sample(exchange, backend.samples)

    async def livez(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """The event loop turns; says nothing about models, so that a broken model does not restart the front."""
        return Reply(b'{"status":"alive"}')

    async def readyz(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """Every model has answered a real inference within the last second."""
        backend = self.now()
        with backend.data_plane.in_use():
            failure = await backend.readiness.check()
        if failure is not None:
            raise APIError("not_ready", failure)
        triton = backend.data_plane.state.triton
        if triton.known:
            return Reply(
                to_json({"status": "ready", "tritons": {"known": triton.known, "answering": triton.answering}})
            )
        return Reply(b'{"status":"ready"}')

    async def metrics(self, exchange: Exchange) -> Reply:
        """Our metrics in Prometheus's text format or OpenMetrics."""
        self.now()  # before, the registry is not yet that of all workers
        accept, encoding = (exchange.headers.get(name, b"") for name in (b"accept", b"accept-encoding"))
        scrape = functools.partial(exposition.scrape, self.registry, accept=accept, accept_encoding=encoding)
        body, content_type, headers = await self._on_the_thread(scrape)
        return Reply(body, content_type=content_type, headers=headers)

    async def _on_the_thread(self, work: Callable[[], _ResultT]) -> _ResultT:
        """What takes some 20 ms, which the predictions under way would wait for otherwise."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def triton_metrics(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """Triton's own metrics: its port is on loopback, so they are handed through here."""
        backend = self.now()
        if backend.triton_metrics_url is None:
            raise APIError("not_found", "Triton's metrics address is not known: set RRR_TRITON_METRICS_URL")
        try:
            answer = await backend.http.get(backend.triton_metrics_url)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise APIError("backend_unavailable", "Triton's metrics cannot be read") from error
        return Reply(answer.content, content_type=exposition.CONTENT_TYPE)

    async def bentoml_schema(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """BentoML's own description of its routes."""
        return Reply(to_json(await asyncio.to_thread(self.schema)))

    async def docs(self, exchange: Exchange) -> Reply:  # noqa: ARG002  handlers have one signature
        """OpenAPI 3."""
        backend = self.now()
        describe = functools.partial(
            document,
            backend.settings,
            [*backend.data_plane.models, *backend.routing.routes],
            needs_token=self.access.needs_token,
            has_triton_metrics=backend.triton_metrics_url is not None,
            samples=len(backend.samples),
            embedding=[model.name for model in backend.data_plane.models.values() if model.embedding_dim is not None],
            default=backend.data_plane.default.name,
        )
        return Reply(to_json(await asyncio.to_thread(describe)))


def _answered(routes: Sequence[str], models: Iterable[str], unnamed: Collection[str]) -> list[tuple[str, str]]:
    """Each route with each of the models that it may answer with; `unnamed` are those that are asked without a name."""
    names = list(models)
    return [(route, name) for route in routes for name in names if "{name}" in route or name in unnamed]


def _read_only(
    pages: Mapping[str, Handler], endpoint: Callable[..., Endpoint], shared: Mapping[Handler, str]
) -> Iterator[Route]:
    for path, handler in pages.items():
        template = shared.get(handler, path.replace(":int", ""))
        yield Route(path, endpoint(template, handler), methods=["GET"])
        # Counted together: histograms of what nobody does to each page would be a third of a scrape.
        yield Route(path, endpoint(template, _only("GET, HEAD"), counted_as=instruments.UNMATCHED))


def _only(methods: str) -> Handler:
    async def refuse(exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
        raise APIError("method_not_allowed", f"allowed here: {methods}", headers={"Allow": methods})

    return refuse


async def _only_metrics(exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
    raise APIError("not_found", f"this port has GET {METRICS} and {TRITON_METRICS} alone: the API is at --port")


async def _not_found(exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
    raise APIError("not_found", "no such path: GET /docs.json lists the paths")
