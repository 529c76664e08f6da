"""An inference's way, the same for REST and gRPC, and by the steps of `rrrserve.api.prediction`: admit, read, infer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from rrrbuild.repository_document import ServedModel
from rrrserve.api.answer import answering_effort
from rrrserve.api.bodies import ComingBody, this_task
from rrrserve.api.data_plane import DataPlane, Timing
from rrrserve.api.decoding import Decoded
from rrrserve.api.errors import APIError
from rrrserve.api.near_misses import shown
from rrrserve.api.prediction import Backend
from rrrserve.api.requests import Headers, Options
from rrrserve.api.v2.outputs import Result, results
from rrrserve.api.v2.question import Question
from rrrserve.api.v2.tensors import Uint8s
from rrrserve.state.shared_state import Phase
from rrrserve.traces.trace import Trace
from rrrserve.triton.client import Inference

# Reads and checks a request of a model; counts its bytes.
Read = Callable[[ServedModel, ComingBody], Awaitable[Question]]


class Call(Protocol):
    """One request, over HTTP or gRPC; see `rrrserve.api.endpoint.Exchange`."""

    started: float
    request_id: str
    headers: Headers
    model: str
    trace: Trace


class Answer(NamedTuple):
    """An answer.

    Attributes:
        model: that gave it.
        question: what was asked.
        results: the outputs.
        effort: by which it answered.
        partial: whether of some image a member that was asked is missing.
        plane: counts what the writing of it takes.
    """

    model: ServedModel
    question: Question
    results: list[Result]
    effort: str
    partial: bool
    plane: DataPlane


def model_of(backend: Backend, name: str, version: str, headers: Headers | None = None) -> ServedModel:
    """A model by its name, and its version where one is given.

    Args:
        backend: what answers.
        name: of the model, or of a route.
        version: of the model, empty for any; of a model `NAME@VERSION` it may stand here in place of there.
        headers: of a request that is to be answered; None where a description is asked for, that of a route's first.

    Raises:
        APIError: `unknown_model`.
    """
    models, routing = backend.data_plane.models, backend.routing
    model = models.get(f"{name}@{version}")
    if model is None:
        model = models.get(routing.first(name) if headers is None else routing.chosen(name, headers))
    if model is None:
        raise APIError("unknown_model", f"no such model here: GET /v1/models lists {len(models)}")
    if version not in ("", model.version):
        raise APIError("unknown_model", f"{model.name} is served in version {model.version}, not {shown(version)}")
    return model


async def readiness(backend: Backend, name: str | None = None) -> str | None:
    """None where every model has just answered, or the one of that name; else what is wrong."""
    plane = backend.data_plane
    with plane.in_use():
        failure = await backend.readiness.check()
    if failure is not None and name is not None and not plane.state.draining and plane.state.answers(name):
        return None  # another model's failure
    return failure


def admit(backend: Backend, milliseconds: int) -> None:
    """Refuse what cannot be done now; to be asked before a request's body is read: there may be many of them.

    Raises:
        APIError: `shutting_down` or `overloaded`.
    """
    if backend.data_plane.state.service.phase == Phase.REFUSING:
        raise APIError("shutting_down", "the service is stopping: ask another instance")
    backend.admission.check(milliseconds / 1000)


async def infer(backend: Backend, call: Call, name: str, version: str, *, milliseconds: int, read: Read) -> Answer:
    """Answer one request that was admitted.

    Args:
        backend: what answers.
        call: the request; is told the model's name.
        name: of the model.
        version: of the model; empty for the one that is served.
        milliseconds: how long the request may take.
        read: gives what is asked.

    Raises:
        APIError: there is no answer.
    """
    plane = backend.data_plane
    deadline = call.started + milliseconds / 1000

    def left() -> float:
        return deadline - time.perf_counter()

    with plane.in_use():  # all of the request is answered by one version
        model = model_of(backend, name, version, call.headers)
        call.model = model.name
        timing = Timing(call.started, call.trace)
        with backend.body_memory.begin(this_task().cancel) as coming:
            try:
                async with asyncio.timeout(left()):
                    question = await read(model, coming)
                    timing.read = time.perf_counter() - call.started
                    call.trace.stage("read", call.started, call.started + timing.read)
                    plane.observe_stage("read", model, timing.read)
                    options = backend.shedding.apply(model, question.options, left())
                    with backend.admission.admitted(len(question.images), left()):
                        arrays = question.images.arrays or await _decoded(plane, model, question, timing)
                        found = await plane.infer(
                            model, arrays, options.effort, deadline=deadline, timing=timing, embed=question.embed
                        )
            except TimeoutError as error:
                code = "deadline_exceeded" if coming.whole else "request_timeout"
                raise APIError(code, f"the deadline of {milliseconds} ms passed") from error
        partial = _told(backend, call, model, question, found, options)
        effort = answering_effort(model, options.effort)
        return Answer(model, question, results(found, model, question, effort), effort, partial, plane)


async def _decoded(plane: DataPlane, model: ServedModel, question: Question, timing: Timing) -> list[Uint8s]:
    """The encoded images as arrays. Tensors have no place for an error: one bad image ends the request.

    Raises:
        APIError: an image cannot be used; names its place.
    """
    arrays = []
    for place, item in enumerate(await plane.decode(model, question.images.encoded, timing)):
        if not isinstance(item, Decoded):
            raise APIError(item.code, f"image {place}: {item.message}")
        arrays.append(item.array)
    return arrays


def _told(
    backend: Backend, call: Call, model: ServedModel, question: Question, found: Inference, options: Options
) -> bool:
    """Count each image's answer as /v1 does, and keep unsure ones that came encoded; whether any is partial."""
    partial = False
    for place in range(len(found.probabilities)):
        item = backend.data_plane.answer(model, found, place, options)
        partial = partial or item["partial"]
        if item["unsure"] and backend.unsure is not None and question.images.encoded:
            backend.unsure.keep(call.request_id, place, question.images.encoded[place], model.name, item)
    return partial
