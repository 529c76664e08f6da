"""Carry a plan out: turns of the subjects, interleaved, and the document that says what they gave."""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvloop

from rrrserve.bench.clients.client import AnsweredBy, Client
from rrrserve.bench.clients.subjects import Subject
from rrrserve.bench.figures import Turn, figures, finished, told
from rrrserve.bench.limit import client_limit
from rrrserve.bench.loops import Recorder, arrival_times, closed_loop, open_loop
from rrrserve.bench.plan import BenchPlan, Load
from rrrserve.bench.result import BOTTLENECK_SHARE, Found
from rrrserve.bench.search import Search, Trial
from rrrserve.process.interrupts import unless_interrupted

_PROBES = (1, 8)  # requests under way: what one takes alone, and about how many a second can be had
_FEWEST_REQUESTS = 100  # of a trial, else its p99 is the worst request alone;
_MOST_TRIAL_SECONDS = 15.0  # unless that took longer than this
_TRIAL_SECONDS = 2.0

Report = Callable[[str, int, int], None]  # what begins now, turns done, turns in all
Enough = Callable[[dict[str, Any]], bool]


def run(
    subjects: Sequence[Subject],
    plan: BenchPlan,
    *,
    report: Report | None = None,
    enough: Enough | None = None,
    generated_images: bool = False,
) -> dict[str, Any]:
    """Measure, and say what was found. Ctrl-C and SIGTERM end it at once; what was measured so far is kept.

    Each round goes through the loads, and at each load through the subjects, in the other order in every second round.

    Args:
        subjects: what to measure.
        plan: how.
        report: told of every turn that begins.
        enough: asked after every round with the document so far; True ends the run.
        generated_images: whether requests carry pictures that are none of the model's kind, for a warning.

    Returns:
        The result document (docs/internals/formats.md).
    """
    bench = _Bench(subjects, plan, report or (lambda *_: None), enough)
    bench.found.generated_images = generated_images
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bench.measure())
    return bench.found.document()


class _Bench:
    """A run under way."""

    def __init__(self, subjects: Sequence[Subject], plan: BenchPlan, report: Report, enough: Enough | None) -> None:
        self.subjects, self.plan, self.report, self.enough = subjects, plan, report, enough
        self.found = Found(subjects, plan)
        self.start = time.perf_counter()
        self.done = 0

    async def measure(self) -> None:
        """Everything, until it is done or interrupted."""
        try:
            await unless_interrupted(self._measure())
        except asyncio.CancelledError:
            self.found.interrupted = True

    async def _measure(self) -> None:
        for subject in self.subjects:
            if subject.level not in self.found.limits:
                self.report("the client's own limit", self.done, self._total())
                with _without_collector():
                    self.found.limits[subject.level] = await client_limit(subject)
        clients = [subject.connect() for subject in self.subjects]
        try:
            for number in range(self.plan.rounds):
                for load in self.plan.loads:
                    order = range(len(clients)) if number % 2 == 0 else reversed(range(len(clients)))
                    for index in order:
                        await self._planned_turn(index, clients[index], load, number)
                if self.enough is not None and self.enough(self.found.document()):
                    break
            if self.plan.p99_ms is not None:
                for index, client in enumerate(clients):
                    await self._search(index, client, self.plan.p99_ms)
            self.report("", self.done, self._total())
        finally:
            for client in clients:
                await client.close()

    def _total(self) -> int:
        return self.plan.rounds * len(self.plan.loads) * len(self.subjects)

    async def _planned_turn(self, index: int, client: Client, load: Load, number: int) -> None:
        self.report(f"{self.subjects[index]}, {load}", self.done, self._total())
        seed = [self.plan.seed, number, self.plan.loads.index(load)]  # the same arrivals for every subject
        by = self.found.answered_by.setdefault((index, load), Counter())
        turns = self.found.turns.setdefault((index, load), [])
        await self._turn(client, load, seed, turns, self.plan.seconds, self.plan.requests, by)
        self.done += 1

    async def _turn(
        self,
        client: Client,
        load: Load,
        seed: Sequence[int],
        kept: list[Turn],
        seconds: float | None,
        requests: int | None,
        by: Counter[AnsweredBy] | None = None,
    ) -> None:
        """Warm up, then measure; `kept` gets the turn, and `by` who answered, also when it is cut short."""
        if self.plan.warm_up_seconds:
            random = np.random.default_rng([*seed, 1])
            await self._drive(client, load, random, Recorder(), self.plan.warm_up_seconds, None)
        before = client.answered_by.copy()
        recorder, started = Recorder(), time.perf_counter() - self.start
        try:
            with _without_collector():
                await self._drive(client, load, np.random.default_rng(seed), recorder, seconds, requests)
        finally:
            kept.append(finished(recorder, started))
            if by is not None:
                by.update(client.answered_by - before)

    async def _drive(
        self,
        client: Client,
        load: Load,
        random: np.random.Generator,
        recorder: Recorder,
        seconds: float | None,
        requests: int | None,
    ) -> None:
        if load.concurrency is not None:
            await closed_loop(client, load.concurrency, recorder, requests=requests, seconds=seconds)
        elif load.rate_per_second is not None:
            due = arrival_times(load.rate_per_second, load.arrivals, requests=requests, seconds=seconds, random=random)
            await open_loop(client, due, recorder, max_in_flight=self.plan.max_in_flight)

    async def _search(self, index: int, client: Client, limit_ms: float) -> None:
        """The highest rate that keeps the limit, beginning with half of what a closed loop gets."""
        subject = self.subjects[index]
        search = self.found.searches[index] = Search(limit_ms)
        alone, together = [await self._probe(subject, client, concurrency) for concurrency in _PROBES]
        if not alone.ok or not together.ok:
            search.reason = f"it was not answered ({told({**alone.errors, **together.errors})})"
            return
        p50_ms = figures([alone])["p50_ms"]
        if p50_ms > limit_ms:
            search.reason = f"one request at a time takes {p50_ms:g} ms (p50)"
            return

        async def attempt(rate_per_second: float) -> Trial:
            load = Load(rate_per_second=rate_per_second, arrivals=self.plan.arrivals)
            self.report(f"{subject}, p99 within {limit_ms:g} ms at {load}?", self.done, self._total())
            seconds = max(self._turn_seconds, min(_FEWEST_REQUESTS / rate_per_second, _MOST_TRIAL_SECONDS))
            turns: list[Turn] = []
            await self._turn(client, load, [self.plan.seed, len(search.trials)], turns, seconds, None)
            found = figures(turns)
            errors = sum(found["errors"].values())
            good = not errors and found["p99_ms"] is not None and found["p99_ms"] <= limit_ms
            return Trial(rate_per_second, found["p99_ms"], errors, found["ok"] + errors, good)

        first, highest = together.ok / together.wall_seconds / 2, BOTTLENECK_SHARE * self.found.limits[subject.level]
        await search.run(attempt, first=first, highest=highest)

    async def _probe(self, subject: Subject, client: Client, concurrency: int) -> Turn:
        load = Load(concurrency=concurrency)
        self.report(f"{subject}, {load}, to begin with", self.done, self._total())
        turns: list[Turn] = []
        await self._turn(client, load, [self.plan.seed], turns, self._turn_seconds, None)
        return turns[0]

    @property
    def _turn_seconds(self) -> float:
        return self.plan.seconds or _TRIAL_SECONDS


@contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection meanwhile: going through all objects takes this client tens of milliseconds."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
