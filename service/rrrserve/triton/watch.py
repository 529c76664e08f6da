"""Watch a running Triton by what it does: whether it answers at all, and whether its models answer, and rightly.

Triton's own readiness is of no use here: it stays green when the process behind a model is dead.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import psutil

from rrrbuild.repository_document import ServedModel
from rrrserve.process.tasks import first
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.calls import TritonError
from rrrserve.triton.client import TritonClient

log = logging.getLogger("rrrserve")

# Between two looks at the processes of the models, and between two tries while Triton is starting.
_LOOK_SECONDS = 0.2
# Triton is asked whether it lives; it answers within milliseconds, however busy its models are.
_LIVE_SECONDS = 0.5
_LIVE_TIMEOUT_SECONDS = 1.0
# Silent for this long: nothing is sent to it any more. And for this long: it is replaced.
BREAKER_SECONDS = 2.0
FROZEN_SECONDS = 6.0
# A model is asked for a known answer this often, or more seldom, so that it costs no more than that share of the time.
_PROBE_SECONDS = 2.0
_PROBE_SHARE = 0.005
# A model without any answer for this long, to anyone, is stuck. A slow one may take longer for its largest batch: so
# many times what its images would take one by one.
STUCK_SECONDS = 10.0
_STUCK_BATCHES = 3.0
_MOST_STUCK_SECONDS = 60.0  # the longest deadline, unless the settings say otherwise
# How far a probability may be from the first answer to the same image: rounding in bfloat16, in batches of other sizes.
GOLDEN_TOLERANCE = 0.05
_MOST_WRONG = 2

Golden = dict[str, npt.NDArray[np.float32]]


class _FailedError(Exception):
    """Triton must be replaced; the message tells why."""


class TritonWatch:
    """Watches one life of a Triton and keeps the shared state's circuit breaker.

    Args:
        url: HOST:PORT of its gRPC.
        models: what it serves.
        state: written here.
        golden: each model's first answer to its probe; filled in here, and kept from one life to the next.
        processes: the processes that Triton's models run in; for a Triton of someone else's, none.
        alone: whether nothing can be answered without it; else who has several tells of each that falls silent.
    """

    def __init__(
        self,
        url: str,
        models: tuple[ServedModel, ...],
        state: SharedState,
        golden: Golden,
        processes: Callable[[], list[psutil.Process]] = list,
        *,
        alone: bool = True,
    ) -> None:
        self._client = TritonClient(url)
        self._models = models
        self._state = state
        self._golden = golden
        self._processes = processes
        self._alone = alone
        self._quickest_seconds: dict[str, float] = {}
        self._probes: Mapping[str, npt.NDArray[np.uint8]] = {model.name: probe_image(model) for model in models}
        self.well_since: float | None = None
        self.answered_wrongly = False

    @property
    def well_seconds(self) -> float:
        """For how long all models have answered; 0 if they never have."""
        return 0.0 if self.well_since is None else time.monotonic() - self.well_since

    async def run(self) -> str:
        """Watch until something is wrong that only a new Triton can mend; returns what it is."""
        try:
            await self._until_live()
            await first(self._look_for_silence(), self._ask_models())
        except _FailedError as failure:
            return str(failure)
        else:
            raise RuntimeError("a watcher ended without a failure")
        finally:
            self._state.triton.up = False
            self._state.forget_answers()
            await self._client.close()

    async def _until_live(self) -> None:
        while True:
            if await self._lives():
                break
            await asyncio.sleep(_LOOK_SECONDS)
        self._state.triton.generation += 1
        self._state.triton.up = True

    async def _lives(self) -> bool:
        try:
            await self._client.server_version(timeout_seconds=_LIVE_TIMEOUT_SECONDS)
        except TritonError:
            return False
        return True

    async def _look_for_silence(self) -> None:
        """Open the circuit breaker when Triton itself does not answer, and close it when it does again."""
        silent = 0.0
        while True:
            await asyncio.sleep(_LIVE_SECONDS)
            if await self._lives():
                silent = 0.0
                if not self._state.triton.up:
                    self._state.triton.up = True
                    if self._alone:
                        log.warning("Triton answers again")
                continue
            # Counted in questions, not by the clock: this process may have stood still itself, with its machine.
            silent += _LIVE_SECONDS + _LIVE_TIMEOUT_SECONDS
            if silent >= FROZEN_SECONDS:
                raise _FailedError(f"it has not answered for {silent:.0f} s")
            if silent >= BREAKER_SECONDS and self._state.triton.up:
                self._state.triton.up = False
                if self._alone:
                    log.error("Triton has not answered for %.0f s: requests are refused until it does", silent)

    async def _ask_models(self) -> None:
        for model in self._models:
            while True:
                if await self._probe(model):
                    break
                await asyncio.sleep(_LOOK_SECONDS)
        self.well_since = time.monotonic()
        await first(self._look_at_processes(), *(self._ask(model) for model in self._models))

    async def _look_at_processes(self) -> None:
        """A model's process that has died is never started again by Triton."""
        processes = self._processes()
        while True:
            for process in processes:
                if not _runs(process):
                    raise _FailedError(f"the process of a model has died (pid {process.pid})")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ask(self, model: ServedModel) -> None:
        """Ask one model from time to time; answers to clients show as well that it lives, but not that it is right."""
        pause, failures = _PROBE_SECONDS, 0
        while True:
            await asyncio.sleep(pause)
            if await self._probe(model):
                # What it costs is what the model takes alone: under load it mostly waits, and must not be seldom then.
                pause, failures = max(_PROBE_SECONDS, self._quickest_seconds[model.name] / _PROBE_SHARE), 0
                continue
            self._state.note_failure(model.name)
            pause, failures = _LOOK_SECONDS, failures + 1
            limit = self._stuck_seconds(model)
            stuck = failures > 1 and self._state.since_answer(model.name) >= limit
            if stuck and self._state.triton.up:
                raise _FailedError(f"the model {model.name} has not answered for {limit:.0f} s")

    def _stuck_seconds(self, model: ServedModel) -> float:
        one_by_one = model.max_batch_size * self._quickest_seconds.get(model.name, 0.0)
        return min(max(STUCK_SECONDS, _STUCK_BATCHES * one_by_one), _MOST_STUCK_SECONDS)

    async def _probe(self, model: ServedModel) -> bool:
        """Whether a model answers its probe, and as it did the first time.

        Raises:
            _FailedError: it answers wrongly, again and again.
        """
        limit = self._stuck_seconds(model)
        timeout = limit if self.well_since is None else limit / 2
        for wrong in range(1, _MOST_WRONG + 1):
            start = time.monotonic()
            try:
                answer = await self._client.infer(model, [self._probes[model.name]], timeout_seconds=timeout)
            except TritonError as error:
                if error.code != "bad_model_output":
                    return False
                fault = str(error)
            else:
                found = answer.probabilities[0]
                golden = self._golden.get(model.name, found)
                # NaN are members that were left out, which metrics tell of; what they say once they answer is kept.
                self._golden[model.name] = np.where(np.isnan(golden), found, golden)
                difference = apart(found, golden)
                if difference <= GOLDEN_TOLERANCE:
                    seconds = time.monotonic() - start
                    self._quickest_seconds[model.name] = min(seconds, self._quickest_seconds.get(model.name, seconds))
                    self._state.note_answer(model.name)
                    return True
                fault = (
                    f"model {model.name} answers the same image otherwise than at first: probabilities differ by "
                    f"{difference:.3f}, allowed are {GOLDEN_TOLERANCE}"
                )
            if wrong == _MOST_WRONG:
                self.answered_wrongly = True
                raise _FailedError(fault)
            log.error("%s", fault)
        return False


def apart(found: npt.NDArray[np.float32], golden: npt.NDArray[np.float32]) -> float:
    """How far two answers to the same image are from one another at most; members missing from one do not count."""
    return float(np.nan_to_num(np.abs(found - golden)).max())


def probe_image(model: ServedModel) -> npt.NDArray[np.uint8]:
    """The image that a model is asked about: noise, shape (S, S, 3), always the same."""
    size = model.image_size
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
