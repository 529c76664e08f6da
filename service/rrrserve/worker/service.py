"""The BentoML service: starts and stops what the routes answer from, and carries the routes."""

from typing import cast

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from rrrserve.api.access import Access
from rrrserve.api.routes import Routes
from rrrserve.config.service_config import ServiceConfig
from rrrserve.worker.lives import Alone, Life, Supervised


class OurRoutesFirst:
    """ASGI middleware: requests go to our routes at once; BentoML keeps the start, the end and its own life cycle.

    BentoML puts its system routes in front of mounted applications, and they answer in another shape or tell less
    than ours; its stack below this costs each request 5 % of the time in this process.
    """

    def __init__(self, app: ASGIApp, ours: ASGIApp) -> None:
        self._app = app
        self._ours = ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to one of the two applications."""
        await (self._ours if scope["type"] == "http" else self._app)(scope, receive, send)


class _ServiceWithoutTimer(bentoml.Service):  # type: ignore[misc]
    """BentoML's service less its timeout, which cannot be configured away.

    Deadlines are ours. BentoML's leaves a timer behind after every request until the timeout has passed, and answers
    in another shape.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application that BentoML's worker and ours run."""
        application = super().to_asgi(is_main)
        kept = [entry for entry in application.user_middleware if entry.cls.__name__ != "TimeoutMiddleware"]
        application.user_middleware = kept
        return cast(ASGIApp, application)


def make_service(config: ServiceConfig, routes: Routes, *, slot: int = 1) -> bentoml.Service:
    """The service that BentoML runs; `rrr serve` runs the same in its HTTP workers, beside one supervised Triton.

    Args:
        config: of the service; with a private folder, of one that has a supervisor.
        routes: what answers.
        slot: this worker's number among those of the supervisor, from 1.
    """
    routes.access = Access(config.token_digests)
    application = routes.application()

    class Service:
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

    service = bentoml.service(
        name="rrr",
        service_class=_ServiceWithoutTimer,
        workers=1,
        # Ours have fine buckets and closed label sets; BentoML's start at 5 ms and take any path as a label.
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
        monitoring={"enabled": False},
        tracing={"excluded_urls": ".*"},
    )(bentoml.asgi_app(application, path="/")(Service))
    service.add_asgi_middleware(OurRoutesFirst, ours=application)
    return service
