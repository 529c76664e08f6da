"""Ready means: every model of the repository has answered a real inference within the last second."""

import asyncio
import time

import numpy as np

from rrrserve.data_plane import DataPlane
from rrrserve.triton_client import TritonError

FRESH_SECONDS = 1.0
# For models that nobody asks. A probe costs as much as a request: more of them would show in other models' times.
WATCH_SECONDS = 10.0
_PROBE_TIMEOUT_SECONDS = 5.0


class Readiness:
    """Asks models that have not answered lately; many probes at once cause one inference.

    Triton's own readiness is not asked: it stays green when the process behind a model is dead.
    """

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane
        self._lock = asyncio.Lock()
        self._failed_at = float("-inf")
        self._failure: str | None = None

    async def watch(self) -> None:
        """Ask, for ever, models that nobody has asked for a while: `rrr_model_ready` then tells the present."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for name in self._stale(WATCH_SECONDS):
                await self._probe(name)

    async def check(self) -> str | None:
        """None when ready; else what is wrong, with the name of the model."""
        if not self._stale(FRESH_SECONDS):
            return None
        async with self._lock:
            if time.monotonic() - self._failed_at <= FRESH_SECONDS:
                return self._failure
            for name in self._stale(FRESH_SECONDS):
                failure = await self._probe(name)
                if failure is not None:
                    self._failure = failure
                    self._failed_at = time.monotonic()
                    return failure
        return None

    async def _probe(self, name: str) -> str | None:
        """Ask a model about a black image; None when it answers."""
        model = self._data_plane.models[name]
        image = np.zeros((model.image_size, model.image_size, 3), np.uint8)
        try:
            await self._data_plane.ask(model, [image], timeout_seconds=_PROBE_TIMEOUT_SECONDS)
        except TritonError as error:
            self._data_plane.unready(model)
            bad = error.code == "bad_model_output"
            return f"the model {name} {'gives unusable answers' if bad else 'does not answer'}"
        return None

    def _stale(self, seconds: float) -> list[str]:
        """Models without an answer in the last `seconds`."""
        oldest = time.monotonic() - seconds
        answered = self._data_plane.answered
        return [name for name in self._data_plane.models if answered.get(name, float("-inf")) < oldest]
