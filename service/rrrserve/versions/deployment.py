"""One version of the repository that is served, or about to be: its private copy, and the Triton that runs it."""

import asyncio
from pathlib import Path

from rrrbuild.repository_document import Repository
from rrrbuild.serving_check import check_engines
from rrrnet.errors import CheckFailedError
from rrrserve.config.service_config import ServiceConfig
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.keeper import TritonKeeper
from rrrserve.triton.others import watch_for_ever
from rrrserve.triton.server import TritonServer
from rrrserve.versions.catalogue import answering, asked_by_default, backends_of
from rrrserve.versions.version import Version, copy_repository, remove_version, version_folder, write_version

_POLL_SECONDS = 0.1


class Deployment:
    """A version and its Triton.

    Attributes:
        version: what the workers are told about it.
        triton: None where somebody else runs it.
    """

    def __init__(self, service: Path, number: int, source: Repository, config: ServiceConfig) -> None:
        """Copy the repository and look for what is needed to run it; nothing is started.

        Args:
            service: the service's private folder.
            number: the version's.
            source: has been checked.
            config: how to serve.

        Raises:
            UsageError: the repository lacks a model that the settings name.
            ArtifactError: the source was changed since it was checked, or holds what is no engine.
            IncompatibleError: an engine in it cannot run here, or there is no usable tritonserver.
            NoSpaceError: there is no room for the copy.
        """
        default = asked_by_default(source, config)
        self._service = service
        self._config = config
        self.triton: TritonServer | None = None
        try:
            copy = copy_repository(source, version_folder(service, number), with_engines=config.triton_url is None)
            if config.triton_url is None:
                check_engines(copy)
                self.triton = TritonServer(copy.path, backends_of(copy))
            url = self.triton.url if self.triton else config.triton_url or ""
            metrics_url = self.triton.metrics_url if self.triton else None
            self.version = Version(number, copy, source.path, default, url, metrics_url)
            write_version(service, self.version)
        except BaseException:
            remove_version(service, number)
            raise

    async def keep(self, state: SharedState) -> None:
        """Keep its Triton running, or watch someone else's; never returns.

        Args:
            state: of this version.

        Raises:
            CheckFailedError: a model cannot be loaded, or Triton died too often.
        """
        models = self.version.repository.models
        if self.triton is None:
            await watch_for_ever(self.version.triton_url, models, state)
            return
        timeout, most = self._config.start_timeout_seconds, self._config.most_restarts
        shadows = {self._config.shadow} - answering(self._config, self.version.default)
        giving_way = [name for model in models if model.name in shadows for name in (model.name, *model.steps)]
        keeper = TritonKeeper(
            *(self.triton, models, state),
            most_restarts=most,
            start_timeout_seconds=timeout,
            giving_way=giving_way,
        )
        try:
            await keeper.run()
        except CheckFailedError as error:  # Triton names files of the copy, which nobody knows
            message = str(error).replace(str(self.version.repository.path), str(self.version.source))
            raise CheckFailedError(message) from error

    async def until_answered(self, state: SharedState) -> None:
        """Wait until every model has answered a real inference.

        Raises:
            CheckFailedError: one has not in time.
        """
        names = [model.name for model in self.version.repository.models]
        try:
            async with asyncio.timeout(self._config.start_timeout_seconds):
                while True:
                    if state.triton.up and all(state.since_answer(name) < float("inf") for name in names):
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            silent = [name for name in names if state.since_answer(name) == float("inf")]
            raise CheckFailedError(
                f"{', '.join(silent) or 'Triton'} did not answer within {self._config.start_timeout_seconds} s; "
                "start rrr serve with a longer --start-timeout if the models need longer to load"
            ) from error

    async def stop(self, *, at_once: bool = False) -> None:
        """End its Triton, which finishes what it has, and remove the copy."""
        if self.triton is not None:
            await self.triton.stop(at_once=at_once)
        remove_version(self._service, self.version.number)
