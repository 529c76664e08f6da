"""Evidence from a Prometheus server: the same counters, as it remembers them, by PromQL over its HTTP API."""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import httpx

from rrrnet.errors import UsageError
from rrrserve import tls
from rrrserve.claims.blocks import Span
from rrrserve.claims.levels import LEVELS, series_selector
from rrrserve.claims.measured import INFO, LABEL
from rrrserve.claims.readings import INSTANCE, PREFIXES, Reading, Series
from rrrserve.claims.reasons import UndecidableError

_TIMEOUT_SECONDS = 30.0
_POINTS = 60
_MIN_STEP_SECONDS = 0.25
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def duration_seconds(text: str) -> float:
    """Read a duration as PromQL writes it: "5m", "1h30m".

    Raises:
        UsageError: it is none.
    """
    parts = re.findall(r"(\d+)(ms|[smhdw])", text)
    seconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise UsageError(f"--range is {text!r}: expected a duration such as 30s, 5m or 1h30m")
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
            UndecidableError: the server does not answer, or not as Prometheus.
        """
        step = max(_MIN_STEP_SECONDS, (end - start) / _POINTS)
        window = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        found = await self._ask("query_range", {"query": series_selector(models), **window})
        health = await self._ask("query_range", {"query": "up", **window})
        readings = _readings(found["result"], health["result"])
        if not readings:
            raise UndecidableError(
                "metric_missing",
                f"{self.url} holds nothing of that time: does it scrape the service, and is --range right?",
            )
        if len(readings) == 1:
            readings *= 2
        if not any(name.startswith(PREFIXES) for reading in readings for name in reading.names):
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
            f"count by ({INSTANCE}, {LABEL}) (last_over_time({INFO}{window}))",
        )
        measured, told = [(await self._ask("query", {"query": query, "time": f"{end:.3f}"})) for query in series]
        found: dict[str, set[str]] = {item["metric"].get(INSTANCE, ""): set() for item in measured["result"]}
        for item in told["result"]:
            if (instance := item["metric"].get(INSTANCE, "")) in found:
                found[instance].add(item["metric"].get(LABEL, ""))
        return found

    async def last_sample(self, models: Sequence[str]) -> float:
        """Unix time of the newest sample of these models; 0 if there is none."""
        found = await self._ask("query", {"query": f"max(timestamp({series_selector(models)}))"})
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
        data: dict[str, Any] = document["data"]
        return data


def _readings(counters: Sequence[dict[str, Any]], health: Sequence[dict[str, Any]]) -> list[Reading]:
    """Range vectors of our counters and of `up`, turned into a reading for each step.

    A scrape that failed is bridged where a later one succeeded: counters go on, and if the service was restarted in
    between they fell. Only instances that have our counters matter, unless none has.
    """
    values: dict[float, dict[Series, float]] = {}
    down: dict[float, dict[str, str]] = {}
    ours = {item["metric"].get(INSTANCE, "") for item in counters}
    for item in [*counters, *health]:
        series, instance = _series(item["metric"]), item["metric"].get(INSTANCE, "")
        for moment, value in item["values"]:
            if series[0] != "up" or float(value) == 1:
                values.setdefault(float(moment), {})[series] = float(value)
            elif instance in ours or not ours:
                job = item["metric"].get("job")
                down.setdefault(float(moment), {})[instance] = f"Prometheus could not scrape its job {job!r} (up is 0)"
    moments = sorted({*values, *down})
    last = moments[-1] if moments else 0.0
    return [
        Reading(moment, values.get(moment, {}), down.get(moment, {}))
        for moment in moments
        if moment not in down or moment == last
    ]


def _series(metric: dict[str, str]) -> Series:
    labels = {name: value for name, value in metric.items() if name != "__name__"}
    return metric.get("__name__", ""), tuple(sorted(labels.items()))
