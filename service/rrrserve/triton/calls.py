"""The gRPC channel to Triton, or to several: bytes out, bytes back, and a deadline for who waits.

Where there is one Triton, a call whose deadline has passed or whose client went away is left to itself. To end it would
be to cancel it in Triton, and in 2.51 that races with the answer: one in some 60 000 of them ends tritonserver
(https://github.com/triton-inference-server/server/issues/7472). The work is done for nobody, so it counts as under way.
Of several another takes over from one that ended, and by deadlines that pass gRPC finds those that hang.
"""

import asyncio
from collections.abc import Callable

import grpc

from rrrserve.net.targets import is_several
from rrrserve.traces.context import Fields
from rrrserve.triton.channel import channel_options

# How long a call may be left to itself: a Triton that hangs is not always known to.
_LINGER_SECONDS = 30.0
_SERVICE = "/inference.GRPCInferenceService"
# What triton_model.py tells of answers that it does not pass on.
_BAD_OUTPUT, _LATE_MEMBERS = "the engine's output", "members were late"


class TritonError(Exception):
    """An inference that gave no usable answer.

    Attributes:
        code: `backend_unavailable`, `deadline_exceeded` or `bad_model_output`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Calls:
    """One channel; make it inside a running event loop.

    Args:
        url: a target (see `rrrserve.net.targets`).
        count: is told how many images Triton is still at though nobody waits for them any more, and, as a negative
            number, when it no longer is.
    """

    def __init__(self, url: str, count: Callable[[int], None]) -> None:
        self._channel = grpc.aio.insecure_channel(url, options=channel_options(url))
        # No serializers: bytes go through.
        self._methods = {
            name: self._channel.unary_unary(f"{_SERVICE}/{name}") for name in ("ModelInfer", "ServerMetadata")
        }
        self._alone = not is_several(url)
        self._count = count
        self._left: set[asyncio.Future[bytes]] = set()  # the event loop itself holds them weakly

    async def ask(
        self, name: str, request: bytes, timeout_seconds: float, metadata: Fields | None = None, images: int = 0
    ) -> bytes:
        """The answer's bytes; gRPC's errors become ours, for the log: Triton's own texts hold paths of this machine.

        Args:
            name: of the method.
            request: a serialized message.
            timeout_seconds: within which there must be an answer.
            metadata: of the call.
            images: in the request.

        Raises:
            TritonError: there is none.
        """
        patience_seconds = timeout_seconds + (_LINGER_SECONDS if self._alone else 0.0)
        call = asyncio.ensure_future(self._methods[name](request, timeout=patience_seconds, metadata=metadata))
        try:
            await asyncio.wait((call,), timeout=timeout_seconds if self._alone else None)
        finally:
            if not call.done():
                if self._alone:
                    self._leave(call, images)
                else:
                    call.cancel()
        if not call.done():
            raise TritonError("deadline_exceeded", "no answer before the deadline")
        try:
            answer: bytes = call.result()
        except asyncio.CancelledError as error:  # by gRPC: the connection was closed under the call
            raise TritonError("backend_unavailable", "the connection was closed") from error
        except grpc.aio.AioRpcError as error:
            raise TritonError(_code_of(error), f"{error.code()}: {error.details()}") from error
        return answer

    async def close(self, grace_seconds: float) -> None:
        """Close the connection; what is under way after `grace_seconds` is cancelled."""
        await self._channel.close(grace_seconds)

    def _leave(self, call: asyncio.Future[bytes], images: int) -> None:
        def ended(_: asyncio.Future[bytes]) -> None:
            self._left.discard(call)
            self._count(-images)
            if not call.cancelled():
                call.exception()  # asyncio would complain that nobody asked

        self._left.add(call)
        self._count(images)
        call.add_done_callback(ended)


def _code_of(error: grpc.aio.AioRpcError) -> str:
    told = error.details() or ""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED or _LATE_MEMBERS in told:
        return "deadline_exceeded"
    return "bad_model_output" if _BAD_OUTPUT in told else "backend_unavailable"
