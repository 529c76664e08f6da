"""Another model is asked about images that were answered already, in the gaps between requests, to compare the two.

Nobody waits for it: it begins once the answer is written, and only where that request was alone and nothing has come
since. What it has begun cannot be taken back: neither Triton nor an engine stops in the midst of an inference. So
requests that come meanwhile share the machine with it, and the next one finds its caches full of other weights. These
are counted, and kept to `SHARE` of all requests, however slow the shadow is: the median of all is then at worst what
the 53rd of 100 was without.
"""

import asyncio
import time
from itertools import product

from rrrbuild.repository_document import ServedModel
from rrrserve.api.answer import answer, answering_effort
from rrrserve.api.data_plane import DataPlane
from rrrserve.api.decoding import Decoded
from rrrserve.api.requests import Options
from rrrserve.metrics.instruments import SAME, SHADOW_COMPARED, SHADOW_DROPPED, SHADOW_DURATION, SHADOW_REASONS
from rrrserve.process.tasks import ended
from rrrserve.triton.calls import TritonError

SHARE = 0.05
_MOST_CREDIT = 1.0  # requests that it may touch before as many others as `SHARE` asks for have come


class Shadow:
    """The model that is asked beside those that answer. Each HTTP worker decides by the requests of all.

    Args:
        plane: of the version that both models belong to.
        model: which.
        timeout_seconds: for one inference.
    """

    def __init__(self, plane: DataPlane, model: ServedModel, *, timeout_seconds: float) -> None:
        self._plane, self._state, self._model = plane, plane.state, model
        self._timeout_seconds = timeout_seconds
        self._share = SHARE / max(1, self._state.slots - 1)  # of this worker
        self._credit, self._counted = _MOST_CREDIT, self._state.requests()
        self._task: asyncio.Task[None] | None = None
        for reason in SHADOW_REASONS:
            SHADOW_DROPPED.labels(reason)
        for name, same in product(plane.models.keys() - {model.name}, SAME):
            SHADOW_COMPARED.labels(name, model.name, same)

    def before(self) -> int | None:
        """To be asked before a request is admitted; None where it is not alone, else what `compare` wants."""
        return None if self._state.total() or self._task is not None else self._state.requests()

    def compare(
        self, before: int | None, model: ServedModel, image: bytes, options: Options, label: str, seconds: float
    ) -> None:
        """Ask about an image as soon as its answer is written, unless that would be in the way of requests.

        The image is kept until then, one for each worker at most.

        Args:
            before: what `before` gave.
            model: that answered.
            image: encoded.
            options: the request's.
            label: that it was given.
            seconds: the inference took.
        """
        if model.name == self._model.name:
            return
        alone = before is not None and self._state.requests() == before + 1
        if not alone or not self._has_credit():
            SHADOW_DROPPED.labels("share" if alone else "busy").inc()
            return
        self._task = asyncio.create_task(self._compare(model, image, options, label, seconds))
        self._task.add_done_callback(self._done)

    async def stop(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            await ended(self._task)

    def _has_credit(self) -> bool:
        now = self._state.requests()
        self._credit = min(_MOST_CREDIT, self._credit + self._share * (now - self._counted))
        self._counted = now
        return self._credit > 0

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()  # a fault of ours reaches the event loop's handler, which logs it

    async def _compare(self, model: ServedModel, image: bytes, options: Options, label: str, seconds: float) -> None:
        """What was begun when the answer was not yet written runs from here on after it."""
        with self._plane.in_use():
            before = self._state.requests()
            if self._state.total():
                SHADOW_DROPPED.labels("busy").inc()
                return
            try:
                found = await self._asked(image, options)
            finally:
                self._credit -= max(1, self._state.requests() - before)
            if found is None:
                SHADOW_DROPPED.labels("failed").inc()
                return
            own_label, own_seconds = found
            SHADOW_COMPARED.labels(model.name, self._model.name, SAME[own_label != label]).inc()
            SHADOW_DURATION.labels(model.name).observe(seconds)
            SHADOW_DURATION.labels(self._model.name).observe(own_seconds)

    async def _asked(self, image: bytes, options: Options) -> tuple[str, float] | None:
        """The label that the shadow gives an image, and the seconds of its inference; None for no answer.

        Not by the data plane's own ways: those count, and the shadow's answers are nobody's.
        """
        (decoded,) = await self._plane.pool.decode([image], self._model.preprocess)
        if not isinstance(decoded, Decoded):
            return None
        start = time.perf_counter()
        try:
            found = await self._plane.client.infer(
                self._model,
                [decoded.array],
                timeout_seconds=self._timeout_seconds,
                effort=answering_effort(self._model, options.effort),
            )
        except TritonError:
            return None
        seconds = time.perf_counter() - start
        status = None if found.status is None else found.status[0]
        result = answer(found.probabilities[0], status, self._model, options)
        return result["predictions"][0]["label"], seconds
