"""What a bench found, and the document that says so (docs/internals/formats.md has its fields)."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rrrbuild.cascade_runner import FAST, FULL
from rrrserve.bench.clients.client import AnsweredBy
from rrrserve.bench.clients.subjects import Subject
from rrrserve.bench.figures import Turn, figures, round_to_json
from rrrserve.bench.plan import BenchPlan, Load
from rrrserve.bench.search import Search
from rrrserve.stamps.environment import describe

FORMAT = 1
KIND = "rrr-bench"
# The share of what the client can send from which on its own work is a part of the latencies.
BOTTLENECK_SHARE = 0.5
# The share of a run's p99 that late sends may reach before the result warns.
_LATE_SHARE = 0.1


@dataclass
class Found:
    """What has been found so far; filled by the runner.

    Attributes:
        subjects: what is measured.
        plan: how.
        turns: of each subject, by its place in the list, at each load; over or cut short.
        searches: for the highest rate, by subject.
        limits: requests a second that the client can send, by level.
        answered_by: answers, or images, by who gave them, warm-up left out; by subject and load.
        generated_images: whether requests carry pictures that are none of the model's kind.
        interrupted: ended before its time.
        started: when.
        environment: where.
    """

    subjects: Sequence[Subject]
    plan: BenchPlan
    turns: dict[tuple[int, Load], list[Turn]] = field(default_factory=dict)
    searches: dict[int, Search] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    answered_by: dict[tuple[int, Load], Counter[AnsweredBy]] = field(default_factory=dict)
    generated_images: bool = False
    interrupted: bool = False
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    environment: dict[str, Any] = field(default_factory=describe)

    def document(self) -> dict[str, Any]:
        """The result as far as it goes."""
        runs = [
            {
                **self.subjects[index].to_json(),
                **load.to_json(),
                **figures(turns),
                "answered_by": told_by(self.answered_by.get((index, load), Counter())),
                "rounds": [round_to_json(turn) for turn in turns],
            }
            for (index, load), turns in sorted(self.turns.items(), key=lambda item: item[0][0])
        ]
        document: dict[str, Any] = {
            "format": FORMAT,
            "kind": KIND,
            "command": shlex.join(["rrr", *sys.argv[1:]]),
            "started": self.started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "interrupted": self.interrupted,
            "environment": self.environment,
            "plan": {**asdict(self.plan), "loads": [str(load) for load in self.plan.loads]},
            "client": self._client(runs),
            "runs": runs,
        }
        if self.searches:
            document["highest_rate"] = [
                {**self.subjects[index].to_json(), **_search_to_json(search)} for index, search in self.searches.items()
            ]
        return document

    def _client(self, runs: list[dict[str, Any]]) -> dict[str, Any]:
        """What the client could do, and how near it came to it."""
        shares = [(run["throughput"] / self.limits[run["level"]], run["level"]) for run in runs if run["ok"]]
        share, level = max(shares, default=(0.0, next(iter(self.limits), "")))
        return {
            "limit_requests_per_second": round(self.limits[level], 1) if level in self.limits else None,
            "largest_share_of_limit": float(f"{share:.3g}"),
            "bottleneck": share > BOTTLENECK_SHARE,
            "limits": {name: round(limit, 1) for name, limit in self.limits.items()},
            "warnings": list(self._warnings(runs, share, level)),
        }

    def _warnings(self, runs: list[dict[str, Any]], share: float, level: str) -> Iterator[str]:
        if share > BOTTLENECK_SHARE:
            yield (
                f"the client sent {share:.0%} of the {self.limits[level]:.0f} requests a second that it can: latencies "
                "are partly its own"
            )
        if self.generated_images and (
            names := sorted({run["model"] for run in runs if is_cascade(run["answered_by"])})
        ):
            yield (
                f"{', '.join(names)}: generated images tell little of a cascade's speed, which depends on how many "
                "images its first members settle: send real ones with --data DIR or --images DIR"
            )
        for run in runs:
            where = f"{run['model']} ({run['level']}), {run.get('rate_per_second') or 0:g}/s"
            if run["ok"] and run.get("late_p99_ms", 0.0) > _LATE_SHARE * run["p99_ms"]:
                yield f"{where}: 1 % of the requests were sent {run['late_p99_ms']:g} ms late or more"
            if run.get("not_sent"):
                yield (
                    f"{where}: {run['not_sent']} requests were not sent, because {self.plan.max_in_flight} were under "
                    "way (--max-in-flight): the server does not keep up"
                )


def told_by(answered_by: Counter[AnsweredBy]) -> list[dict[str, Any]]:
    """Who gave answers, the most first, JSON-ready."""
    return [{**by._asdict(), "answers": count} for by, count in answered_by.most_common()]


def is_cascade(told: Iterable[dict[str, Any]]) -> bool:
    """Whether answers are of a model that may answer early; one without a cascade says `full`."""
    return any(entry["effort"] != FULL for entry in told)


def early_text(told: Sequence[dict[str, Any]]) -> str | None:
    """Which share of answers not all members gave, and which was of effort `fast`: asked for, or because of the load.

    None where no answer tells, or the model has no cascade.
    """
    if not is_cascade(told):
        return None
    every = sum(entry["answers"] for entry in told)
    early = sum(entry["answers"] for entry in told if entry["members_used"] < entry["members"])
    fast = sum(entry["answers"] for entry in told if entry["effort"] == FAST)
    text = f"{early / every:.1%} of answers came from the first members alone"
    return f"{text}, {fast / every:.1%} by effort fast" if fast else text


def _search_to_json(search: Search) -> dict[str, Any]:
    best = search.best
    return {
        "p99_ms_limit": search.p99_ms_limit,
        "rate_per_second": None if best is None else best.rate_per_second,
        "p99_ms": None if best is None else best.p99_ms,
        "reason": search.reason,
        "tried": [asdict(trial) for trial in search.trials],
    }
