"""The version that is served, and how another takes its place without a request being lost.

A reload reads the repository anew, starts a second Triton with it, waits until all its models have answered, and only
then lets the workers answer from it. Whatever is wrong with the new version, the old one has served all the time.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from rrrbuild.repository_document import Repository, read_repository
from rrrnet.errors import CheckFailedError, RRRError
from rrrserve.config.service_config import ServiceConfig
from rrrserve.process.tasks import ended, first
from rrrserve.state.shared_state import FIRST_VERSION, STATE, SharedState
from rrrserve.versions.deployment import Deployment
from rrrserve.versions.routing import Routes, write_routes
from rrrserve.versions.running_services import RUNNING, Reload, write_reload

log = logging.getLogger("rrrserve")

Made = TypeVar("Made")
Given = ParamSpec("Given")
_POLL_SECONDS = 0.05
# Beyond the longest time that a request may take: workers end with the old version before that.
_MARGIN_SECONDS = 5.0


class Deployments:
    """Keeps the Triton of the current version running, and puts new versions in its place.

    Attributes:
        current: what is served.
    """

    def __init__(self, service: Path, repository: Repository, config: ServiceConfig) -> None:
        """Prepare the first version; nothing is started.

        Args:
            service: the service's private folder.
            repository: has been checked; its folder is what a reload reads.
            config: how to serve.

        Raises:
            RRRError: see `Deployment`.
        """
        self._service = service
        self._source = repository.path
        self._config = config
        self.current = Deployment(service, FIRST_VERSION, repository, config)
        write_routes(service, Routes(1, {route.name: route for route in config.routes}))
        names = [model.name for model in self.current.version.repository.models]
        self.state = SharedState.create(service / STATE, names, config.workers)
        self.state.service.version = FIRST_VERSION
        self._keeping: asyncio.Task[None] | None = None
        self._keepers: set[asyncio.Task[None]] = set()  # the current version's, and that of one that comes or goes
        self._candidate: Deployment | None = None
        self._wanted = asyncio.Event()
        self._number = FIRST_VERSION
        self._reloads = 0

    def reload(self) -> None:
        """Ask for a reload; one that is asked for during another follows it."""
        self._wanted.set()

    async def run(self) -> None:
        """Never returns; the caller cancels it, then calls `stop`.

        Raises:
            CheckFailedError: the Triton of the current version was given up.
        """
        self._keeping = self._keep(self.current, self.state)
        try:
            while True:
                await first(self._keeping, self._wanted.wait())
                self._wanted.clear()
                await self._reload()
        finally:
            await ended(*self._keepers)

    def _keep(self, deployment: Deployment, state: SharedState) -> asyncio.Task[None]:
        """Begin to keep a version's Triton running; whatever becomes of a reload, `run` ends no earlier than that."""
        keeper = asyncio.create_task(deployment.keep(state))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)
        return keeper

    async def _reload(self) -> None:
        """One reload from beginning to end; its outcome is logged, counted and written down."""
        self._reloads += 1
        started = time.monotonic()
        before = self.current.version.repository
        self._write_down(Reload(self._reloads, RUNNING))
        try:
            outcome = "switched" if await self._replaced() else "unchanged"
        except (RRRError, OSError) as error:
            outcome, message = "refused", f"{error}; {before.short_digest} is still served"
            log.error("reload refused: %s", message)
        except Exception:  # a fault of ours in a new version must not end the service, which has a good one
            outcome, message = "refused", f"a fault of the service, see its log; {before.short_digest} is still served"
            log.exception("reload failed")
        else:
            now = self.current.version.repository.short_digest
            message = f"{now} is served now, {before.short_digest} no more"
            if outcome == "unchanged":
                message = f"{self._source} still holds {now}, which is being served"
            log.warning("reload: %s", message)
        counted = f"reloads_{outcome}"
        setattr(self.state.service, counted, getattr(self.state.service, counted) + 1)
        digest, seconds = self.current.version.repository.digest, time.monotonic() - started
        self._write_down(Reload(self._reloads, outcome, message, digest, seconds))

    def _write_down(self, reload: Reload) -> None:
        """Tell `rrr reload`; a disk that is full must not end a service that needs nothing of it."""
        try:
            write_reload(self._service, reload)
        except (RRRError, OSError) as error:
            log.error("rrr reload cannot be told that reload %d is %s: %s", reload.number, reload.outcome, error)

    async def _replaced(self) -> bool:
        """Whether there was something new, which is then served.

        Raises:
            RRRError: it cannot be served.
        """
        if self._config.triton_url is not None:
            raise CheckFailedError("Triton is not ours (--triton-url), so it cannot be given another repository")
        source = await _in_thread(read_repository, self._source)
        if source.digest == self.current.version.repository.digest:
            return False
        self._number += 1
        candidate = await _in_thread(Deployment, self._service, self._number, source, self._config)
        self._candidate = candidate
        keeping: asyncio.Task[None] | None = None
        try:
            state = self.state.new_version(self._number, [model.name for model in source.models])
            keeping = self._keep(candidate, state)
            await first(keeping, candidate.until_answered(state))
        except BaseException:
            if keeping is not None:
                await ended(keeping)
            await candidate.stop(at_once=True)
            self._candidate = None
            self.state.forget_version(self._number)
            raise
        await self._switch(candidate, state, keeping)
        return True

    async def _switch(self, candidate: Deployment, state: SharedState, keeping: asyncio.Task[None]) -> None:
        """Let the workers answer from the candidate, wait until they are done with the version before, and end that."""
        old, old_keeping = self.current, self._keeping
        self.current, self._candidate, self._keeping, self.state = candidate, old, keeping, state
        try:
            state.service.version = candidate.version.number
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.max_request_timeout_ms / 1000 + _MARGIN_SECONDS):
                    while True:
                        if state.versions_in_use() <= {candidate.version.number}:
                            break
                        await asyncio.sleep(_POLL_SECONDS)
        finally:  # also where the service is stopped meanwhile: a keeper would start again what `stop` ends
            if old_keeping is not None:
                await ended(old_keeping)
        await old.stop()
        self._candidate = None
        state.forget_version(old.version.number)

    def kill(self) -> None:
        """End every Triton at once, for good."""
        for keeper in self._keepers:
            keeper.cancel()  # before its Triton dies, which it would start again
        for deployment in (self.current, self._candidate):
            if deployment is not None and deployment.triton is not None:
                deployment.triton.kill()

    async def stop(self, *, at_once: bool) -> None:
        """End every Triton."""
        for deployment in (self.current, self._candidate):
            if deployment is not None:
                await deployment.stop(at_once=at_once)


async def _in_thread(function: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Made:
    """Run `function` in a thread; who is cancelled meanwhile waits for its end, and knows what it has written."""
    work = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
