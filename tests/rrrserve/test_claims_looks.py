"""Looks at a drive: which claims Prometheus has a word in, and what becomes of them when it does not answer."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rrrserve.claims.kinds import Latency, Throughput, Timed
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.blocks import Span
from rrrserve.evidence.readings import INSTANCE, Reading, Series
from rrrserve.judge import looks as looks_module
from rrrserve.judge.drive import Driven
from rrrserve.judge.looks import Looks

NAME = "rrr_request_duration_seconds"
SILENT = UndecidableError("target_down", "http://prometheus answered 503")


def spans(model: str, mean_seconds: float, *, blocks: int = 20, requests: int = 100) -> list[Span]:
    """Blocks of a model whose requests all end in one bucket."""
    random = np.random.default_rng(1)
    labels = {"model": model, "route": "/v1/models/{name}/predict", "outcome": "ok", INSTANCE: "here"}

    def reading(index: int, total: float) -> Reading:
        def series(part: str, **more: str) -> Series:
            return f"{NAME}_{part}", tuple(sorted({**labels, **more}.items()))

        count = float(requests * index)
        values = {series("count"): count, series("sum"): total}
        values |= {series("bucket", le=le): count for le in ("1.0", "+Inf")}
        return Reading(float(index), values)

    totals = np.cumsum([0.0, *(requests * mean_seconds * random.lognormal(0, 0.01, blocks))])
    readings = [reading(index, total) for index, total in enumerate(totals)]
    return [Span(one, two, 1.0) for one, two in pairwise(readings)]


class Remembering:
    """A Prometheus that has seen other durations than we did, and may not answer."""

    def __init__(self, seen: Sequence[Span]) -> None:
        self.seen = seen
        self.silent = False

    async def spans(self, *_: object) -> Sequence[Span]:
        if self.silent:
            raise SILENT
        return self.seen

    async def last_sample(self, _: object) -> float:
        if self.silent:
            raise SILENT
        return 1e12


def latency(name: str, model: str, at_most_ms: float) -> Latency:
    return Latency(name=name, kind="latency", model=model, at_most_ms=at_most_ms)


def looking(prometheus: Remembering, *claims: Timed) -> Looks:
    """Looks before the first of them."""
    found = Looks(
        claims,
        alpha=0.05,
        concurrency=1,
        allow_resets=False,
        command="rrr verify --drive",
        prometheus=prometheus,  # type: ignore[arg-type]
        report=lambda *_: None,
    )
    asyncio.run(found.meet_prometheus())
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(looks_module, "_POLL_SECONDS", 0.01)


def look(looks: Looks, driven: Driven, *, last: bool = False) -> dict[str, tuple[str, str]]:
    """Verdicts and reasons after one more look."""
    asyncio.run(looks.look(driven, 0.5, last))
    return {name: (verdict.verdict, verdict.reason) for name, verdict in looks.found.items()}


def test_a_model_that_is_also_driven_at_another_concurrency_is_judged_by_scrapes_alone_and_says_so() -> None:
    """Prometheus sees the slow answers of the crowded turns too: 8 ms on average, where a lone request takes 5."""
    throughput = Throughput(name="crowd", kind="throughput", model="busy", at_least_per_second=50, p99_ms=2000)
    prometheus = Remembering([*spans("busy", 0.008)])
    looks = looking(prometheus, latency("alone", "busy", 6), throughput)
    driven = Driven({("busy", 1): spans("busy", 0.005), ("busy", 4): spans("busy", 0.02)})
    assert look(looks, driven) == {"alone": ("pass", "bound_met"), "crowd": ("pass", "bound_met")}
    why = {name: verdict.evidence["scrapes_alone"] for name, verdict in looks.found.items()}
    assert why == {
        "alone": "busy was driven with 1 and 4 requests under way in turns",
        "crowd": "its rate is that of busy's turns alone",
    }
    for verdict in looks.found.values():
        assert "; by scrapes alone, without Prometheus: " in verdict.explanation
        assert verdict.queries == ("rrr verify --drive",)


def test_a_model_of_one_concurrency_is_judged_by_both_though_another_is_not() -> None:
    crowd = Throughput(name="crowd", kind="throughput", model="busy", at_least_per_second=50, p99_ms=2000)
    looks = looking(Remembering(spans("calm", 0.008)), latency("calm", "calm", 6), crowd)
    driven = Driven({("calm", 1): spans("calm", 0.005), ("busy", 4): spans("busy", 0.02)})
    assert look(looks, driven)["calm"] == ("undecided", "sources_disagree")
    assert looks.found["calm"].evidence["scraped"]["verdict"] == "pass"


def test_a_look_at_a_silent_prometheus_decides_nothing_and_the_next_goes_on() -> None:
    prometheus = Remembering(spans("calm", 0.005))
    looks = looking(prometheus, latency("sure", "calm", 6), latency("close", "calm", 5))
    driven = Driven({("calm", 1): spans("calm", 0.005)})
    prometheus.silent = True
    assert look(looks, driven) == {"sure": ("undecided", "target_down"), "close": ("undecided", "target_down")}
    assert looks.turns() == [("calm", 1)]
    prometheus.silent = False
    decided = {"sure": ("pass", "bound_met"), "close": ("undecided", "interval_straddles_bound")}
    assert look(looks, driven) == decided
    prometheus.silent = True
    assert look(looks, driven, last=True) == {**decided, "close": ("undecided", "target_down")}
    assert looks.found["close"].evidence["scraped"]["reason"] == "interval_straddles_bound"
    assert looks.found["sure"].evidence["scraped"]["verdict"] == "pass"


def test_a_drive_that_breaks_off_leaves_what_was_decided() -> None:
    looks = looking(Remembering(spans("calm", 0.005)), latency("sure", "calm", 6), latency("close", "calm", 5))
    look(looks, Driven({("calm", 1): spans("calm", 0.005)}))
    looks.give_up(UndecidableError("bad_metrics", "not in Prometheus's text format"))
    found = {name: (verdict.verdict, verdict.reason) for name, verdict in looks.found.items()}
    assert found == {"sure": ("pass", "bound_met"), "close": ("undecided", "bad_metrics")}


def test_without_a_prometheus_that_answers_nothing_is_driven_for_the_claims_that_need_it() -> None:
    prometheus: Any = Remembering([])
    prometheus.silent = True
    crowd = Throughput(name="crowd", kind="throughput", model="busy", at_least_per_second=50, p99_ms=2000)
    looks = looking(prometheus, latency("calm", "calm", 6), crowd)
    assert looks.found["calm"].reason == "target_down"
    assert looks.turns() == [("busy", 4)]
