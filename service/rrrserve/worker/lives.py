"""The two lives of a worker: beside a supervisor that keeps Triton (`rrr serve`), or alone (`bentoml serve`)."""

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import bentoml
import httpx

from rrrbuild.repository_document import read_repository
from rrrbuild.samples import read_samples
from rrrnet import __version__
from rrrnet.errors import CheckFailedError, UsageError
from rrrserve.api.admission import Admission, default_in_flight
from rrrserve.api.bodies import BodyMemory
from rrrserve.api.data_plane import DataPlane
from rrrserve.api.decoding import DecodePool
from rrrserve.api.keep_unsure import UnsureImages
from rrrserve.api.prediction import Backend
from rrrserve.api.routes import Routes
from rrrserve.api.routing import Routing
from rrrserve.api.shadow import Shadow
from rrrserve.api.shedding import Shedding
from rrrserve.config.service_config import ServiceConfig
from rrrserve.metrics import instruments, multiprocess
from rrrserve.metrics.supervision import SupervisionCollector
from rrrserve.process.environment import variables
from rrrserve.stamps import environment
from rrrserve.state.shared_state import FIRST_VERSION, STATE, SharedState
from rrrserve.traces import export
from rrrserve.triton.breaker import TritonLink
from rrrserve.triton.calls import TritonError
from rrrserve.triton.keeper import TritonKeeper
from rrrserve.triton.others import watch_for_ever
from rrrserve.triton.readiness import Readiness
from rrrserve.triton.release import age_warning
from rrrserve.triton.server import TritonServer
from rrrserve.versions.catalogue import asked_by_default, backends_of, default_model
from rrrserve.versions.routing import RoutesFile
from rrrserve.versions.version import Version, read_version
from rrrserve.worker.following import keep_following

log = logging.getLogger("rrrserve")


class Life(Protocol):
    """What BentoML's start and end of a worker begin and end."""

    async def start(self) -> None:
        """Connect to Triton; returns before the models are loaded."""

    async def stop(self) -> None:
        """Close what was opened."""


class Answering:
    """What both lives have: the backend that the routes answer from, and the work beside the requests."""

    def __init__(self, config: ServiceConfig, routes: Routes) -> None:
        self._config = config
        self._routes = routes
        self.routing = Routing(config.routes)
        self._tasks: list[asyncio.Task[Any]] = []
        self._supervision = SupervisionCollector()
        routes.registry = multiprocess.registry_of(multiprocess.folder_in_use(), self._supervision)

    def begin(self, *work: Coroutine[Any, Any, None], tells: bool) -> None:
        """Make what every version shares, and begin work beside the requests.

        Args:
            work: never needs to end; cancelled by `end`.
            tells: whether this worker warns of what is the same for all of them: one of several does.
        """
        config = self._config
        self._pool = DecodePool(
            config.decode_threads, max_pixels=config.max_pixels, memory_bytes=config.decode_memory_bytes
        )
        self._http = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self._body_memory = BodyMemory(config.body_memory_bytes)
        folder = config.keep_unsure
        self._unsure = None if folder is None else UnsureImages(folder, share=1 / config.workers)
        # It is kept, and takes 0.2 s, which GET /v1/models shall not wait for: claims are compared with it.
        knowing_the_machine = asyncio.to_thread(environment.describe)
        for task in (*work, self._publish_build_info(tells), knowing_the_machine):
            self._tasks.append(asyncio.create_task(task))
        self._begin_tracing(tells)

    def _begin_tracing(self, tells: bool) -> None:
        """Have spans exported, where the environment asks for it; what cannot be is no reason not to serve."""
        try:
            self._routes.tracing = export.begin(variables())
        except UsageError as error:
            if tells:
                log.warning("no traces are recorded: %s", error)

    def open(self, version: Version, state: SharedState) -> None:
        """Connect to a version's Triton, and let new requests be answered by it."""
        client = TritonLink(version.triton_url, state)
        data_plane = DataPlane(
            version.repository,
            version.default,
            client,
            self._pool,
            state,
            quorum=self._config.quorum,
            abstain_above=self._config.abstain_above,
        )
        largest = max(model.max_batch_size for model in version.repository.models)
        self._supervision.state = state
        self._supervision.repository = version.repository.short_digest
        given = self._config.max_in_flight
        admission = Admission(state, given or default_in_flight(largest), of_each_triton=given is None)
        shadow = None
        if self._config.shadow is not None:
            compared = default_model(version.repository, self._config.shadow)
            shadow = Shadow(data_plane, compared, timeout_seconds=self._config.request_timeout_ms / 1000)
        self._routes.open(
            Backend(
                self._config,
                replace(version.repository, path=version.source),
                data_plane,
                Readiness(data_plane.models, client, state),
                version.triton_metrics_url or self._config.triton_metrics_url,
                self._http,
                admission,
                self._body_memory,
                Shedding(admission, enabled=self._config.shed),
                self._unsure,
                read_samples(version.repository),
                self.routing,
                shadow,
            )
        )

    @property
    def data_plane(self) -> DataPlane | None:
        """What requests are answered with now."""
        return self._routes.backend.data_plane if self._routes.backend else None

    async def end(self) -> None:
        """Close the connections; nothing is answered any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        backend, self._routes.backend = self._routes.backend, None
        if backend is not None:
            if backend.shadow is not None:
                await backend.shadow.stop()
            await backend.data_plane.client.close()
        await self._http.aclose()
        self._pool.close()
        if self._routes.tracing is not None:
            await self._routes.tracing.end()
        if self._unsure is not None:
            self._unsure.close()

    async def _publish_build_info(self, tells: bool) -> None:
        """Set the info metric once Triton can tell its version."""
        while (plane := self.data_plane) is not None:
            try:
                version = await plane.client.server_version(timeout_seconds=1.0)
            except TritonError:
                await asyncio.sleep(0.2)
                continue
            instruments.BUILD_INFO.labels(__version__, version, bentoml.__version__).set(1)
            if tells and (warning := age_warning(version)) is not None:
                log.warning("%s", warning)
            return


class Supervised:
    """Answers from the version that the supervisor names, and changes over when it names another."""

    def __init__(self, config: ServiceConfig, routes: Routes, folder: Path, slot: int) -> None:
        """Prepare.

        Args:
            config: of the service.
            routes: what answers.
            folder: the service's private folder.
            slot: this worker's number, from 1.
        """
        self._folder = folder
        self._slot = slot
        self._answering = Answering(config, routes)

    async def start(self) -> None:
        """See `Life`."""
        self._state = SharedState.open(self._folder / STATE, self._slot)
        self._routes = RoutesFile(self._folder)
        await self._follow_routes()
        followed = keep_following(self._follow), keep_following(self._follow_routes)
        self._answering.begin(*followed, tells=self._slot == 1)
        self._answer_from(self._state.use_current_version())

    def _answer_from(self, number: int) -> None:
        version = read_version(self._folder, number)
        names = [model.name for model in version.repository.models]
        self._answering.open(version, self._state.of_version(number, names))
        self._number = number

    async def _follow(self) -> None:
        """Change over to the version that is named now, and let go of the one before when nothing uses it."""
        self._state.use_version(self._number)
        number, before = self._state.service.version, self._answering.data_plane
        if number != self._number and before is not None:
            self._answer_from(number)
            await before.until_unused()
            await before.client.close()

    async def _follow_routes(self) -> None:
        """Choose models as `rrr promote` has it; beside `_follow`, which may wait for a long request."""
        if (changed := self._routes.changed()) is None:
            return
        before = self._answering.routing.routes
        self._answering.routing.use(list(changed.routes.values()))
        self._state.use_routing(changed.number)
        for name, route in changed.routes.items():
            if self._slot == 1 and route != before.get(name):  # one worker tells it for all
                log.warning("route %s: %s", name, route.told())

    async def stop(self) -> None:
        """See `Life`."""
        await self._answering.end()


class Alone:
    """Answers from one repository for good, and sees to Triton itself, unless one is given."""

    def __init__(self, config: ServiceConfig, routes: Routes) -> None:
        """Read the repository: a mistake is told before anything starts.

        Raises:
            RRRError: there is no such repository, or not with this default model.
        """
        self._config = config
        self._repository = read_repository(config.repository)
        self._default = asked_by_default(self._repository, config)
        self._answering = Answering(config, routes)
        self._triton: TritonServer | None = None

    async def start(self) -> None:
        """See `Life`."""
        if (folder := multiprocess.folder_in_use()) is not None:  # BentoML's workers are told apart by their pids
            multiprocess.forget_gauges_of_the_dead(folder)
        models = self._repository.models
        url, metrics_url = self._config.triton_url, self._config.triton_metrics_url
        state = SharedState.in_process([model.name for model in models])
        if url is None:
            self._triton = TritonServer(self._repository.path, backends_of(self._repository))
            work = self._keep(self._triton, state)
            url, metrics_url = self._triton.url, self._triton.metrics_url
        else:
            work = watch_for_ever(url, models, state)
        self._answering.begin(work, tells=True)
        path = self._repository.path
        self._answering.open(Version(FIRST_VERSION, self._repository, path, self._default, url, metrics_url), state)

    async def _keep(self, triton: TritonServer, state: SharedState) -> None:
        """Keep Triton running; when that is given up, end this worker: `bentoml serve` then starts both again."""
        timeout, most = self._config.start_timeout_seconds, self._config.most_restarts
        models = self._repository.models
        keeper = TritonKeeper(triton, models, state, most_restarts=most, start_timeout_seconds=timeout)
        try:
            await keeper.run()
        except CheckFailedError as error:
            log.critical("%s", error)
            os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self) -> None:
        """See `Life`."""
        await self._answering.end()
        if self._triton is not None:
            await self._triton.stop()
