"""A worker's way to a Triton that may be replaced: refuses at once while it is down, connects anew to each new one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rrrbuild.repository_document import ServedModel
from rrrserve.shared_state import SharedState
from rrrserve.triton_client import Inference, TritonClient, TritonError


class TritonLink:
    """The same calls as `TritonClient`, with the circuit breaker of the shared state in front.

    Make it inside a running event loop.
    """

    def __init__(self, url: str, state: SharedState) -> None:
        self._url = url
        self._state = state
        self._generation = state.generation
        self._client = TritonClient(url)

    async def infer(
        self, model: ServedModel, images: Sequence[npt.NDArray[np.uint8]], *, timeout_seconds: float
    ) -> Inference:
        """See `TritonClient.infer`. Whether it answered is noted in the shared state.

        Raises:
            TritonError: as there, and at once while Triton is down.
        """
        client = await self._connected()
        try:
            result = await client.infer(model, images, timeout_seconds=timeout_seconds)
        except TritonError as error:
            if error.code != "deadline_exceeded":  # that may be the client's own, and too short
                self._state.note_failure(model.name)
            raise
        self._state.note_answer(model.name)
        return result

    async def server_version(self, *, timeout_seconds: float) -> str:
        """See `TritonClient.server_version`.

        Raises:
            TritonError: as there, and at once while Triton is down.
        """
        client = await self._connected()
        return await client.server_version(timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def _connected(self) -> TritonClient:
        if not self._state.triton_up:
            raise TritonError("backend_unavailable", "Triton is down, and nothing is sent to it")
        generation = self._state.generation
        if generation != self._generation:
            # A connection to the one before would wait before it tries again.
            old, self._client, self._generation = self._client, TritonClient(self._url), generation
            await old.close()
        return self._client
