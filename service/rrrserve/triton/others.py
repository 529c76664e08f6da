"""Watch Tritons that somebody else runs, one or several: none is started again here, but what is down is told."""

import asyncio
import itertools
import logging

from rrrbuild.repository_document import ServedModel
from rrrserve.net.targets import addresses_of, is_several
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.watch import GOLDEN_TOLERANCE, Golden, TritonWatch, apart

log = logging.getLogger("rrrserve")

_PAUSE_SECONDS = 0.5
_TICK_SECONDS = 0.2
_LOOK_UP_SECONDS = 5.0


async def watch_for_ever(target: str, models: tuple[ServedModel, ...], state: SharedState) -> None:
    """Keep the circuit breaker of a Triton, or of several, that may be restarted, maybe with other weights.

    Args:
        target: see `rrrserve.net.targets`.
        models: what is served.
        state: written here.
    """
    if is_several(target):
        await SeveralTritons(target, models, state).run()
    while True:
        reason = await TritonWatch(target, models, state, {}).run()
        log.error("Triton at %s: %s", target, reason)
        await asyncio.sleep(_PAUSE_SECONDS)


class OneOfSeveral:
    """One address, with a state and first answers of its own.

    Attributes:
        address: IP:PORT.
        state: what its watch alone has seen.
        golden: see `TritonWatch`; of its present life.
    """

    def __init__(self, address: str, models: tuple[ServedModel, ...]) -> None:
        self.address = address
        self.state = SharedState.in_process([model.name for model in models])
        self.state.triton.up = False
        self.golden: Golden = {}
        self._models = models

    async def watch(self) -> None:
        """Never returns."""
        while True:
            reason = await TritonWatch(self.address, self._models, self.state, self.golden, alone=False).run()
            log.error("Triton at %s: %s", self.address, reason)
            self.golden.clear()
            await asyncio.sleep(_PAUSE_SECONDS)

    @property
    def answers(self) -> bool:
        """Whether it lives, and each model answered when it was last asked."""
        return bool(self.state.triton.up) and all(self.state.answers(name) for name in self.state.models)


class SeveralTritons:
    """Watches each by itself: the service is up while one lives. Which one a request goes to is gRPC's to say.

    Args:
        target: a list of addresses, or a name, which is looked up again and again.
        models: what each of them serves.
        state: written here.
    """

    def __init__(self, target: str, models: tuple[ServedModel, ...], state: SharedState) -> None:
        self._target = target
        self._state = state
        self._models = models
        self._tritons: dict[str, tuple[OneOfSeveral, asyncio.Task[None]]] = {}
        self._silent: list[str] = []
        self._differing: set[tuple[str, str, str]] = set()
        self._unknown = ""

    async def run(self) -> None:
        """Never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._put_together())
            while True:
                await self._look_up(group)
                await asyncio.sleep(_LOOK_UP_SECONDS)

    async def _look_up(self, group: asyncio.TaskGroup) -> None:
        """Watch the addresses that there are now; workers connect anew, and so find them, when they have changed."""
        try:
            now = await addresses_of(self._target)
        except OSError as error:  # gRPC goes on with the addresses that it has, and so do we
            if self._unknown != str(error):
                log.error("%s cannot be looked up: %s", self._target, error)
            self._unknown = str(error)
            return
        self._unknown = ""
        known = set(self._tritons)
        for address in known - now:
            self._tritons.pop(address)[1].cancel()
        for address in sorted(now - known):
            one = OneOfSeveral(address, self._models)
            self._tritons[address] = one, group.create_task(one.watch())
        if now != known:
            self._silent = sorted({*self._silent, *(now - known)} & now)  # new ones are told of when others answer
            self._state.triton.known = len(now)
            self._state.triton.generation += 1

    async def _put_together(self) -> None:
        while True:
            tritons = [one for one, _ in self._tritons.values()]
            answering = [one for one in tritons if one.answers]
            self._state.take_over([one.state for one in tritons])
            self._state.triton.answering = len(answering)
            self._state.triton.up = any(one.state.triton.up for one in tritons)
            self._tell(answering)
            self._compare(answering)
            await asyncio.sleep(_TICK_SECONDS)

    def _tell(self, answering: list[OneOfSeveral]) -> None:
        """Log who does not answer, when that changes."""
        silent = sorted(self._tritons.keys() - {one.address for one in answering})
        if silent != self._silent:
            told = f"; silent: {', '.join(silent)}" if silent else ""
            log.warning("%d of %d Tritons answer%s", len(answering), len(self._tritons), told)
        self._silent = silent

    def _compare(self, answering: list[OneOfSeveral]) -> None:
        """Log which of them answer the same image differently, once: they serve different repositories."""
        for model, (one, other) in itertools.product(self._models, itertools.pairwise(answering)):
            difference = apart(one.golden[model.name], other.golden[model.name])
            found = (model.name, one.address, other.address)
            if difference > GOLDEN_TOLERANCE and found not in self._differing:
                self._differing.add(found)
                log.error(
                    "the Tritons at %s and %s answer the same image differently as model %s (probabilities differ by "
                    "%.3f): let both serve the repository that rrr serve is given",
                    *(one.address, other.address, model.name, difference),
                )
