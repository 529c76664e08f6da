"""Evidence from readings of counters: scraped while traffic or our own load ran, or remembered by Prometheus."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrrserve.claims.kinds import Throughput, Timed
from rrrserve.claims.levels import Window
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.blocks import Blocks, Span, blocks_of
from rrrserve.judge.verdicts import Verdict

# Whose turn it was and at how many requests under way.
ModelLoad = tuple[str, int]

# Two scrapes of a Prometheus that scrapes as deploy/prometheus says; `increase` over less finds nothing.
SHORT_WINDOW_SECONDS = 30.0


@dataclass
class SpanEvidence:
    """Blocks between readings.

    Attributes:
        spans: stretches of time that count for every model; empty where models took turns.
        turns: stretches of each turn, in the order of the rounds, where they did.
        concurrency: of the turns that claims on latency are judged by.
        tally: what the client counted in its turns, JSON-ready.
        window_looked_at: the time looked at.
        command: measures again; given where PromQL does not reproduce the figures.
        remembered: whether they are a Prometheus server's, so that it can be asked for them again.
        allow_resets: leave blocks out in which a counter was reset.
        failed: turns that could not be driven, and why.
        remedy: what to do about an interval that is too wide.
        saturated: see `evaluate.Evidence`.
    """

    spans: Sequence[Span] = ()
    turns: Mapping[ModelLoad, Sequence[Span]] = field(default_factory=dict)
    concurrency: int = 1
    tally: Mapping[ModelLoad, Mapping[str, Any]] = field(default_factory=dict)
    window_looked_at: Window | None = None
    command: str = "rrr verify"
    remembered: bool = False
    allow_resets: bool = False
    failed: Mapping[ModelLoad, UndecidableError] = field(default_factory=dict)
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

    def queries(self, claim: Timed, promql: Sequence[str]) -> tuple[str, ...]:
        """PromQL works wherever the same service is scraped; but it cannot tell turns of one model apart."""
        if self.turns and told_apart_by_turns(claim, self.turns):
            return (self.command,)
        window = self.window_looked_at
        if self.remembered or window is None or window.seconds >= SHORT_WINDOW_SECONDS:
            return tuple(promql)
        return (*promql, self.command)

    def window(self) -> Window | None:
        """See `evaluate.Evidence`."""
        return self.window_looked_at

    def direct(self, claim: Timed) -> Verdict | None:  # noqa: ARG002  one signature for every source
        """Counters alone hold no verdicts."""
        return None


def told_apart_by_turns(claim: Timed, turns: Iterable[ModelLoad]) -> str | None:
    """Why only readings between turns are evidence of a claim, if so: a server that scrapes by itself mixes turns.

    Args:
        claim: to judge.
        turns: all that are driven.
    """
    if isinstance(claim, Throughput):
        return f"its rate is that of {claim.model}'s turns alone"
    for model in claim.models:
        levels = sorted({concurrency for name, concurrency in turns if name == model})
        if len(levels) > 1:
            return f"{model} was driven with {' and '.join(map(str, levels))} requests under way in turns"
    return None
