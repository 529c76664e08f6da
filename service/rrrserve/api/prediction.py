"""A prediction's way from header to answer: ask, read, unpack, admit, predict, answer; one step after the other.

What it needs on its way is a `Backend`, which is there once the service has started.
"""

import asyncio
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import httpx

from rrrbuild.manifest import how_to_embed
from rrrbuild.repository_document import Repository, ServedModel
from rrrbuild.samples import Sample
from rrrserve.api.admission import Admission
from rrrserve.api.bodies import BodyMemory, ComingBody, read_body, this_task
from rrrserve.api.data_plane import DataPlane, Timing
from rrrserve.api.endpoint import Exchange, Reply, to_json
from rrrserve.api.errors import APIError
from rrrserve.api.keep_unsure import UnsureImages
from rrrserve.api.requests import OPTIONS, Options, Unpacked, ignored_header, options_of, timeout_ms, together, unpack
from rrrserve.api.routing import Routing
from rrrserve.api.shadow import Shadow
from rrrserve.api.shedding import Shedding
from rrrserve.config.routes import DEFAULT
from rrrserve.config.service_config import ServiceConfig
from rrrserve.stamps.model_list import ModelList
from rrrserve.state.shared_state import Phase
from rrrserve.triton.readiness import Readiness


@dataclass(frozen=True)
class Backend:
    """One version of the repository, and all that its requests share."""

    settings: ServiceConfig
    repository: Repository
    data_plane: DataPlane
    readiness: Readiness
    triton_metrics_url: str | None
    http: httpx.AsyncClient
    admission: Admission
    body_memory: BodyMemory
    shedding: Shedding
    unsure: UnsureImages | None
    samples: tuple[Sample, ...]
    routing: Routing
    shadow: Shadow | None

    @cached_property
    def model_list(self) -> ModelList:
        """What GET /v1/models answers."""
        return ModelList(self.repository, self.data_plane.default.name)


class Asked(NamedTuple):
    """What the header of a request asks for.

    Attributes:
        model: which model.
        options: what the answer shall hold.
        milliseconds: how long the request may take.
        deadline: when that ends, on the clock of `time.perf_counter`.
    """

    model: ServedModel
    options: Options
    milliseconds: int
    deadline: float

    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.perf_counter()


async def predict(backend: Backend, exchange: Exchange, *, batch: bool, embed: bool = False) -> Reply:
    """Answer with one image's labels, or in a batch with each image's; there an unusable one gives an error item.

    Args:
        backend: what answers.
        exchange: the request.
        batch: whether several images are asked about.
        embed: whether their embeddings are asked for in place of labels.

    Raises:
        APIError: there is no answer.
    """
    plane = backend.data_plane
    named = "name" in exchange.scope["path_params"]
    shadow = None if batch or embed or named else backend.shadow
    with plane.in_use():  # all of the request is answered by one version
        asked = ask(backend, exchange)
        if embed and asked.model.embedding_dim is None:
            name = asked.model.name
            raise APIError(
                "no_embedding",
                f"{name} gives no embeddings: {how_to_embed(asked.model.target)}, then rrr repository and rrr reload",
            )
        backend.admission.check(asked.seconds_left())  # before the body is read: there may be many of them
        timing = Timing(exchange.started, exchange.trace)
        with backend.body_memory.begin(this_task().cancel) as coming:
            try:
                async with asyncio.timeout(asked.seconds_left()):
                    body = await read(backend, exchange, asked, coming, timing, batch=batch)
                    options, given = asked.options, query_of(exchange)
                    if body.options:
                        given = together(given, body.options)
                        options = options_of(given, exchange.headers, num_classes=len(asked.model.labels))
                    options = backend.shedding.apply(asked.model, options, asked.seconds_left())
                    before = None if shadow is None else shadow.before()
                    with backend.admission.admitted(len(body.images), asked.seconds_left()):
                        work = plane.embed if embed else plane.predict
                        results = await work(asked.model, body.images, options, deadline=asked.deadline, timing=timing)
            except TimeoutError as error:
                code = "deadline_exceeded" if coming.whole else "request_timeout"
                raise APIError(code, f"the deadline of {asked.milliseconds} ms passed") from error
        if backend.unsure is not None and not embed:
            for place, item in enumerate(results):
                if not isinstance(item, APIError) and item["unsure"]:
                    backend.unsure.keep(exchange.request_id, place, body.images[place], asked.model.name, item)
        unread = [name for name, _ in given if embed and name in OPTIONS and name != "timing"]
        headers = ignored_header([*options.ignored, *body.ignored, *unread])
        reply = answer(plane, exchange, asked.model, results, timing if options.timing else None, headers, batch=batch)
        exchange.trace.stage("answer", timing.answering, time.perf_counter())
        if shadow is not None and not isinstance(item := results[0], APIError):
            label = item["predictions"][0]["label"]
            shadow.compare(before, asked.model, body.images[0], options, label, timing.inference)
        return reply


def ask(backend: Backend, exchange: Exchange) -> Asked:
    """What the header asks for, checked; names the model in the exchange.

    Raises:
        APIError: `shutting_down`, `unknown_model`, or `bad_request`.
    """
    settings, plane = backend.settings, backend.data_plane
    if plane.state.service.phase == Phase.REFUSING:
        raise APIError("shutting_down", "the service is stopping: ask another instance")
    name = exchange.scope["path_params"].get("name")
    if name is not None or DEFAULT in backend.routing.routes:
        name = backend.routing.chosen(name or DEFAULT, exchange.headers)
    model = plane.default if name is None else plane.models.get(name)
    if model is None:
        raise APIError("unknown_model", f"no such model here: GET /v1/models lists {len(plane.models)}")
    exchange.model = model.name
    options = options_of(query_of(exchange), exchange.headers, num_classes=len(model.labels))
    milliseconds = timeout_ms(
        exchange.headers, default=settings.request_timeout_ms, largest=settings.max_request_timeout_ms
    )
    return Asked(model, options, milliseconds, exchange.started + milliseconds / 1000)


def query_of(exchange: Exchange) -> list[tuple[str, str]]:
    """The parameters of the URL, in order."""
    query = exchange.scope["query_string"].decode("latin-1")
    return parse_qsl(query, keep_blank_values=True) if query else []


async def read(
    backend: Backend,
    exchange: Exchange,
    asked: Asked,
    coming: ComingBody,
    timing: Timing,
    *,
    batch: bool,
) -> Unpacked:
    """The body, taken apart.

    Raises:
        APIError: see `read_body` and `contents_of`.
        ClientDisconnect: the client went away.
    """
    settings, plane = backend.settings, backend.data_plane
    body = await read_body(exchange.receive, exchange.headers, coming, max_bytes=settings.max_body_bytes)
    timing.read = time.perf_counter() - exchange.started
    exchange.trace.stage("read", exchange.started, exchange.started + timing.read)
    plane.observe_stage("read", asked.model, timing.read)
    field, most = ("images", settings.max_batch_images) if batch else ("image", 1)
    return await unpack(body, exchange.headers, field=field, most=most, threads=plane.pool.executor)


def answer(
    plane: DataPlane,
    exchange: Exchange,
    model: ServedModel,
    results: list[dict[str, Any] | APIError],
    timing: Timing | None,
    headers: dict[str, str],
    *,
    batch: bool,
) -> Reply:
    """The results as JSON.

    Args:
        plane: what answered.
        exchange: the request.
        model: which model.
        results: of each image.
        timing: what the answer tells of it; None for nothing.
        headers: further ones of the answer.
        batch: whether several images were asked about.

    Raises:
        APIError: that of the only image.
    """
    start = time.perf_counter()
    document: dict[str, Any] = {
        "request_id": exchange.request_id,
        "model": {
            "name": model.name,
            "version": model.version,
            "target": model.target,
            "members": model.members,
            "repository": plane.repository,
        },
    }
    if batch:
        document["results"] = [
            {"error": {"code": item.code, "message": item.message}} if isinstance(item, APIError) else item
            for item in results
        ]
    else:
        (item,) = results
        if isinstance(item, APIError):
            raise item
        document |= item
    if timing is not None:
        document["timing_ms"] = timing.to_json()
    reply = Reply(to_json(document), headers=headers)
    plane.observe_stage("encode", model, time.perf_counter() - start)
    return reply
