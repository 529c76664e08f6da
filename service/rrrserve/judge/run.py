"""A whole verification: claims in, the document of verdicts out."""

import shlex
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from rrrbuild.repository_document import Repository
from rrrnet.errors import UsageError
from rrrserve.claims.claims_file import Claims
from rrrserve.claims.kinds import AnyClaim, Timed
from rrrserve.claims.levels import Window
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.measured import Measured, check_served, served_there
from rrrserve.evidence.prometheus import Prometheus, duration_seconds
from rrrserve.evidence.scrape import Scraper, check_url, watch
from rrrserve.judge.artifacts import Artifacts
from rrrserve.judge.bench_file import BenchEvidence
from rrrserve.judge.drive import drive, find_subjects
from rrrserve.judge.evaluate import Evidence, evaluate
from rrrserve.judge.looks import Looks
from rrrserve.judge.spans import SpanEvidence
from rrrserve.judge.verdicts import Verdict, shown, undecided
from rrrserve.stamps.environment import describe

FORMAT, KIND = 1, "rrr-verdicts"


@dataclass(frozen=True)
class Source:
    """Where the evidence of claims about time comes from.

    Attributes:
        scrape: URLs of services to scrape.
        prometheus: URL of a server to ask instead.
        bench: result file to read instead.
        range_text: how far back to ask Prometheus, as PromQL writes it.
        seconds: how long to scrape or drive at most.
        drive: send the load too.
        concurrency: requests under way in the turns that claims on latency are judged by.
        image: encoded image to send; None for a generated one of each model's size.
        allow_resets: leave blocks out in which a counter was reset, rather than refuse.
        repository: for claims about artifacts.
        engines: likewise.
        headers: sent to the services, not to Prometheus.
        image_path: where the image was read from.
        ca_path: where `trust` was read from.
        trust: for https, of services and of Prometheus; None for the certificates that this machine trusts.
        stamped: what the verdicts are to be stamped on: services that serve anything else are not driven.
    """

    scrape: tuple[str, ...]
    prometheus: str | None
    bench: Path | None
    range_text: str
    seconds: float
    drive: bool
    concurrency: int
    image: bytes | None
    allow_resets: bool
    repository: Path
    engines: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    image_path: Path | None = None
    ca_path: Path | None = None
    trust: ssl.SSLContext | None = None
    stamped: Repository | None = None

    def to_json(self) -> dict[str, Any]:
        """For the document."""
        if self.bench is not None:
            return {"kind": "bench", "path": shown(self.bench)}
        how = {"seconds": self.seconds, "drive": self.drive, "concurrency": self.concurrency} if self.scrape else {}
        if self.prometheus is not None:
            return {
                "kind": "prometheus",
                "url": self.prometheus,
                "range": self.range_text,
                "scrape": list(self.scrape),
                **how,
            }
        if self.scrape:
            return {"kind": "scrape", "url": ", ".join(self.scrape), **how}
        return {"kind": "artifacts", "path": shown(self.repository)}

    def command(self, claims: Path) -> str:
        """What measures again, as a shell takes it; a token is not in it."""
        words = ["rrr", "verify", "--claims", shown(claims)]
        for url in self.scrape:
            words += ["--scrape", url]
        if self.prometheus is not None:
            words += ["--prometheus", self.prometheus]
        words += ["--seconds", f"{self.seconds:g}", "--concurrency", str(self.concurrency)]
        words += [option for option, given in (("--drive", self.drive), ("--allow-resets", self.allow_resets)) if given]
        for option, path in (("--image", self.image_path), ("--ca", self.ca_path)):
            if path is not None:
                words += [option, shown(path)]
        return shlex.join(words)

    def check(self, claims: Sequence[AnyClaim]) -> None:
        """Check that the options fit together and are enough.

        Raises:
            UsageError: they are not.
        """
        if self.bench is not None and (self.scrape or self.prometheus):
            raise UsageError("--bench is evidence of its own: leave out --scrape and --prometheus")
        if self.drive and not self.scrape:
            raise UsageError("--drive needs to know whom to ask: give --scrape http://HOST:PORT of the service")
        if self.prometheus is not None and self.scrape and not self.drive:
            raise UsageError(
                "--prometheus and --scrape together need --drive: the service is driven, Prometheus is asked"
            )
        if self.prometheus is not None:
            check_url("--prometheus", self.prometheus)
            duration_seconds(self.range_text)
        timed = [claim.name for claim in claims if isinstance(claim, Timed)]
        if timed and not (self.scrape or self.prometheus or self.bench):
            raise UsageError(
                f"{len(timed)} claims are about time ({timed[0]}): say where the evidence is, with --scrape "
                "http://HOST:PORT (and --drive to send load), --prometheus URL, or --bench FILE.json"
            )


async def verify(claims: Claims, source: Source, report: Callable[[float, str], None]) -> dict[str, Any]:
    """Judge every claim.

    Args:
        claims: to judge.
        source: where to look; `source.check` has passed.
        report: told the seconds that have passed, and how many verdicts there are.

    Returns:
        The document that docs/claims.md describes.

    Raises:
        ArtifactError: a damaged repository, engine or bench result.
        UsageError: a service does not serve what is to be stamped.
    """
    started, environment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), describe()
    alpha = 1 - claims.confidence
    artifacts = Artifacts(source.repository, source.engines)
    timed: list[Timed] = [claim for claim in claims.claims if isinstance(claim, Timed)]
    found: dict[str, Verdict] = {
        claim.name: artifacts.verdict(claim, alpha) for claim in claims.claims if not isinstance(claim, Timed)
    }
    measured: list[Measured] = []
    if timed and source.bench is not None:
        evidence = BenchEvidence(source.bench, source.concurrency)
        started, environment = evidence.when_and_where()
        found |= _judged(timed, evidence, alpha)
        measured = evidence.measured
    elif timed:
        try:
            live, measured = await _live(timed, source, source.command(claims.path), alpha, report)
            found |= live
        except UndecidableError as error:
            found |= {claim.name: undecided(claim, error) for claim in timed}
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


async def _live(
    claims: Sequence[Timed], source: Source, command: str, alpha: float, report: Callable[[float, str], None]
) -> tuple[dict[str, Verdict], list[Measured]]:
    """Verdicts by name, and what the services that they are about served."""
    models = sorted({model for claim in claims for model in claim.models})
    trust = source.trust or True
    async with (
        httpx.AsyncClient(trust_env=False, timeout=10, verify=trust, headers=source.headers) as client,
        httpx.AsyncClient(trust_env=False, timeout=10, verify=trust) as other,
    ):
        prometheus = None if source.prometheus is None else Prometheus(other, source.prometheus)
        if prometheus is not None and not source.drive:
            end, seconds = time.time(), duration_seconds(source.range_text)
            start = end - seconds
            spans = await prometheus.spans(models, start, end)
            evidence = SpanEvidence(
                spans,
                window_looked_at=Window(source.range_text, end, seconds),
                remembered=True,
                allow_resets=source.allow_resets,
                remedy="ask for a longer --range",
            )
            return _judged(claims, evidence, alpha), await _remembered(prometheus, claims, start, end)
        scraper = Scraper(client, source.scrape, triton="engine" in _levels(claims))
        if source.stamped is not None:
            await scraper.read()
            answered = {url: digests for url, digests in scraper.repositories.items() if digests}
            check_served(served_there(answered), source.stamped)
        start = time.time()
        if not source.drive:
            watched = await watch(scraper, source.seconds, lambda passed: report(passed, "watching"))
            window = Window.between(start, time.time())
            watched_evidence = SpanEvidence(
                watched, window_looked_at=window, command=command, allow_resets=source.allow_resets
            )
            return _judged(claims, watched_evidence, alpha), served_there(scraper.repositories)
        looks = Looks(
            claims,
            alpha=alpha,
            concurrency=source.concurrency,
            allow_resets=source.allow_resets,
            command=command,
            prometheus=prometheus,
            report=report,
        )
        found = await _driven(claims, source, report, client, scraper, looks)
        served = served_there(scraper.repositories)
        if prometheus is not None:
            served += await _remembered(prometheus, claims, start, time.time())
        return found, served


async def _remembered(prometheus: Prometheus, claims: Sequence[Timed], start: float, end: float) -> list[Measured]:
    """What Prometheus remembers of which repositories were served; the server itself where it remembers nothing."""
    models = sorted({model for claim in claims for model in claim.models})
    try:
        found = await prometheus.repositories(models, _levels(claims), start, end)
    except UndecidableError:  # verdicts need no digest: only a stamp does
        found = {}
    return served_there(found or {prometheus.url: set()})


def _levels(claims: Sequence[Timed]) -> set[str]:
    return {getattr(claim, "level", "http") for claim in claims}


def _judged(claims: Sequence[Timed], evidence: Evidence, alpha: float) -> dict[str, Verdict]:
    return {claim.name: evaluate(claim, evidence, alpha) for claim in claims}


async def _driven(
    claims: Sequence[Timed],
    source: Source,
    report: Callable[[float, str], None],
    client: httpx.AsyncClient,
    scraper: Scraper,
    looks: Looks,
) -> dict[str, Verdict]:
    models = sorted({model for claim in claims for model in claim.models})
    subjects, missing = await find_subjects(
        client, scraper.urls, models, lambda size: source.image or _picture(size), trust=source.trust
    )
    looks.without(missing)
    await looks.meet_prometheus()
    turns = looks.turns()
    if turns:
        try:
            await drive(scraper, subjects, turns, source.seconds, looks.look, lambda passed: report(passed, ""))
        except UndecidableError as error:
            looks.give_up(error)
    return looks.found


def _picture(size: int) -> bytes:
    from rrrserve.bench.clients.images import photo_like

    return photo_like(size)
