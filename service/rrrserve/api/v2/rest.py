"""The routes under /v2."""

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from rrrbuild.repository_document import ServedModel
from rrrnet import __version__
from rrrserve.api.bodies import ComingBody, read_body
from rrrserve.api.endpoint import Endpoint, Exchange, Handler, Reply, to_json
from rrrserve.api.errors import APIError
from rrrserve.api.prediction import Backend, query_of
from rrrserve.api.requests import timeout_ms
from rrrserve.api.v2 import json_body
from rrrserve.api.v2.inference import admit, infer, model_of, readiness
from rrrserve.api.v2.question import Question
from rrrserve.api.v2.tensors import inputs_of, outputs_of
from rrrserve.metrics import instruments

INFER_ROUTE = "/v2/models/{name}/infer"
SERVER = {"name": "rrrnet-serving", "version": __version__, "extensions": ["binary_tensor_data", "classification"]}
_MODEL, _VERSION = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
_INLINE_BYTES = 64 * 1024  # longer JSON is read on a thread, so that the event loop keeps answering


def routes(backend: Callable[[], Backend], endpoint: Callable[..., Endpoint]) -> list[Route]:
    """What answers under /v2.

    Args:
        backend: gives what answers, or raises `APIError` while the service starts.
        endpoint: makes an `Endpoint`; knows who is answered and what records spans.
    """
    endpoint = functools.partial(endpoint, error_body=APIError.to_kserve)
    pages: dict[str, Handler] = {
        "/v2": _server,
        "/v2/health/live": _live,
        "/v2/health/ready": functools.partial(_ready, backend),
        _MODEL: functools.partial(_model, backend),
        _VERSION: functools.partial(_model, backend),
        f"{_MODEL}/ready": functools.partial(_ready, backend),
        f"{_VERSION}/ready": functools.partial(_ready, backend),
    }
    found = []
    for path, handler in pages.items():
        label = path.replace(_VERSION, _MODEL)
        found.append(Route(path, endpoint(path, handler, counted_as=label), methods=["GET"]))
    post = functools.partial(_infer, backend)
    posts = (INFER_ROUTE, f"{_VERSION}/infer")
    found += [
        Route(path, endpoint(path, post, in_flight=True, counted_as=INFER_ROUTE), methods=["POST"]) for path in posts
    ]
    refusals = {**dict.fromkeys(pages, "GET, HEAD"), **dict.fromkeys(posts, "POST")}
    for path, methods in refusals.items():
        refuse = functools.partial(_wrong_method, methods)
        found.append(Route(path, endpoint(path, refuse, counted_as=instruments.UNMATCHED)))
    nothing = endpoint(instruments.UNMATCHED, _nothing)
    return [*found, Route("/v2/{rest:path}", nothing)]


async def _server(exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
    return Reply(to_json(SERVER))


async def _live(exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
    return Reply(b'{"live":true}')


async def _ready(backend: Callable[[], Backend], exchange: Exchange) -> Reply:
    """Of all models, or of the one that the path names."""
    found = backend()
    parameters = exchange.scope["path_params"]
    name = parameters.get("name")
    if name is not None:
        exchange.model = model_of(found, name, parameters.get("version", "")).name
    failure = await readiness(found, exchange.model or None)
    if failure is not None:
        raise APIError("not_ready", failure)
    return Reply(to_json({"ready": True} if name is None else {"name": name, "ready": True}))


async def _model(backend: Callable[[], Backend], exchange: Exchange) -> Reply:
    parameters = exchange.scope["path_params"]
    model = model_of(backend(), parameters["name"], parameters.get("version", ""))
    exchange.model = model.name
    tensors = {"inputs": inputs_of(model), "outputs": outputs_of(model)}
    document: dict[str, Any] = {"name": model.name, "versions": [model.version], "platform": f"rrr_{model.target}"}
    for kind, items in tensors.items():
        document[kind] = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in items]
    return Reply(to_json(document))


async def _infer(backend: Callable[[], Backend], exchange: Exchange) -> Reply:
    found, parameters, headers = backend(), exchange.scope["path_params"], exchange.headers
    settings = found.settings
    milliseconds = timeout_ms(headers, default=settings.request_timeout_ms, largest=settings.max_request_timeout_ms)
    admit(found, milliseconds)
    query = [name for name, _ in query_of(exchange)]

    async def read(model: ServedModel, coming: ComingBody) -> Question:
        body = await read_body(exchange.receive, headers, coming, max_bytes=settings.max_body_bytes)
        work = functools.partial(json_body.read, body, headers, model, most=settings.max_batch_images, query=query)
        if json_body.is_quick(body, headers, _INLINE_BYTES):
            return work()
        return await asyncio.get_running_loop().run_in_executor(found.data_plane.pool.executor, work)

    version = parameters.get("version", "")
    answer = await infer(found, exchange, parameters["name"], version, milliseconds=milliseconds, read=read)
    start = time.perf_counter()
    reply = json_body.write(answer)
    answer.plane.observe_stage("encode", answer.model, time.perf_counter() - start)
    return reply


async def _wrong_method(methods: str, exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
    raise APIError("method_not_allowed", f"allowed here: {methods}", headers={"Allow": methods})


async def _nothing(exchange: Exchange) -> Reply:  # noqa: ARG001  handlers have one signature
    raise APIError("not_found", "no such path: GET /v2 and /v2/models/NAME describe what there is")
