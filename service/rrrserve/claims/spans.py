"""Evidence from readings of counters: scraped while traffic or our own load ran, or remembered by Prometheus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrrserve.claims.blocks import Blocks, Span, blocks_of
from rrrserve.claims.kinds import Timed
from rrrserve.claims.reasons import UndecidableError
from rrrserve.claims.verdicts import Verdict

# Whose turn it was and at how many requests under way.
Turn = tuple[str, int]


@dataclass
class SpanEvidence:
    """Blocks between readings.

    Attributes:
        spans: stretches of time that count for every model; empty where models took turns.
        turns: stretches of each turn, in the order of the rounds, where they did.
        concurrency: of the turns that claims on latency are judged by.
        tally: what the client counted in its turns, JSON-ready.
        window_text: the time looked at, as PromQL writes it.
        allow_resets: leave blocks out in which a counter was reset.
        failed: turns that could not be driven, and why.
        remedy: what to do about an interval that is too wide.
        saturated: see `evaluate.Evidence`.
    """

    spans: Sequence[Span] = ()
    turns: Mapping[Turn, Sequence[Span]] = field(default_factory=dict)
    concurrency: int = 1
    tally: Mapping[Turn, Mapping[str, Any]] = field(default_factory=dict)
    window_text: str = "5m"
    allow_resets: bool = False
    failed: Mapping[Turn, UndecidableError] = field(default_factory=dict)
    remedy: str = "measure longer (--seconds)"
    saturated: bool = False

    def blocks(self, models: Sequence[str], level: str, concurrency: int | None) -> tuple[list[Blocks], dict[str, Any]]:
        """See `evaluate.Evidence`."""
        found, dropped, client = [], 0, {}
        for model in models:
            turn = (model, concurrency or self.concurrency)
            if turn in self.failed:
                raise self.failed[turn]
            spans = self.turns.get(turn, self.spans)
            blocks, emptied = blocks_of(spans, model, level, allow_resets=self.allow_resets)
            found.append(blocks)
            dropped += emptied
            if turn in self.tally:
                client[model] = dict(self.tally[turn])
        notes: dict[str, Any] = {"dropped_blocks": dropped} if dropped else {}
        return found, notes | ({"client": client} if client else {})

    def queries(self, queries: Sequence[str]) -> tuple[str, ...]:
        """PromQL works wherever the same service is scraped."""
        return tuple(queries)

    def window(self) -> str:
        """See `evaluate.Evidence`."""
        return self.window_text

    def direct(self, claim: Timed) -> Verdict | None:  # noqa: ARG002  one signature for every source
        """Counters alone hold no verdicts."""
        return None
