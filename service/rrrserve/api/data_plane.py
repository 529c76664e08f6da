"""The one way from encoded images to answers: decode, infer, encode; each stage measured once, here."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbuild.cascade_runner import AUTO, NOT_ASKED
from rrrbuild.repository_document import MEMBER_SECONDS, Repository, ServedModel
from rrrserve.api.answer import answer, answering_effort, embedding_answer
from rrrserve.api.decoding import Decoded, DecodePool
from rrrserve.api.drift import DriftWatch
from rrrserve.api.errors import APIError
from rrrserve.api.requests import Options
from rrrserve.metrics import instruments
from rrrserve.metrics.instruments import MEMBER_FAILURES
from rrrserve.state.shared_state import SharedState
from rrrserve.traces.context import Fields
from rrrserve.traces.trace import UNTRACED, Trace
from rrrserve.triton.breaker import TritonLink
from rrrserve.triton.calls import TritonError
from rrrserve.triton.client import Inference

log = logging.getLogger("rrrserve")

_POLL_SECONDS = 0.05
_CLIENT_MESSAGES = {
    "backend_unavailable": "the inference server is not available",
    "deadline_exceeded": "the deadline passed before the model answered",
    "bad_model_output": "the model gave an unusable answer",
}


@dataclass
class Timing:
    """What a request spent, in seconds.

    Attributes:
        started: when it arrived, on the clock of `time.perf_counter`.
        trace: told of the stages.
        answering: when all was there that the answer is made of, on that clock.
    """

    started: float
    trace: Trace = UNTRACED
    answering: float = 0.0
    read: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    inference: float = 0.0

    def to_json(self) -> dict[str, float]:
        """Milliseconds, as in the answer's `timing_ms`; `total` counts up to now."""
        seconds = {
            "read": self.read,
            "decode": self.decode,
            "preprocess": self.preprocess,
            "inference": self.inference,
            "total": time.perf_counter() - self.started,
        }
        return {name: round(value * 1000, 3) for name, value in seconds.items()}


class DataPlane:
    """Predicts with the models of one repository through one connection to Triton.

    Args:
        repository: what is served.
        default: the model that /v1/predict asks.
        client: the connection.
        pool: decodes images.
        state: shared by all workers.
        quorum: see `rrrserve.triton.client.quorum_of`.
        abstain_above: see `rrrserve.api.answer.is_unsure`.
    """

    def __init__(
        self,
        repository: Repository,
        default: ServedModel,
        client: TritonLink,
        pool: DecodePool,
        state: SharedState,
        *,
        quorum: int | None = None,
        abstain_above: float | None = None,
    ) -> None:
        self.models = {model.name: model for model in repository.models}
        self.repository = repository.short_digest
        self._users = 0
        self.default = default
        self.client = client
        self.state = state
        self.pool = pool
        self._quorum = quorum
        self._abstain_above = abstain_above
        # Metric children are looked up once: `labels()` costs more than the observation.
        self._stages = {
            (stage, name): instruments.STAGE_DURATION.labels(stage, name)
            for stage in instruments.STAGES
            for name in self.models
        }
        self._inference = {
            model.name: instruments.INFERENCE_DURATION.labels(model.name, model.target) for model in repository.models
        }
        self._members = {
            model.name: [instruments.MEMBER_DURATION.labels(model.name, str(index)) for index in range(model.members)]
            for model in repository.models
            if MEMBER_SECONDS in model.outputs
        }
        self._disagreement = {name: instruments.DISAGREEMENT.labels(name) for name in self.models}
        self._members_used = {name: instruments.MEMBERS_USED.labels(name) for name in self.models}
        self._efforts = {
            (model.name, effort): instruments.EFFORT.labels(model.name, effort)
            for model in repository.models
            for effort in instruments.efforts_of(model)
        }
        self._drift = {model.name: DriftWatch(model) for model in repository.models}
        self._early = {
            model.name: instruments.EARLY_ANSWERS.labels(model.name)
            for model in repository.models
            if model.cascade is not None
        }

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While the body of the `with` statement runs, this version must not be taken away."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    async def until_unused(self) -> None:
        """Wait until nothing is under way with this version."""
        while True:
            if not self._users:
                return
            await asyncio.sleep(_POLL_SECONDS)

    def observe_stage(self, stage: str, model: ServedModel, seconds: float) -> None:
        """Count one stage of one request."""
        self._stages[stage, model.name].observe(seconds)

    async def predict(
        self, model: ServedModel, images: Sequence[bytes], options: Options, *, deadline: float, timing: Timing
    ) -> list[dict[str, Any] | APIError]:
        """Answer each image, in order; one that cannot be used gives its error in its place.

        Args:
            model: which model.
            images: encoded images, any number from 1.
            options: what the client asked for.
            deadline: on the clock of `time.perf_counter`.
            timing: filled in.

        Raises:
            APIError: the batch as a whole got no answer.
        """
        decoded = await self.decode(model, images, timing)
        good = [item.array for item in decoded if isinstance(item, Decoded)]
        if not good:
            return [item for item in decoded if isinstance(item, APIError)]
        found = await self.infer(model, good, options.effort, deadline=deadline, timing=timing)
        places = iter(range(len(good)))
        return [
            self.answer(model, found, next(places), options) if isinstance(item, Decoded) else item for item in decoded
        ]

    async def embed(
        self, model: ServedModel, images: Sequence[bytes], options: Options, *, deadline: float, timing: Timing
    ) -> list[dict[str, Any] | APIError]:
        """The embedding of each image; all else as of `predict`."""
        decoded = await self.decode(model, images, timing)
        good = [item.array for item in decoded if isinstance(item, Decoded)]
        if not good:
            return [item for item in decoded if isinstance(item, APIError)]
        found = await self.infer(model, good, options.effort, deadline=deadline, timing=timing, embed=True)
        rows = iter(() if found.embedding is None else found.embedding)
        return [embedding_answer(next(rows)) if isinstance(item, Decoded) else item for item in decoded]

    async def decode(self, model: ServedModel, images: Sequence[bytes], timing: Timing) -> list[Decoded | APIError]:
        """Encoded images as a model's inputs, in order; one that cannot be used gives its error in its place."""
        decoded = await self.pool.decode(images, model.preprocess)
        good = [item for item in decoded if isinstance(item, Decoded)]
        timing.decode = sum(item.decode_seconds for item in good)
        timing.preprocess = sum(item.preprocess_seconds for item in good)
        timing.answering, read = time.perf_counter(), timing.started + timing.read
        if not good:
            timing.trace.stage("decode", read, timing.answering)
            return decoded
        started = min([item.started for item in good])
        timing.trace.stage("queue", read, started)
        timing.trace.stage("decode", started, timing.answering)
        self.observe_stage("decode", model, timing.decode)
        self.observe_stage("preprocess", model, timing.preprocess)
        return decoded

    async def infer(
        self,
        model: ServedModel,
        arrays: Sequence[npt.NDArray[np.uint8]],
        effort: str,
        *,
        deadline: float,
        timing: Timing,
        embed: bool = False,
    ) -> Inference:
        """What the members say of N inputs (S, S, 3), with `embed` their embeddings too.

        Raises:
            APIError: there is no answer.
        """
        start = time.perf_counter()
        try:
            with timing.trace.asking("inference") as trace:
                found = await self._infer(model, arrays, effort, deadline, trace, embed=embed)
        except TritonError as error:
            if self.state.triton.up:  # else the supervisor has told, and every request would tell again
                log.warning("inference with %s failed: %s", model.name, error)
            raise APIError(error.code, _CLIENT_MESSAGES[error.code]) from error
        timing.answering = time.perf_counter()
        timing.inference = timing.answering - start
        self.observe_stage("inference", model, timing.inference)
        return found

    def answer(self, model: ServedModel, found: Inference, place: int, options: Options) -> dict[str, Any]:
        """The answer to one image of a batch, counted."""
        status = None if found.status is None else found.status[place]
        result = answer(found.probabilities[place], status, model, options, abstain_above=self._abstain_above)
        name, effort = model.name, result["effort"]
        self._disagreement[name].observe(1.0 - result["uncertainty"]["agreement"])
        self._members_used[name].observe(result["members_used"])
        self._efforts[name, effort].inc()
        self._drift[name].observe(result)
        if status is None or result["members_used"] == model.members:
            return result
        became = status.tolist()
        if effort == AUTO and NOT_ASKED in became:
            self._early[name].inc()
        if result["partial"]:
            for member, code in enumerate(became):
                if code in instruments.FAILURES:
                    MEMBER_FAILURES.labels(name, str(member), instruments.FAILURES[code]).inc()
        return result

    async def _infer(
        self,
        model: ServedModel,
        images: Sequence[npt.NDArray[np.uint8]],
        effort: str,
        deadline: float,
        trace: Fields | None = None,
        *,
        embed: bool,
    ) -> Inference:
        """What is said of N images (S, S, 3), in as many calls as the model's largest batch asks for."""
        step = model.max_batch_size
        if len(images) <= step:
            return await self._call(model, images, effort, deadline, trace, embed=embed)
        parts = (images[index : index + step] for index in range(0, len(images), step))
        calls = [asyncio.ensure_future(self._call(model, part, effort, deadline, trace, embed=embed)) for part in parts]
        try:
            found = await asyncio.gather(*calls)
            statuses = [part.status for part in found if part.status is not None]
            probabilities = np.concatenate([part.probabilities for part in found])
            embeddings = [part.embedding for part in found if part.embedding is not None]
            return Inference(
                probabilities,
                np.concatenate(statuses) if statuses else None,
                embedding=np.concatenate(embeddings) if embeddings else None,
            )
        except BaseException:  # gather() leaves the others running, and nobody would count them
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            raise

    async def _call(
        self,
        model: ServedModel,
        images: Sequence[npt.NDArray[np.uint8]],
        effort: str,
        deadline: float,
        trace: Fields | None,
        *,
        embed: bool,
    ) -> Inference:
        start = time.perf_counter()
        result = await self.client.infer(
            model,
            images,
            timeout_seconds=deadline - start,
            effort=answering_effort(model, effort),
            quorum=self._quorum,
            trace=trace,
            embed=embed,
        )
        self._inference[model.name].observe(time.perf_counter() - start)
        if result.member_seconds is not None:
            for member, seconds in zip(self._members[model.name], result.member_seconds, strict=True):
                member.observe(seconds)
        return result
