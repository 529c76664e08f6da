"""Keep one Triton answering: start it, watch it, and put a new one in its place when it has died, frozen or lied."""

import asyncio
import logging
from collections.abc import Sequence

from rrrbuild.repository_document import ServedModel
from rrrnet.errors import CheckFailedError
from rrrserve.process.restarts import Restarts
from rrrserve.process.tasks import first
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.server import TritonServer
from rrrserve.triton.watch import Golden, TritonWatch

log = logging.getLogger("rrrserve")

_PAUSE_SECONDS = 0.5


class TritonKeeper:
    """Keeps a Triton of our own running.

    Args:
        triton: not started yet.
        models: what it serves.
        state: the breaker, the generation and the count of restarts are kept there.
        most_restarts: within two minutes.
        start_timeout_seconds: a new Triton whose models have not all answered by then is given up.
        giving_way: models whose processes get less of the processors than the others', once all have answered.
    """

    def __init__(
        self,
        triton: TritonServer,
        models: tuple[ServedModel, ...],
        state: SharedState,
        *,
        most_restarts: int,
        start_timeout_seconds: float,
        giving_way: Sequence[str] = (),
    ) -> None:
        self._triton = triton
        self._models = models
        self._state = state
        self._restarts = Restarts("Triton", most_restarts)
        self._start_timeout_seconds = start_timeout_seconds
        self._giving_way = giving_way
        self._golden: Golden = {}
        self._has_started = False
        self._was_well = False
        self._was_wrong = False

    async def run(self) -> None:
        """Never returns; the caller cancels it, then stops the Triton.

        Raises:
            CheckFailedError: a model cannot be loaded or never gave a usable answer, or Triton died too often.
            OSError: it could not be started even once.
        """
        while True:
            try:
                reason, well_seconds = await self._live()
            except OSError as error:  # no memory, no file descriptor, a full disk: it may pass
                if not self._has_started:
                    raise
                reason, well_seconds = f"it cannot be started: {error}", 0.0
            self._was_well |= well_seconds > 0
            if not self._was_well and (self._was_wrong or self._triton.has_unusable_model()):
                raise CheckFailedError(reason)
            pause, which = self._restarts.next_pause(reason, well_seconds=well_seconds)
            when = f"in {pause:.0f} s" if pause else "now"
            log.error("Triton is started again %s (try %s): %s", when, which, reason)
            try:
                await self._triton.stop(at_once=True)
            except OSError as error:  # its process has ended; some of its files may be left
                log.error("not all that Triton left could be removed: %s", error)
            await asyncio.sleep(pause)
            self._state.service.restarts_triton += 1

    async def _live(self) -> tuple[str, float]:
        """One life of the Triton: why it ended, and for how long its models had answered."""
        await self._triton.start()
        self._has_started = True
        watch = TritonWatch(self._triton.url, self._models, self._state, self._golden, self._triton.model_processes)

        async def until_ended() -> str:
            return str(self._triton.failure(await self._triton.wait()))

        async def until_late() -> str:
            await asyncio.sleep(self._start_timeout_seconds)
            if watch.well_since is not None:
                await asyncio.Event().wait()
            return f"its models did not answer within {self._start_timeout_seconds:.0f} s"

        lowering = [self._lower(watch)] if self._giving_way else []
        reason = await first(until_ended(), watch.run(), until_late(), *lowering)
        self._was_wrong = watch.answered_wrongly
        return reason, watch.well_seconds

    async def _lower(self, watch: TritonWatch) -> None:
        """Lower the priority of some models when all threads are there that answer; never returns."""
        while True:
            if watch.well_since is not None:
                self._triton.give_way(self._giving_way)
                await asyncio.Event().wait()
            await asyncio.sleep(_PAUSE_SECONDS)
