"""A worker's way to a Triton that may be replaced: refuses at once while it is down, connects anew to each new one."""

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rrrbuild.cascade_runner import FULL
from rrrbuild.repository_document import ServedModel
from rrrserve.state.shared_state import SharedState
from rrrserve.traces.context import Fields
from rrrserve.triton.calls import TritonError
from rrrserve.triton.client import Inference, TritonClient

_MARGIN_SECONDS = 1.0  # a call should meet its deadline, not the closing of its connection


class TritonLink:
    """The same calls as `TritonClient`, with the circuit breaker of the shared state in front.

    Make it inside a running event loop.
    """

    def __init__(self, url: str, state: SharedState) -> None:
        self._url = url
        self._state = state
        self._generation = state.triton.generation
        self._client = TritonClient(url, state.add)
        self._busy_until = 0.0  # on the event loop's clock: when the last of the calls so far has its answer or none
        self._retired: dict[TritonClient, asyncio.Task[None]] = {}

    async def infer(
        self,
        model: ServedModel,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        timeout_seconds: float,
        effort: str = FULL,
        quorum: int | None = None,
        trace: Fields | None = None,
        embed: bool = False,
    ) -> Inference:
        """See `TritonClient.infer`. Whether it answered is noted in the shared state.

        Raises:
            TritonError: as there, and at once while Triton is down.
        """
        client = self._connected(timeout_seconds)
        try:
            result = await client.infer(
                model, images, timeout_seconds=timeout_seconds, effort=effort, quorum=quorum, trace=trace, embed=embed
            )
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
        client = self._connected(timeout_seconds)
        return await client.server_version(timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """Close the connection; calls that are under way are given up."""
        retired, self._retired = self._retired, {}
        for client, task in retired.items():
            task.cancel()
            await client.close()
        await self._client.close()

    def _connected(self, timeout_seconds: float) -> TritonClient:
        """The connection for a call that takes at most so long."""
        if not self._state.triton.up:
            raise TritonError("backend_unavailable", "Triton is down, and nothing is sent to it")
        now = asyncio.get_running_loop().time()
        generation = self._state.triton.generation
        if generation != self._generation:
            # A connection to the one before would wait before it tries again.
            old, self._client, self._generation = self._client, TritonClient(self._url, self._state.add), generation
            self._retire(old, self._busy_until - now)
        self._busy_until = max(self._busy_until, now + timeout_seconds)
        return self._client

    def _retire(self, client: TritonClient, grace_seconds: float) -> None:
        """Close a connection once its calls have ended: the Triton at its other end may only have been frozen."""
        self._retired[client] = task = asyncio.create_task(client.close(max(0.0, grace_seconds) + _MARGIN_SECONDS))
        task.add_done_callback(lambda _: self._retired.pop(client, None))
