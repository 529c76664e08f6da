"""A whole verification: claims in, the document of verdicts out."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from rrrnet.files import shown
from rrrserve.bench.clients.images import from_data, photo_like
from rrrserve.claims.claims_file import Claims
from rrrserve.claims.kinds import Answered, Timed
from rrrserve.claims.levels import Window
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.measured import Measured, check_served, served_there
from rrrserve.evidence.prometheus import Prometheus, duration_seconds
from rrrserve.evidence.scrape import Scraper, watch
from rrrserve.judge.answers import judge_answers, repository_at
from rrrserve.judge.artifacts import Artifacts
from rrrserve.judge.bench_file import BenchEvidence
from rrrserve.judge.drive import drive, find_destinations
from rrrserve.judge.evaluate import Evidence, evaluate
from rrrserve.judge.labelled import trained_on
from rrrserve.judge.looks import Looks
from rrrserve.judge.source import Source
from rrrserve.judge.spans import SpanEvidence
from rrrserve.judge.verdicts import Verdict, undecided
from rrrserve.stamps.environment import describe

FORMAT, KIND = 1, "rrr-verdicts"
_TIMEOUT_SECONDS = 10

# Verdicts by the claims' names, and what the services that they are about served.
Judged = tuple[dict[str, Verdict], list[Measured]]


async def verify(claims: Claims, source: Source, report: Callable[[float, str], None]) -> dict[str, Any]:
    """Judge every claim.

    Args:
        claims: to judge.
        source: where to look; `source.check` has passed.
        report: told the seconds that have passed, and how many verdicts there are.

    Returns:
        The document that docs/internals/formats.md describes.

    Raises:
        ArtifactError: a damaged repository, engine or bench result.
        UsageError: a service does not serve what is to be stamped.
    """
    started, environment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), describe()
    alpha = 1 - claims.confidence
    artifacts = Artifacts(source.repository, source.engines)
    timed: list[Timed] = [claim for claim in claims.claims if isinstance(claim, Timed)]
    found: dict[str, Verdict] = {
        claim.name: artifacts.verdict(claim, alpha)
        for claim in claims.claims
        if not isinstance(claim, Timed | Answered)
    }
    measured: list[Measured] = []
    if timed and source.bench is not None:
        evidence = BenchEvidence(source.bench, source.concurrency)
        started, environment = evidence.when_and_where()
        found |= _judged(timed, evidence, alpha)
        measured = evidence.measured
    elif timed:
        try:
            live, measured = await _Live(timed, source, source.command(claims.path), alpha, report).judged()
            found |= live
        except UndecidableError as error:
            found |= {claim.name: undecided(claim, error) for claim in timed}
    answered: list[Answered] = [claim for claim in claims.claims if isinstance(claim, Answered)]
    if answered:
        by_answers, served = await judge_answers(answered, source, alpha, report)
        found |= by_answers
        measured += [item for item in served if item not in measured]
    return {
        "format": FORMAT,
        "kind": KIND,
        "claims": {"path": shown(claims.path), "sha256": claims.sha256},
        "confidence": claims.confidence,
        "started": started,
        "source": source.to_json(),
        "environment": environment,
        "measured": [item.to_json() for item in measured],
        "verdicts": [found[claim.name].to_json() for claim in claims.claims],
    }


def _judged(claims: Sequence[Timed], evidence: Evidence, alpha: float) -> dict[str, Verdict]:
    return {claim.name: evaluate(claim, evidence, alpha) for claim in claims}


@dataclass(frozen=True)
class _Live:
    """Claims about time, judged by what runs now; see `verify`."""

    claims: Sequence[Timed]
    source: Source
    command: str
    alpha: float
    report: Callable[[float, str], None]

    async def judged(self) -> Judged:
        """By Prometheus alone, by scrapes while others send, or by our own load, which Prometheus may see too."""
        source, trust = self.source, self.source.trust or True
        async with (
            httpx.AsyncClient(
                trust_env=False, timeout=_TIMEOUT_SECONDS, verify=trust, headers=source.headers
            ) as services,
            httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_SECONDS, verify=trust) as other,
        ):
            prometheus = None if source.prometheus is None else Prometheus(other, source.prometheus)
            if prometheus is not None and not source.drive:
                return await self._asked(prometheus)
            scraper = Scraper(services, source.scrape, triton="engine" in self._levels())
            if source.stamped is not None:
                await scraper.read()
                answered = {url: digests for url, digests in scraper.repositories.items() if digests}
                check_served(served_there(answered), source.stamped)
            if source.drive:
                return await self._driven(services, scraper, prometheus)
            return await self._watched(scraper)

    async def _asked(self, prometheus: Prometheus) -> Judged:
        end, seconds = time.time(), duration_seconds(self.source.range_text)
        evidence = SpanEvidence(
            await prometheus.spans(self._models(), end - seconds, end),
            window_looked_at=Window(self.source.range_text, end, seconds),
            remembered=True,
            allow_resets=self.source.allow_resets,
            remedy="ask for a longer --range",
        )
        return _judged(self.claims, evidence, self.alpha), await self._served(prometheus, end - seconds, end)

    async def _watched(self, scraper: Scraper) -> Judged:
        start = time.time()
        evidence = SpanEvidence(
            await watch(scraper, self.source.seconds, lambda passed: self.report(passed, "watching")),
            window_looked_at=Window.between(start, time.time()),
            command=self.command,
            allow_resets=self.source.allow_resets,
        )
        return _judged(self.claims, evidence, self.alpha), served_there(scraper.repositories)

    async def _driven(self, services: httpx.AsyncClient, scraper: Scraper, prometheus: Prometheus | None) -> Judged:
        source, start = self.source, time.time()
        looks = Looks(
            self.claims,
            alpha=self.alpha,
            concurrency=source.concurrency,
            allow_resets=source.allow_resets,
            command=self.command,
            prometheus=prometheus,
            report=self.report,
        )
        given = [source.image] if source.image else []
        if source.data is not None:
            seen = trained_on(repository_at(source.repository), self._models(), source.engines)
            given = await asyncio.to_thread(from_data, source.data, seed=0, without=seen)
        destinations, missing = await find_destinations(
            services,
            scraper.urls,
            self._models(),
            lambda size: given or [photo_like(size)],
            trust=source.trust,
            effort=source.effort,
        )
        looks.without(missing)
        await looks.meet_prometheus()
        if turns := looks.turns():
            try:
                await drive(
                    scraper, destinations, turns, source.seconds, looks.look, lambda passed: self.report(passed, "")
                )
            except UndecidableError as error:
                looks.give_up(error)
        served = served_there(scraper.repositories)
        if prometheus is not None:
            served += await self._served(prometheus, start, time.time())
        return looks.found, served

    async def _served(self, prometheus: Prometheus, start: float, end: float) -> list[Measured]:
        """What Prometheus remembers of what was served; the server itself where it remembers nothing."""
        try:
            found = await prometheus.repositories(self._models(), self._levels(), start, end)
        except UndecidableError:  # verdicts need no digest: only a stamp does
            found = {}
        return served_there(found or {prometheus.url: set()})

    def _models(self) -> list[str]:
        return sorted({model for claim in self.claims for model in claim.models})

    def _levels(self) -> set[str]:
        return {getattr(claim, "level", "http") for claim in self.claims}
