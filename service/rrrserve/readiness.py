"""Ready means: every model of the repository has answered a real inference within the last second."""

import asyncio
import time

import numpy as np

from rrrserve.data_plane import DataPlane
from rrrserve.triton_client import TritonError

FRESH_SECONDS = 1.0
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

    async def check(self) -> str | None:
        """None when ready; else what is wrong, with the name of the model."""
        if not self._stale():
            return None
        async with self._lock:
            if time.monotonic() - self._failed_at <= FRESH_SECONDS:
                return self._failure
            for name in self._stale():
                model = self._data_plane.models[name]
                size = model.image_size
                try:
                    await self._data_plane.client.infer(
                        model, [np.zeros((size, size, 3), np.uint8)], timeout_seconds=_PROBE_TIMEOUT_SECONDS
                    )
                except TritonError as error:
                    bad = error.code == "bad_model_output"
                    self._failure = f"the model {name} {'gives unusable answers' if bad else 'does not answer'}"
                    self._failed_at = time.monotonic()
                    return self._failure
                self._data_plane.answered[name] = time.monotonic()
        return None

    def _stale(self) -> list[str]:
        """Models without an answer in the last second."""
        oldest = time.monotonic() - FRESH_SECONDS
        answered = self._data_plane.answered
        return [name for name in self._data_plane.models if answered.get(name, float("-inf")) < oldest]
