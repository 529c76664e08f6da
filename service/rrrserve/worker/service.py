"""The service as BentoML knows it: what `bentoml serve`, `bentoml build` and BentoML's clients work with."""

import functools
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar, cast

import bentoml
import httpx
from bentoml.exceptions import BentoMLException
from starlette.types import ASGIApp, Receive, Scope, Send

from rrrserve.api.cors import Cors
from rrrserve.api.docs.schemas import Answer, BatchAnswer, Effort, Envelope
from rrrserve.api.endpoint import Access
from rrrserve.api.gateways import behind_gateways
from rrrserve.api.routes import Routes
from rrrserve.config.service_config import ServiceConfig
from rrrserve.worker.lives import Alone, Life, Supervised

_AnswerT = TypeVar("_AnswerT", bound=Envelope)
_FORWARDED = (
    *("authorization", "traceparent", "tracestate"),
    *("x-request-id", "x-request-timeout-ms", "x-route-key", "x-rrr-effort"),
)


class OurRoutesFirst:
    """The outermost application: what is ours passes no layer of BentoML; its life cycle stays with BentoML.

    The routes of BentoML's methods are ours too: BentoML's own reading of a request fetches a URL where an image is
    expected, writes each image to a file, and has no limit of size.

    Args:
        ours: answers every path, be it with 404.
        bentoml: BentoML's application.
        theirs: paths that BentoML answers nevertheless.
    """

    def __init__(self, ours: ASGIApp, bentoml: ASGIApp, theirs: frozenset[str]) -> None:
        self._ours = ours
        self._bentoml = bentoml
        self._theirs = theirs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to one of the two applications."""
        ours = scope["type"] == "http" and scope["path"] not in self._theirs
        await (self._ours if ours else self._bentoml)(scope, receive, send)


class BentoService(bentoml.Service):  # type: ignore[misc]
    """BentoML's service with our routes in front of it.

    Attributes:
        application: answers them.
    """

    application: ASGIApp

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application that BentoML's worker and ours run.

        Args:
            is_main: clients ask it, rather than another BentoML service that depends on it and sends pickled values.
        """
        theirs = frozenset() if is_main else frozenset(method.route for method in self.apis.values())
        return OurRoutesFirst(self.application, super().to_asgi(is_main), theirs)


def make_service(config: ServiceConfig, routes: Routes, *, slot: int = 1) -> BentoService:
    """The service that BentoML runs; `rrr serve` runs the same in its HTTP workers, beside one supervised Triton.

    Args:
        config: of the service; with a private folder, of one that has a supervisor.
        routes: what answers.
        slot: this worker's number among those of the supervisor, from 1.
    """
    routes.access = Access(config.token_digests)
    routes.page = config.page
    application = behind_gateways(routes.application(), cors=Cors.of(config.cors), root_path=config.root_path)

    class RRRNet:
        """RRR-Net image classification in front of Triton."""

        def __init__(self) -> None:
            folder = config.private_folder
            self._life: Life = Supervised(config, routes, folder, slot) if folder else Alone(config, routes)

        @bentoml.on_startup  # type: ignore[untyped-decorator]
        async def start(self) -> None:
            """See `Life`."""
            await self._life.start()

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def stop(self) -> None:
            """See `Life`."""
            await self._life.stop()

        @bentoml.api  # type: ignore[untyped-decorator]
        async def predict(
            self,
            ctx: bentoml.Context,
            image: Path,
            top_k: int | None = None,
            members: bool = False,
            timing: bool = True,
            effort: Effort | None = None,
            coverage: float | None = None,
        ) -> Answer:
            """Classify one image: JPEG, PNG, WebP, AVIF or HEIC."""
            options = {"top_k": top_k, "members": members, "timing": timing, "effort": effort, "coverage": coverage}
            return await _ask(application, ctx, [("image", image)], options, Answer)

        @bentoml.api  # type: ignore[untyped-decorator]
        async def predict_batch(
            self,
            ctx: bentoml.Context,
            images: list[Path],
            top_k: int | None = None,
            members: bool = False,
            timing: bool = True,
            effort: Effort | None = None,
            coverage: float | None = None,
        ) -> BatchAnswer:
            """Classify several images; one that cannot be used gets an error in its place."""
            options = {"top_k": top_k, "members": members, "timing": timing, "effort": effort, "coverage": coverage}
            return await _ask(application, ctx, [("images", image) for image in images], options, BatchAnswer)

    service = bentoml.service(
        name="rrr",
        service_class=BentoService,
        workers=1,
        # Ours have fine buckets and closed label sets; BentoML's start at 5 ms and take any path as a label.
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
        monitoring={"enabled": False},
        tracing={"excluded_urls": ".*"},
    )(RRRNet)
    service._import_str = "rrrserve.bento:RRRService"  # else it is sought in this module
    service.application = application
    routes.schema = functools.cache(service.schema)  # it takes 40 ms
    return cast(BentoService, service)


async def _ask(
    application: ASGIApp,
    context: bentoml.Context,
    images: list[tuple[str, Path]],
    options: dict[str, Any],
    shape: type[_AnswerT],
) -> _AnswerT:
    """Ask our own route from inside the process: with the same limits, and counted like any other request."""
    files = [(field, image.read_bytes()) for field, image in images]
    data = {name: json.dumps(value) for name, value in options.items()}
    headers = {name: value for name, value in context.request.headers.items() if name in _FORWARDED}
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, timeout=None) as client:  # noqa: S113  the deadline is the route's
        answer = await client.post(f"http://rrr{context.request.url.path}", files=files, data=data, headers=headers)
    if answer.is_error:
        raise BentoMLException(answer.text, error_code=HTTPStatus(answer.status_code))
    return shape.model_validate_json(answer.content)
