"""Ready means: every model of the repository has answered a real inference within the last second.

Whoever asked counts: a client, the supervisor, or a probe at another worker.
"""

import asyncio
import time
from collections.abc import Mapping

from rrrbuild.repository_document import ServedModel
from rrrserve.state.shared_state import SharedState
from rrrserve.triton.breaker import TritonLink
from rrrserve.triton.calls import TritonError
from rrrserve.triton.watch import probe_image

FRESH_SECONDS = 1.0
_PROBE_TIMEOUT_SECONDS = 5.0


class Readiness:
    """Asks models that have not answered lately; many probes at once cause one inference.

    Triton's own readiness is not asked: it stays green when the process behind a model is dead.
    """

    def __init__(self, models: Mapping[str, ServedModel], client: TritonLink, state: SharedState) -> None:
        self._models = models
        self._client = client
        self._state = state
        self._lock = asyncio.Lock()
        self._failed_at = float("-inf")
        self._failure: str | None = None

    async def check(self) -> str | None:
        """None when ready; else what is wrong, with the name of the model."""
        state = self._state
        if state.draining:
            return "the service is stopping"
        if not state.triton.up:
            known = state.triton.known
            return f"none of {known} Tritons answers" if known else "Triton does not answer"
        if not self._stale():
            return None
        async with self._lock:
            if time.monotonic() - self._failed_at <= FRESH_SECONDS:
                return self._failure
            for name in self._stale():
                model = self._models[name]
                try:
                    await self._client.infer(model, [probe_image(model)], timeout_seconds=_PROBE_TIMEOUT_SECONDS)
                except TritonError as error:
                    bad = error.code == "bad_model_output"
                    self._failure = f"the model {name} {'gives unusable answers' if bad else 'does not answer'}"
                    self._failed_at = time.monotonic()
                    return self._failure
        return None

    def _stale(self) -> list[str]:
        """Models without an answer in the last second."""
        return [name for name in self._models if self._state.since_answer(name) > FRESH_SECONDS]
