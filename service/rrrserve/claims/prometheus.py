"""Evidence from a Prometheus server: the same counters, as it remembers them, by PromQL over its HTTP API."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import httpx

from rrrnet.errors import UsageError
from rrrserve.claims.blocks import Span
from rrrserve.claims.levels import series_selector
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
            UndecidableError: the server does not answer, or not as Prometheus does.
        """
        step = max(_MIN_STEP_SECONDS, (end - start) / _POINTS)
        window = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        found = await self._ask("query_range", {"query": series_selector(models), **window})
        health = await self._ask("query_range", {"query": "up", **window})
        try:
            readings = _readings(found["result"], health["result"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UndecidableError("bad_metrics", f"{self.url} answered, but not as Prometheus: {error!r}") from error
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
            raise UndecidableError(
                "target_down",
                f"POST {place} failed ({str(error) or type(error).__name__}): is Prometheus running there?",
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
