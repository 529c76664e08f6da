"""Calls an engine in this process, one call at a time, as a server's instance does: whoever comes meanwhile waits."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrserve.bench.clients.client import AnsweredBy, RequestFailedError


class EngineClient:
    """A thread of its own calls the engine, so that an open loop's requests come in time and queue."""

    def __init__(
        self,
        engine: Callable[[npt.NDArray[np.uint8]], Any],
        batches: Sequence[npt.NDArray[np.uint8]],
        *,
        effort: str | None = None,
    ) -> None:
        """Take an engine.

        Args:
            engine: called with one batch at a time.
            batches: shape (N, S, S, 3) each, given in turns.
            effort: that it is called with, to count its images by; None for an engine that always asks all members.
        """
        self._engine = engine
        self._batches = batches
        self._effort = effort
        self.answered_by: Counter[AnsweredBy] = Counter()
        self._thread = ThreadPoolExecutor(1, "engine")

    async def ask(self, ticket: int) -> float:
        """See `Client.ask`. Counts from when the call was asked for, so its wait for the calls before it is in."""
        batch = self._batches[ticket % len(self._batches)]
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, batch)
        except Exception as error:  # each runtime raises its own types
            raise RequestFailedError(type(error).__name__, answered=True) from error

    def _call(self, batch: npt.NDArray[np.uint8]) -> float:
        found = self._engine(batch)
        finished = time.perf_counter()
        if self._effort is not None:  # rows of members that were not asked are NaN
            used = np.isfinite(found[:, :, 0]).sum(axis=1).tolist()
            self.answered_by.update(AnsweredBy(self._effort, count, found.shape[1]) for count in used)
        return finished

    async def close(self) -> None:
        """See `Client.close`. A call that has begun ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)
