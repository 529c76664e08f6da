"""Which metric a level of a claim means, and how to ask Prometheus for it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rrrserve.claims.kinds import QUANTILES


@dataclass(frozen=True)
class Level:
    """A pair of counters: seconds spent, and how often; with a histogram's buckets where there are any.

    Attributes:
        total: sample of the time spent.
        count: sample of how often.
        bucket: sample of the histogram's buckets; empty where there are none.
        matchers: labels to select by, as regular expressions, the model's apart.
        unit_seconds: what one unit of `total` is.
    """

    total: str
    count: str
    bucket: str
    matchers: dict[str, str]
    unit_seconds: float

    @property
    def samples(self) -> tuple[str, ...]:
        """The names it reads."""
        return tuple(name for name in (self.count, self.total, self.bucket) if name)


def _histogram(name: str, **matchers: str) -> Level:
    return Level(f"{name}_sum", f"{name}_count", f"{name}_bucket", matchers, 1.0)


LEVELS = {
    "http": _histogram("rrr_request_duration_seconds", route=".*/predict", outcome="ok"),
    "triton": _histogram("rrr_inference_duration_seconds"),
    "engine": Level("nv_inference_compute_infer_duration_us", "nv_inference_request_success", "", {}, 1e-6),
}
# What tells whether the engine level can be trusted: rows and executed batches.
ROWS, EXECUTIONS = "nv_inference_count", "nv_inference_exec_count"
NEEDED = sorted({name for level in LEVELS.values() for name in level.samples} | {ROWS, EXECUTIONS})


class Window(NamedTuple):
    """A stretch of time.

    Attributes:
        length: as PromQL writes it, such as "5m".
        end: Unix time in seconds.
        seconds: the length again.
    """

    length: str
    end: float
    seconds: float

    @classmethod
    def between(cls, start: float, end: float) -> "Window":
        """The window from one Unix time in seconds to another; PromQL has no fractions, so it counts milliseconds."""
        return cls(duration(end - start), end, end - start)


def duration(seconds: float) -> str:
    """A number of seconds as PromQL writes it, rounded up to a millisecond: "90s", "1500ms"."""
    milliseconds = max(1, math.ceil(round(seconds * 1000, 3)))
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def promql(level: Level, model: str, statistic: str, window: Window) -> str:
    """The PromQL that gives a statistic of a model, in seconds, over a window, whenever it is asked."""
    where = _selector(level, model, window)
    if statistic == "mean":
        ratio = f"sum(increase({level.total}{where})) / sum(increase({level.count}{where}))"
        return ratio if level.unit_seconds == 1.0 else f"{level.unit_seconds:g} * {ratio}"
    return f"histogram_quantile({QUANTILES[statistic]:g}, sum by (le) (increase({level.bucket}{where})))"


def promql_rate(level: Level, model: str, window: Window) -> str:
    """The PromQL that gives good answers a second."""
    return f"sum(rate({level.count}{_selector(level, model, window)}))"


def series_selector(models: Iterable[str], samples: Iterable[str] = NEEDED) -> str:
    """The selector of the series that claims about these models read; `samples` are their names."""
    names, wanted = "|".join(sorted(samples)), "|".join(sorted({escaped(model) for model in models}))
    return f'{{__name__=~"{names}",model=~"{wanted}"}}'


def resets_query(models: Iterable[str], window: str) -> str:
    """The PromQL of how often each counter of requests was reset in windows; label `counter` names it.

    `resets` drops a metric's name, so one query for all would find the same labels twice.
    """
    wanted = "|".join(sorted({escaped(model) for model in models}))
    return " or ".join(
        f'label_replace(resets({level.count}{{model=~"{wanted}"}}[{window}]) > 0, "counter", "{level.count}", "", "")'
        for level in LEVELS.values()
    )


def escaped(model: str) -> str:
    """A model's name as PromQL's regular expression (RE2) within a quoted string."""
    quoted = "".join(letter if letter.isalnum() or letter in "_-" else f"\\\\{letter}" for letter in model)
    return quoted.replace('\\\\"', '\\\\\\"')


def _selector(level: Level, model: str, window: Window) -> str:
    name = model.replace("\\", "\\\\").replace('"', '\\"')
    labels = [f'model="{name}"', *(f'{label}=~"{pattern}"' for label, pattern in level.matchers.items())]
    return f"{{{','.join(labels)}}}[{window.length}] @ {window.end:.3f}"
