"""Looks at a drive: what is decided at each, by our scrapes and, where it sees the same, by Prometheus."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rrrserve.claims.kinds import Throughput, Timed
from rrrserve.claims.levels import Window
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.prometheus import Prometheus
from rrrserve.judge.drive import Driven
from rrrserve.judge.evaluate import evaluate
from rrrserve.judge.spans import ModelLoad, SpanEvidence, told_apart_by_turns
from rrrserve.judge.verdicts import UNDECIDED, Verdict, agreed, by_scrapes_alone, undecided

_SETTLE_SECONDS, _POLL_SECONDS = 90.0, 0.5  # Prometheus scrapes once a minute unless it is told otherwise
_PATIENCE_SECONDS = 3.0  # with a Prometheus that does not answer


class Looks:
    """Claims and what has been found about them so far.

    Attributes:
        found: verdicts by the claims' names; one that is decided is final.
    """

    def __init__(
        self,
        claims: Sequence[Timed],
        *,
        alpha: float,
        concurrency: int,
        allow_resets: bool,
        command: str,
        prometheus: Prometheus | None,
        report: Callable[[float, str], None],
    ) -> None:
        """Args: as `Source` has them; `command` measures again, `report` is told how many are decided."""
        self.found: dict[str, Verdict] = {}
        self._claims = claims
        self._open = {claim.name: claim for claim in claims}
        self._alpha = alpha
        self._concurrency = concurrency
        self._allow_resets = allow_resets
        self._command = command
        self._prometheus = prometheus
        self._report = report
        self._driven: list[ModelLoad] = []

    def turns(self) -> list[ModelLoad]:
        """The turns that open claims are judged by."""
        return sorted({turn for claim in self._open.values() for turn in self._turns_of(claim)})

    def without(self, missing: Mapping[str, UndecidableError]) -> None:
        """Close the claims about models that nobody serves."""
        for claim in list(self._open.values()):
            if lacking := [model for model in claim.models if model in missing]:
                self._close(claim, undecided(claim, missing[lacking[-1]]))

    async def meet_prometheus(self) -> None:
        """Before any load: without a Prometheus that answers, the claims that need its word are closed."""
        self._driven = self.turns()
        needing = [claim for claim in self._open.values() if self._prometheus and self._alone(claim) is None]
        if self._prometheus is None or not needing:
            return
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                await self._prometheus.last_sample(self._models())
            except UndecidableError as error:
                if time.monotonic() > end:
                    for claim in needing:
                        self._close(claim, undecided(claim, error))
                    return
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return

    def give_up(self, error: UndecidableError) -> None:
        """The drive cannot go on: claims that are open remain undecided for that reason."""
        for claim in list(self._open.values()):
            self._close(claim, undecided(claim, error))

    async def look(self, driven: Driven, alpha_share: float, last: bool) -> list[ModelLoad]:
        """Judge the open claims, as `drive` asks; the turns that those which stay open still need.

        A Prometheus that does not answer decides nothing at this look; there are others, until the last.
        """
        alpha = self._alpha * alpha_share
        scraped = self._evidence(driven, time.time())
        remembered: SpanEvidence | UndecidableError | None = None
        if self._prometheus is not None and any(self._alone(claim) is None for claim in self._open.values()):
            try:
                remembered = await self._asked(self._prometheus, driven, last=last)
            except UndecidableError as error:
                remembered = error
        for name, claim in list(self._open.items()):
            verdict = evaluate(claim, scraped, alpha)
            if self._prometheus is not None and (why := self._alone(claim)):
                verdict = by_scrapes_alone(verdict, why)
            elif isinstance(remembered, UndecidableError):
                verdict = agreed(undecided(claim, remembered), verdict)
            elif remembered is not None:
                verdict = agreed(evaluate(claim, remembered, alpha), verdict)
            self.found[name] = verdict
            if verdict.verdict != UNDECIDED:
                self._close(claim, verdict)
        decided = len(self.found) - len(self._open)
        self._report(time.time() - driven.started, f"{decided} of {len(self._claims)} decided")
        return self.turns()

    async def _asked(self, prometheus: Prometheus, driven: Driven, *, last: bool) -> SpanEvidence:
        """The same time as Prometheus remembers it; at the last look, once it has scraped the end of it."""
        if last:
            await self._settled(prometheus, time.time())
        end = time.time()
        spans = await prometheus.spans(self._models(), driven.started, end)
        return replace(self._evidence(driven, end), spans=spans, turns={}, remembered=True, saturated=False)

    async def _settled(self, prometheus: Prometheus, end: float) -> None:
        patience = time.monotonic() + _PATIENCE_SECONDS
        while time.time() < end + _SETTLE_SECONDS:
            try:
                if await prometheus.last_sample(self._models()) >= end:
                    return
                patience = time.monotonic() + _PATIENCE_SECONDS
            except UndecidableError:
                if time.monotonic() > patience:
                    return
            await asyncio.sleep(_POLL_SECONDS)  # no event: Prometheus tells nobody when it scrapes

    def _evidence(self, driven: Driven, end: float) -> SpanEvidence:
        return SpanEvidence(
            turns=driven.turns,
            failed=driven.failed,
            tally=driven.tally(),
            concurrency=self._concurrency,
            window_looked_at=Window.between(driven.started, end),
            command=self._command,
            allow_resets=self._allow_resets,
            saturated=True,
        )

    def _alone(self, claim: Timed) -> str | None:
        return told_apart_by_turns(claim, self._driven)

    def _close(self, claim: Timed, verdict: Verdict) -> None:
        self.found[claim.name] = verdict
        del self._open[claim.name]

    def _models(self) -> list[str]:
        return sorted({model for claim in self._claims for model in claim.models})

    def _turns_of(self, claim: Timed) -> list[ModelLoad]:
        concurrency = claim.concurrency if isinstance(claim, Throughput) else self._concurrency
        return [(model, concurrency) for model in claim.models]
