"""Starts and stops what the routes answer from.

`bentoml serve rrrserve.bento:RRRService` serves the repository in RRR_REPOSITORY with a Triton of its own; `rrr serve`
runs the same service in its HTTP workers beside one supervised Triton.
"""

import asyncio
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import bentoml
import httpx

from rrrbuild.repository_document import Repository, read_repository
from rrrnet import __version__
from rrrnet.errors import CheckFailedError
from rrrserve.api.access import Access, tokens_of
from rrrserve.api.admission import Admission, BodyMemory, default_in_flight
from rrrserve.api.data_plane import DataPlane
from rrrserve.api.decoding import DecodePool
from rrrserve.api.readiness import Readiness
from rrrserve.api.routes import Backend, Routes
from rrrserve.config.settings import Settings
from rrrserve.metrics import instruments, multiprocess
from rrrserve.process.restarts import DEFAULT_RESTARTS
from rrrserve.stamps import environment
from rrrserve.state.shared_state import FIRST_VERSION, PATH_VARIABLE, SLOT_VARIABLE, SharedState
from rrrserve.triton.breaker import TritonLink
from rrrserve.triton.client import TritonError
from rrrserve.triton.keeper import TritonKeeper, watch_for_ever
from rrrserve.triton.release import age_warning
from rrrserve.triton.server import TritonServer
from rrrserve.versions.catalogue import backends_of, default_model
from rrrserve.versions.version import Version, read_version
from rrrserve.worker.following import keep_following

log = logging.getLogger("rrrserve")

_START_TIMEOUT_SECONDS = 120.0


class Service:
    """What the routes answer from, from its start to its end."""

    def __init__(self, routes: Routes) -> None:
        self._settings = Settings.from_environment(os.environ)
        self._routes = routes
        routes.access = Access(tokens_of(os.environ))
        page = os.environ.get(PATH_VARIABLE)
        self._supervised_by = Path(page).parent if page else None
        self._repository = None if page else read_repository(self._settings.repository)
        if self._repository is not None:
            default_model(self._repository, self._settings.default_model)  # a mistake is told before anything starts
        self._triton: TritonServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect to Triton, after starting one if there is none. Returns before the models are loaded."""
        settings = self._settings
        self._pool = DecodePool(
            settings.decode_threads, max_pixels=settings.max_pixels, memory_bytes=settings.decode_memory_bytes
        )
        self._http = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self._body_memory = BodyMemory(settings.body_memory_bytes)
        if self._repository is None:
            self._state = SharedState.of_service(os.environ)
            self._answer_from(self._state.use_current_version())
            self._tasks.append(asyncio.create_task(keep_following(self._follow)))
        else:
            self._state = SharedState.in_process([model.name for model in self._repository.models])
            self._open(self._unsupervised(self._repository), self._state)
        # Looking around takes 0.2 s, which no request shall wait for: claims of GET /v1/models are compared with it.
        self._tasks += [asyncio.create_task(work) for work in (self._publish_build_info(), self._look_around())]
        if (folder := multiprocess.folder_in_use()) is not None:
            multiprocess.forget_gauges_of_the_dead(folder)

    def _unsupervised(self, repository: Repository) -> Version:
        """The one version of a worker without a supervisor, which sees to Triton itself."""
        url, metrics_url = self._settings.triton_url, self._settings.triton_metrics_url
        if url is None:
            self._triton = TritonServer(repository.path, backends_of(repository))
            self._tasks.append(asyncio.create_task(self._keep(self._triton, repository)))
            url, metrics_url = self._triton.url, self._triton.metrics_url
        else:
            self._tasks.append(asyncio.create_task(watch_for_ever(url, repository.models, self._state)))
        default = default_model(repository, self._settings.default_model)
        return Version(FIRST_VERSION, repository, repository.path, default, url, metrics_url)

    def _answer_from(self, number: int) -> None:
        """Let new requests be answered from a version that the supervisor has written."""
        if self._supervised_by is None:
            raise RuntimeError("there is no supervisor")
        version = read_version(self._supervised_by, number)
        names = [model.name for model in version.repository.models]
        self._open(version, self._state.of_version(number, names))
        self._number = number

    def _open(self, version: Version, state: SharedState) -> None:
        """Connect to a version's Triton, and let new requests be answered by it."""
        client = TritonLink(version.triton_url, state)
        data_plane = DataPlane(version.repository, version.default, client, self._pool, state)
        largest = max(model.max_batch_size for model in version.repository.models)
        instruments.SUPERVISION.state = state
        instruments.SUPERVISION.repository = version.repository.short_digest
        most = self._settings.max_in_flight or default_in_flight(largest)
        self._routes.open(
            Backend(
                self._settings,
                replace(version.repository, path=version.source),
                data_plane,
                Readiness(data_plane),
                version.triton_metrics_url or self._settings.triton_metrics_url,
                self._http,
                Admission(state, most, batch_images=largest),
                self._body_memory,
            )
        )

    async def _follow(self) -> None:
        """Answer from the version that the supervisor names, and let go of the one before when nothing uses it."""
        self._state.use_version(self._number)
        number = self._state.version
        if number != self._number and self._routes.backend is not None:
            before = self._routes.backend.data_plane
            self._answer_from(number)
            await before.until_unused()
            await before.client.close()

    async def stop(self) -> None:
        """Close the connections and end a Triton that was started here."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        backend, self._routes.backend = self._routes.backend, None
        if backend is not None:
            await backend.data_plane.client.close()
        await self._http.aclose()
        self._pool.close()
        if self._triton is not None:
            await self._triton.stop()

    async def _keep(self, triton: TritonServer, repository: Repository) -> None:
        """Keep Triton running; when that is given up, end this worker: `bentoml serve` then starts both again."""
        keeper = TritonKeeper(
            triton,
            repository.models,
            self._state,
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
                if self._routes.backend is None:
                    return
                version = await self._routes.backend.data_plane.client.server_version(timeout_seconds=1.0)
            except TritonError:
                await asyncio.sleep(0.2)
            else:
                instruments.BUILD_INFO.labels(__version__, version, bentoml.__version__).set(1)
                warning = age_warning(version)
                if warning is not None and os.environ.get(SLOT_VARIABLE, "1") == "1":  # one worker tells
                    log.warning("%s", warning)
                return
