"""What a real Prometheus tells of an hour in which services were restarted, away and reloaded between two looks."""

import asyncio
import math
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from prometheus_install import find
from rrrbench.servers import answers, free_port, running
from rrrserve.claims.kinds import KINDS
from rrrserve.claims.levels import Window, duration
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.prometheus import Prometheus
from rrrserve.judge.evaluate import evaluate
from rrrserve.judge.spans import SpanEvidence
from rrrserve.judge.verdicts import Verdict

SCRAPES, INTERVAL = 240, 15.0  # an hour; a look at it has steps of a minute
AWAY = 122  # a scrape that no step falls on
BEGAN = math.floor(time.time() / 3600) * 3600.0 - 4 * 3600
NAME = "rrr_inference_duration_seconds"


class Told:
    """The samples of one target, whose model is called as the target is."""

    def __init__(self, name: str, mean_seconds: float = 0.01, *, start: bool = True) -> None:
        random = np.random.default_rng(len(name))
        spent = np.cumsum(mean_seconds * 100 * random.lognormal(0, 0.02, SCRAPES))
        count = 100.0 * np.arange(1, SCRAPES + 1)
        self.lines: list[str] = []
        self.labels = f'instance="{name}:3000",job="rrr"'
        model = f'model="{name}",target="any"'
        self.series = {
            f"{NAME}_count{{{self.labels},{model}}}": count,
            f"{NAME}_sum{{{self.labels},{model}}}": spent,
            f'{NAME}_bucket{{{self.labels},{model},le="0.02"}}': count,
            f'{NAME}_bucket{{{self.labels},{model},le="+Inf"}}': count,
            f"up{{{self.labels}}}": np.ones(SCRAPES),
        }
        if start:
            self.add(f'rrr_model_info{{{self.labels},model="{name}",version="1",target="any"}}', 1.0)
            self.add(f"process_start_time_seconds{{{self.labels}}}", 1000.0)

    def add(self, series: str, value: float) -> None:
        self.series[series] = np.full(SCRAPES, value)

    def text(self) -> str:
        """In OpenMetrics's format; NaN is no sample."""
        return "".join(
            f"{series} {value} {BEGAN + INTERVAL * index}\n"
            for series, values in self.series.items()
            for index, value in enumerate(values)
            if not math.isnan(value)
        )


def counters(told: Told) -> Iterator[npt.NDArray[np.float64]]:
    return (values for series, values in told.series.items() if series.startswith(NAME))


def restarted() -> Told:
    """The counters begin anew right after a step's scrape, and are beyond their old values at the next step's."""
    told = Told("restarted", start=False)
    for values in counters(told):
        values[AWAY - 1] = 1.0
        values[AWAY:] += values[AWAY]
    return told


def restarted_unseen() -> Told:
    """They are beyond their old values at the very next scrape; only the process's start tells."""
    told = Told("unseen")
    told.series[f"process_start_time_seconds{{{told.labels}}}"][AWAY:] = 1900.0
    return told


def away(name: str, *, start: bool) -> Told:
    """A scrape failed, between steps."""
    told = Told(name, start=start)
    for series, values in told.series.items():
        values[AWAY] = 0.0 if series.startswith("up") else math.nan
    return told


def reloaded() -> Told:
    """Another repository from a scrape on."""
    told = Told("reloaded")
    for name, part in (("a", slice(AWAY, None)), ("b", slice(0, AWAY))):
        told.add(f'rrr_repository_info{{{told.labels},repository="{name}"}}', 1.0)
        told.series[f'rrr_repository_info{{{told.labels},repository="{name}"}}'][part] = math.nan
    return told


def reloaded_and_back() -> Told:
    """Another repository and back again, between steps."""
    told = Told("back")
    told.add(f'rrr_reloads_total{{{told.labels},outcome="switched"}}', 1.0)
    told.series[f'rrr_reloads_total{{{told.labels},outcome="switched"}}'][AWAY:] = 3.0
    return told


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that remembers all of them; its URL."""
    folder = tmp_path_factory.mktemp("prometheus")
    services = [Told("steady"), Told("slow", 0.05), restarted(), restarted_unseen(), reloaded(), reloaded_and_back()]
    services += [away("away", start=False), away("bridged", start=True)]
    (folder / "samples").write_text("".join(told.text() for told in services) + "# EOF\n")
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    filled = [str(find("promtool")), "tsdb", "create-blocks-from", "openmetrics"]
    filled += [str(folder / "samples"), str(folder / "data")]
    subprocess.run(filled, check=True, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(find("prometheus")), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={url.removeprefix('http://')}"]
    with running(command, url=url, ready=answers(f"{url}/-/ready"), log=folder / "log"):
        yield url


def judged(url: str, *, allow_resets: bool = False, **fields: Any) -> Verdict:
    """The verdict on a claim at the triton level over the hour."""
    claim = KINDS[fields["kind"]].model_validate({"name": "it", "level": "triton", **fields})
    end = BEGAN + INTERVAL * (SCRAPES - 1)
    start = end - 3540  # the steps fall on every fourth scrape

    async def asked() -> SpanEvidence:
        async with httpx.AsyncClient(trust_env=False) as client:
            spans = await Prometheus(client, url).spans(claim.models, start, end)
        window = Window.between(start, end)
        return SpanEvidence(spans, window_looked_at=window, remembered=True, allow_resets=allow_resets)

    return evaluate(claim, asyncio.run(asked()), 0.05)  # type: ignore[arg-type]


def latency(url: str, model: str, *, allow_resets: bool = False) -> Verdict:
    return judged(url, kind="latency", model=model, at_most_ms=12, allow_resets=allow_resets)


@pytest.mark.parametrize(
    ("model", "reason", "message", "with_allow_resets"),
    [
        ("steady", "bound_met", "as claimed", "bound_met"),
        ("restarted", "counter_reset", "began anew between two readings, though it may stand higher", "bound_met"),
        ("unseen", "counter_reset", "began anew between two readings, though it may stand higher", "bound_met"),
        ("away", "target_down", "could not scrape away:3000 of its job 'rrr' (up is 0); nothing tells", "bound_met"),
        ("bridged", "bound_met", "as claimed", "bound_met"),
        ("reloaded", "engine_changed", "the repository was a and is b", "engine_changed"),
        ("back", "engine_changed", "back:3000 was reloaded 2 times meanwhile", "bound_met"),
    ],
)
def test_what_happened_between_two_steps_is_seen(
    prometheus: str, model: str, reason: str, message: str, with_allow_resets: str
) -> None:
    found = latency(prometheus, model)
    assert (found.reason, message in found.explanation) == (reason, True), found.explanation
    found = latency(prometheus, model, allow_resets=True)
    assert found.reason == with_allow_resets
    assert ("dropped_blocks" in found.evidence) == (reason != with_allow_resets)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "latency", "model": "steady", "at_most_ms": 12},
        {"kind": "latency", "model": "steady", "statistic": "p90", "at_most_ms": 30},
        {"kind": "speedup", "model": "steady", "baseline": "slow", "at_least": 4},
    ],
)
def test_the_query_of_a_verdict_gives_its_pooled_figure_at_any_later_time(
    prometheus: str, fields: dict[str, Any]
) -> None:
    found = judged(prometheus, **fields)
    (query,) = found.queries
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}, trust_env=False).json()
    (series,) = answer["data"]["result"]
    assert float(series["value"][1]) == pytest.approx(found.evidence["pooled"], rel=1e-3)
    assert found.interval is not None
    assert found.interval.low <= found.evidence["pooled"] <= found.interval.high


def test_a_refused_query_names_itself(prometheus: str) -> None:
    async def asked() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            await Prometheus(client, prometheus).spans(["steady"], BEGAN, BEGAN - 60)

    with pytest.raises(UndecidableError, match=r"query_range refused .*end timestamp must not be before start time"):
        asyncio.run(asked())


def test_durations_are_written_in_whole_milliseconds() -> None:
    assert [duration(seconds) for seconds in (60.0, 1.5, 0.2504, 0.0)] == ["60s", "1500ms", "251ms", "1ms"]
