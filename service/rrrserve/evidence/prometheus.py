"""Evidence from a Prometheus server: the same counters, as it remembers them, by PromQL over its HTTP API."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from rrrnet.errors import UsageError
from rrrserve.claims.levels import LEVELS, NEEDED, duration, resets_query, series_selector
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.blocks import Span
from rrrserve.evidence.continuity import MODEL, RELOADS, REPOSITORY
from rrrserve.evidence.measured import LABEL
from rrrserve.evidence.readings import INSTANCE, PREFIXES, START, Reading, Series, Target
from rrrserve.net import tls

_TIMEOUT_SECONDS = 30.0
_POINTS = 60
_MIN_STEP_SECONDS = 0.25
# What tells restarts and reloads; the time of a start only of those that are services of ours.
_IDENTITY = f'{{__name__=~"{MODEL}|{REPOSITORY}|{RELOADS}"}} or ({START} and on (job, instance) {MODEL})'
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def duration_seconds(text: str, *, option: str = "--range") -> float:
    """Read a duration as PromQL writes it: "5m", "1h30m"; `option` is where it was given.

    Raises:
        UsageError: it is none.
    """
    parts = re.findall(r"(\d+)(ms|[smhdw])", text)
    seconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise UsageError(f"{option} is {text!r}: expected a duration such as 30s, 5m or 1h30m")
    return seconds


class Prometheus:
    """A Prometheus server."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = client

    async def spans(self, models: Sequence[str], start: float, end: float) -> list[Span]:
        """What the counters of the models gained between two times.

        Args:
            models: whose.
            start: Unix time in seconds.
            end: likewise.

        Raises:
            UndecidableError: the server does not answer, or not as Prometheus does.
        """
        step = max(_MIN_STEP_SECONDS, (end - start) / _POINTS)
        window = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}

        async def asked(query: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await self._ask("query_range", {"query": query, **window}))["result"]
            return found

        try:
            counters = await asked(series_selector(models))
            # Where a step is longer than the time between two scrapes, these see the scrapes that no step falls on.
            # The window of resets is twice as long: a fall from a step's last scrape to the first of the next counts.
            readings = _readings(
                [*counters, *await asked(_IDENTITY)],
                {_target(item["metric"]) for item in counters},
                [*await asked("up"), *await asked(f"min_over_time(up[{duration(step)}])")],
                await asked(resets_query(models, duration(2 * step))),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UndecidableError("bad_metrics", f"{self.url} answered, but not as Prometheus: {error!r}") from error
        if not readings:
            raise UndecidableError(
                "metric_missing",
                f"{self.url} holds nothing of that time: does it scrape the service, and is --range right?",
            )
        if len(readings) == 1:
            readings *= 2
        if not counters:
            readings.append(Reading(end, await self._others(readings[-1]), readings[-1].down))
        return [Span(one, two, two.time_seconds - one.time_seconds) for one, two in pairwise(readings)]

    async def repositories(
        self, models: Sequence[str], levels: Iterable[str], start: float, end: float
    ) -> dict[str, set[str]]:
        """Short digests of the repositories that each instance served between two times; empty if it told none.

        Args:
            models: only instances with counters of these.
            levels: and of these levels (`LEVELS`).
            start: Unix time in seconds.
            end: likewise.

        Raises:
            UndecidableError: the server does not answer, or not as Prometheus.
        """
        window = f"[{max(1, math.ceil((end - start) * 1000))}ms]"
        counters = series_selector(models, {name for level in levels for name in LEVELS[level].samples})
        series = (
            f"count by ({INSTANCE}) (last_over_time({counters}{window}))",
            f"count by ({INSTANCE}, {LABEL}) (last_over_time({REPOSITORY}{window}))",
        )
        measured, told = [(await self._ask("query", {"query": query, "time": f"{end:.3f}"})) for query in series]
        found: dict[str, set[str]] = {item["metric"].get(INSTANCE, ""): set() for item in measured["result"]}
        for item in told["result"]:
            if (instance := item["metric"].get(INSTANCE, "")) in found:
                found[instance].add(item["metric"].get(LABEL, ""))
        return found

    async def last_sample(self, models: Sequence[str]) -> float:
        """Unix time of the newest sample of these models; 0 if there is none."""
        # Name by name: timestamp() takes the names away, and a histogram's _sum and _count without their names are the
        # same, which Prometheus refuses.
        newest = (
            f'label_replace(max(timestamp({series_selector(models, [name])})), "of", "{name}", "", "")'
            for name in NEEDED
        )
        found = await self._ask("query", {"query": f"max({' or '.join(newest)})"})
        return float(found["result"][0]["value"][1]) if found["result"] else 0.0

    async def _others(self, last: Reading) -> dict[Series, float]:
        """Metrics of ours by whatever name and model, to tell a user who misspelt one."""
        pattern = "|".join(f"{prefix}.*_(count|success)" for prefix in PREFIXES)
        found = await self._ask("query", {"query": f'count by (__name__, model) ({{__name__=~"{pattern}"}})'})
        return {**last.values, **{_series(item["metric"]): 0.0 for item in found["result"]}}

    async def _ask(self, path: str, parameters: dict[str, str]) -> dict[str, Any]:
        place = f"{self.url}/api/v1/{path}"
        try:
            answer = await self._client.post(place, data=parameters, timeout=_TIMEOUT_SECONDS)
            document = answer.json()
        except httpx.HTTPError as error:
            reason = tls.failure(error)
            words = f"({str(error) or type(error).__name__}): is Prometheus running there?"
            raise UndecidableError(
                "target_down", f"POST {place} failed {words if reason is None else f'over TLS: {reason}'}"
            ) from error
        except ValueError as error:
            raise UndecidableError("target_down", f"{place} answered without JSON: is it a Prometheus?") from error
        if not isinstance(document, dict) or document.get("status") != "success":
            reason = document.get("error") if isinstance(document, dict) else None
            raise UndecidableError(
                "target_down", f"{place} refused {parameters['query']}: {reason or answer.status_code}"
            )
        data: dict[str, Any] | None = document.get("data")
        if not isinstance(data, dict) or not isinstance(data.get("result"), list):
            raise UndecidableError("bad_metrics", f"{place} answered without results: is it a Prometheus?")
        return data


def _readings(
    series_found: Sequence[dict[str, Any]],
    ours: set[Target],
    health: Sequence[dict[str, Any]],
    resets: Sequence[dict[str, Any]],
) -> list[Reading]:
    """Range vectors turned into a reading for each step.

    A step at which a target was down gives no reading, but a gap in the next one: whether it can be bridged is told by
    `continuity`.

    Args:
        series_found: of our counters, and of what tells which engine they belong to.
        ours: targets that have our counters. Only they matter, unless there is none.
        health: of `up`, 1 where all went well.
        resets: label `counter` names what was reset.
    """
    steps: defaultdict[float, _Step] = defaultdict(_Step)
    for item in series_found:
        for moment, value in item["values"]:
            steps[float(moment)].values[_series(item["metric"])] = float(value)
    for item in health:
        target, at_the_step = _target(item["metric"]), "__name__" in item["metric"]
        for moment, value in item["values"]:
            step = steps[float(moment)]
            if float(value) == 1 and at_the_step:
                step.values[_series(item["metric"])] = 1.0
            elif float(value) != 1 and (target in ours or not ours):
                reason = f"Prometheus could not scrape {target[1]} of its job {target[0]!r} (up is 0)"
                (step.down if at_the_step else step.gaps)[target] = reason
    for item in resets:
        name, labels = _series(item["metric"] | {"__name__": item["metric"]["counter"]})
        series = name, tuple(pair for pair in labels if pair[0] != "counter")
        for moment, _ in item["values"]:
            steps[float(moment)].resets.add(series)
    read = sorted(moment for moment, step in steps.items() if step.values or step.down)
    readings: list[Reading] = []
    since = _Step()  # what happened since the reading before
    for moment in read:
        step = steps[moment]
        since.gaps |= step.gaps | step.down
        since.resets |= step.resets
        if not step.down or moment == read[-1]:
            away = {instance: reason for (_, instance), reason in step.down.items()}
            readings.append(Reading(moment, step.values, away, frozenset(since.resets), since.gaps))
            since = _Step()
    return readings


@dataclass
class _Step:
    """What range vectors tell of one moment: values, and what was down at it, away before it, or reset before it."""

    values: dict[Series, float] = field(default_factory=dict)
    down: dict[Target, str] = field(default_factory=dict)
    gaps: dict[Target, str] = field(default_factory=dict)
    resets: set[Series] = field(default_factory=set)


def _target(metric: dict[str, str]) -> Target:
    return metric.get("job", ""), metric.get(INSTANCE, "")


def _series(metric: dict[str, str]) -> Series:
    labels = {name: value for name, value in metric.items() if name != "__name__"}
    return metric.get("__name__", ""), tuple(sorted(labels.items()))
