"""The BentoML service: starts and stops what the routes answer from, and carries the routes.

    bentoml serve rrrserve.app:RRRService

serves the repository in RRR_REPOSITORY with a Triton of its own; `rrr serve` runs the same service in its HTTP
workers beside one supervised Triton.
"""

import asyncio
import logging
import os
import signal
from typing import cast

import bentoml
import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from rrrbuild.repository_document import read_repository
from rrrnet import __version__
from rrrnet.errors import CheckFailedError
from rrrserve import environment, metrics, worker_metrics
from rrrserve.access import Access, tokens_of
from rrrserve.admission import Admission, BodyMemory, default_in_flight
from rrrserve.catalogue import backends_of, default_model
from rrrserve.data_plane import DataPlane
from rrrserve.decoding import DecodePool
from rrrserve.readiness import Readiness
from rrrserve.restarts import DEFAULT_RESTARTS
from rrrserve.routes import Backend, Routes
from rrrserve.settings import Settings
from rrrserve.shared_state import PATH_VARIABLE, SLOT_VARIABLE, SharedState
from rrrserve.triton_client import TritonError
from rrrserve.triton_keeper import TritonKeeper, watch_for_ever
from rrrserve.triton_link import TritonLink
from rrrserve.triton_release import age_warning
from rrrserve.triton_server import TritonServer

log = logging.getLogger("rrrserve")

_START_TIMEOUT_SECONDS = 120.0

ROUTES = Routes()
APPLICATION = ROUTES.application()


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


class Service:
    """RRR-Net image classification in front of Triton."""

    def __init__(self) -> None:
        self._settings = Settings.from_environment(os.environ)
        ROUTES.access = Access(tokens_of(os.environ))
        self._repository = read_repository(self._settings.repository)
        self._default = default_model(self._repository, self._settings.default_model)
        self._triton: TritonServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Connect to Triton, after starting one if no address is set. Returns before the models are loaded."""
        settings = self._settings
        url, metrics_url = settings.triton_url, settings.triton_metrics_url
        models = self._repository.models
        state = SharedState.from_environment(os.environ, [model.name for model in models])
        if url is None:
            self._triton = TritonServer(settings.repository, backends_of(self._repository))
            self._tasks.append(asyncio.create_task(self._keep(self._triton, state)))
            url, metrics_url = self._triton.url, self._triton.metrics_url
        elif PATH_VARIABLE not in os.environ:  # no supervisor watches it
            self._tasks.append(asyncio.create_task(watch_for_ever(url, models, state)))
        self._client = TritonLink(url, state)
        self._pool = DecodePool(
            settings.decode_threads, max_pixels=settings.max_pixels, memory_bytes=settings.decode_memory_bytes
        )
        self._http = httpx.AsyncClient(timeout=5.0, trust_env=False)
        data_plane = DataPlane(self._repository, self._default, self._client, self._pool, state)
        metrics.SUPERVISION.state = state
        # Looking around takes 0.2 s, which no request shall wait for: claims of GET /v1/models are compared with it.
        self._tasks += [asyncio.create_task(work) for work in (self._publish_build_info(), self._look_around())]
        if (folder := worker_metrics.folder_in_use()) is not None:
            worker_metrics.forget_gauges_of_the_dead(folder)
        largest = max(model.max_batch_size for model in models)
        most = settings.max_in_flight or default_in_flight(largest)
        ROUTES.open(
            Backend(
                settings,
                self._repository,
                data_plane,
                Readiness(data_plane),
                metrics_url,
                self._http,
                Admission(state, most, batch_images=largest),
                BodyMemory(settings.body_memory_bytes),
            )
        )

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Close the connections and end a Triton that was started here."""
        ROUTES.backend = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()
        await self._http.aclose()
        self._pool.close()
        if self._triton is not None:
            await self._triton.stop()

    async def _keep(self, triton: TritonServer, state: SharedState) -> None:
        """Keep Triton running; when that is given up, end this worker: `bentoml serve` then starts both again."""
        keeper = TritonKeeper(
            triton,
            self._repository.models,
            state,
            most_restarts=DEFAULT_RESTARTS,
            start_timeout_seconds=_START_TIMEOUT_SECONDS,
        )
        try:
            await keeper.run()
        except CheckFailedError as error:
            log.critical("%s", error)
            os.kill(os.getpid(), signal.SIGTERM)

    async def _look_around(self) -> None:
        await asyncio.to_thread(environment.describe)

    async def _publish_build_info(self) -> None:
        """Set the info metric once Triton can tell its version."""
        while True:
            try:
                version = await self._client.server_version(timeout_seconds=1.0)
            except TritonError:
                await asyncio.sleep(0.2)
            else:
                metrics.BUILD_INFO.labels(__version__, version, bentoml.__version__).set(1)
                warning = age_warning(version)
                if warning is not None and os.environ.get(SLOT_VARIABLE, "1") == "1":  # one worker tells
                    log.warning("%s", warning)
                return


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


RRRService = bentoml.service(
    name="rrr",
    service_class=_ServiceWithoutTimer,
    workers=1,
    # Ours have fine buckets and closed label sets; BentoML's start at 5 ms and take any path as a label.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    monitoring={"enabled": False},
    tracing={"excluded_urls": ".*"},
)(bentoml.asgi_app(APPLICATION, path="/")(Service))
RRRService.add_asgi_middleware(OurRoutesFirst, ours=APPLICATION)
