"""Cumulative metrics at points of time, and what was added between two of them.

A scrape and a Prometheus server both end up as `Reading`s, so one piece of code finds resets, gaps and NaN in both.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from prometheus_client.parser import text_string_to_metric_families

from rrrserve.claims.levels import LEVELS
from rrrserve.claims.reasons import UndecidableError

# Name of a sample, such as rrr_inference_duration_seconds_bucket, and its labels in the order of their names.
Series = tuple[str, tuple[tuple[str, str], ...]]

# A job's name, empty where we scraped, and an instance: what answers a scrape.
Target = tuple[str, str]

# Label that tells the services apart whose metrics are read together; Prometheus gives its targets the same label.
INSTANCE = "instance"
PREFIXES = ("rrr_", "nv_inference_")
START = "process_start_time_seconds"
_BUCKETS = tuple(level.bucket for level in LEVELS.values() if level.bucket)


@dataclass(frozen=True)
class Reading:
    """What the counters stood at.

    Attributes:
        time_seconds: when; only differences matter.
        values: of each series.
        down: instances that did not answer, and why.
        resets: counters of requests that are known to have been reset since the reading before.
        gaps: targets that did not answer for a while since the reading before, and why.
    """

    time_seconds: float
    values: Mapping[Series, float]
    down: Mapping[str, str] = field(default_factory=dict)
    resets: frozenset[Series] = frozenset()
    gaps: Mapping[Target, str] = field(default_factory=dict)

    @cached_property
    def names(self) -> frozenset[str]:
        """The samples' names."""
        return frozenset(self._by_name)

    @cached_property
    def instances(self) -> frozenset[str]:
        """The instances that answered with any metric."""
        return frozenset(dict(labels).get(INSTANCE, "") for _, labels in self.values)

    @cached_property
    def _by_name(self) -> dict[str, list[Series]]:
        found: dict[str, list[Series]] = {}
        for series in self.values:
            found.setdefault(series[0], []).append(series)
        return found

    def select(self, name: str, matchers: Mapping[str, str]) -> Iterator[tuple[dict[str, str], Series]]:
        """Labels and key of the series of a name whose labels match regular expressions, each as a whole."""
        for series in self._by_name.get(name, ()):
            labels = dict(series[1])
            if all(re.fullmatch(pattern, labels.get(label, "")) for label, pattern in matchers.items()):
                yield labels, series


def parse(text: str, instance: str) -> dict[Series, float]:
    """Read Prometheus's text format; only the metrics that claims are judged by are kept.

    Raises:
        UndecidableError: not in that format.
    """
    try:
        return {
            (_plain(sample.name), tuple(sorted({**sample.labels, INSTANCE: instance}.items()))): float(sample.value)
            for metric in text_string_to_metric_families(_without_other_buckets(text))
            for sample in metric.samples
            if sample.name.startswith((*PREFIXES, START))
        }
    except (ValueError, KeyError, IndexError, TypeError) as error:  # the parser's own kinds for a malformed line
        raise UndecidableError(
            "bad_metrics", f"{instance} answered, but not in Prometheus's text format: {error}"
        ) from error


def increase(before: Reading, after: Reading, series: Series) -> float:
    """What was added to one counter between two readings.

    A series that is new counts from 0 if its instance had answered before: services make series at first use. Where the
    instance was not known before either, as at the start of a Prometheus server's memory, nothing counts.

    Raises:
        UndecidableError: NaN, a value that fell, or a series that is gone; names the counter.
    """
    now, then = after.values.get(series), before.values.get(series)
    name = shown_series(series)
    instance = dict(series[1]).get(INSTANCE, "")
    if now is None:
        if then is None:
            return 0.0
        if reason := after.down.get(instance):
            raise UndecidableError("target_down", f"{instance} stopped answering meanwhile: {reason}")
        raise UndecidableError("counter_reset", f"{name} is gone: the service was restarted meanwhile; run it again")
    if then is None:
        if reason := before.down.get(instance):
            raise UndecidableError("target_down", f"{instance} did not answer in the beginning: {reason}")
        if instance not in before.instances:
            return 0.0
        then = 0.0
    if not (math.isfinite(now) and math.isfinite(then)):
        raise UndecidableError(
            "not_a_number", f"{name} is {now if not math.isfinite(now) else then}: it must be a number"
        )
    if now < then:
        raise UndecidableError(
            "counter_reset",
            f"{name} fell from {then:g} to {now:g}: the service was restarted meanwhile; run it again, "
            "or leave such blocks out with --allow-resets",
        )
    return now - then


def _without_other_buckets(text: str) -> str:
    """Without the buckets that no claim reads: they are most of the text, and parsing all takes four times as long."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if "_bucket{" not in line or line.startswith(_BUCKETS))


def _plain(name: str) -> str:
    """A sample's name as Triton writes it: the parser gives counters OpenMetrics's ending, which they lack there."""
    return name.removesuffix("_total") if name.startswith("nv_") else name


def target_of(series: Series) -> Target:
    """What a series was read from."""
    labels = dict(series[1])
    return labels.get("job", ""), labels.get(INSTANCE, "")


def shown_series(series: Series) -> str:
    """A series for people, as PromQL writes it, without its instance."""
    labels = ",".join(f'{label}="{value}"' for label, value in series[1] if label != INSTANCE)
    return f"{series[0]}{{{labels}}}"
