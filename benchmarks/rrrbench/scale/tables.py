"""The tables of docs/scale.md: pure functions of the result file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrrbench.scale.beyond import MEASURES, head_room, off, replicas_for
from rrrbench.scale.demands import slowdown_of
from rrrbench.scale.measure import load_text
from rrrbench.scale.replicas import CORES, ONE
from rrrbench.tables import markdown, median
from rrrbench.turns import Interval

Document = Mapping[str, Any]
Case = Mapping[str, Any]
IMAGES_PER_SECOND = (10_000, 1_000_000)
# How far the simulation may be from what was measured, as a share.
BOUNDS = {"throughput": 0.10, "p50_ms": 0.10, "p99_ms": 0.25}
# Until an autoscaler acts: a scrape (15 s), half of a mean over a minute, and its own period (15 s).
REACTION_SECONDS = 60.0
_STAGES = ("read", "decode", "preprocess", "inference")
_DOUBLING_MINUTES = (1, 5, 15, 60)
_MILLION, _HOUR_SECONDS = 1e6, 3600


def core_hours(cores: int, throughput: float) -> float:
    """Core-hours for a million images by so many cores that together answer so many a second."""
    return cores * _MILLION / throughput / _HOUR_SECONDS


def engine_rate(engine: Case) -> tuple[int, float]:
    """The size of batch at which one core does most images a second, and how many."""
    rates = {int(size): 1000 * int(size) / median(times) for size, times in engine["alone_ms"].items()}
    best = max(rates, key=lambda size: rates[size])
    return best, rates[best]


def cost_table(document: Document, price: float | None = None) -> str:
    """What an image costs in each target: engine alone and service, on one core; `price` is that of a core-hour."""
    rows = []
    for engine, service in _pairs(document):
        size, rate = engine_rate(engine)
        served = _best_served(service)
        hours = [core_hours(1, each) for each in (rate, served)]
        cells = [f"`{service['target']}`", f"{rate:.1f} (batch {size})", f"{served:.1f}"]
        cells += [f"{1000 / each:.1f}" for each in (rate, served)]
        cells += [f"{each:.2f}" for each in hours]
        cells += [f"{service['light']['p50_ms']:.1f}", f"{service['memory_mb']:.0f}"]
        rows.append([*cells, *([] if price is None else [f"{hours[1] * price:.2f}"])])
    header = ["one core", "engine, images/s", "service, answers/s", "engine, core-ms an image", "service"]
    header += ["engine, core-hours a million", "service", "p50 alone (ms)", "memory (MB)"]
    return _table([*header, *([] if price is None else ["price a million"])], rows)


def engine_table(document: Document) -> str:
    """Median and p99 of the engine's calls on one core, by size of batch, and with the other core at the same."""
    rows, header = [], [""]
    for case in document.get("engine", []):
        times = case["alone_ms"]
        header = ["one core, ms a call", *(f"batch {size}" for size in times), "beside another, times as long"]
        cells = [f"{np.percentile(each, 50):.1f} ({np.percentile(each, 99):.1f})" for each in times.values()]
        rows.append([f"`{case['target']}`", *cells, f"{slowdown_of(case):.2f}"])
    return _table(header, rows)


def stages_table(document: Document) -> str:
    """Where the time of requests goes, by load: medians of what answers tell, and Triton's mean wait for the engine."""
    rows = []
    for load in loads_of(document):
        cells = [f"{median([row['stages_ms'][stage][0] for row in load.measured]):.2f}" for stage in _STAGES]
        told = [row for row in load.measured if row["batches"] is not None]
        queue = f"{median([row['queue_ms'] for row in told]):.1f}" if told else ""
        batch = f"{median([row['requests'] / row['batches'] for row in told]):.1f}" if told else ""
        rows.append([f"{load.topology}, `{load.target}`", load_text(load.measured[0]), *cells, queue, batch])
    header = ["", "load", *(f"{stage} (ms)" for stage in _STAGES), "of it in Triton's queue, mean", "images a batch"]
    return _table(header, rows)


def topology_table(document: Document) -> str:
    """What a million images cost by replicas on two cores, at the closed loop that got most answers."""
    rows, best = [], dict[tuple[str, str], Loaded]()
    for load in loads_of(document):
        place = (load.topology, load.target)
        if "clients" in load.measured[0] and (
            place not in best or load.middle("throughput") > best[place].middle("throughput")
        ):
            best[place] = load
    for (topology, target), load in best.items():
        cores, rate = 1 if topology == ONE else CORES, load.middle("throughput")
        figures = [f"{rate:.1f}", load_text(load.measured[0]), f"{core_hours(cores, rate):.2f}"]
        rows.append([f"{topology}, `{target}`", str(cores), *figures])
    return _table(["", "cores", "most answers/s", "with", "core-hours a million"], rows)


def check_table(document: Document) -> str:
    """Every measured load beside its simulation, and whether it is within the bounds."""
    rows = []
    for load in (load for load in loads_of(document) if load.simulated):
        cells = []
        for measure in MEASURES:
            found, both = load.off(measure), (load.measured, load.simulated)
            cells += [f"{median([row[measure] for row in each]):.1f}" for each in both]
            cells.append(f"{100 * found.value:+.0f} % ({100 * found.low:+.0f} to {100 * found.high:+.0f})")
        requests = str(sum(row["requests"] for row in load.measured))
        verdict = "yes" if load.within() else "no"
        rows.append([f"{load.topology}, `{load.target}`", load_text(load.measured[0]), requests, *cells, verdict])
    titles = ("answers/s", "p50 (ms)", "p99 (ms)")
    header = [word for title in titles for word in (title, "simulated", "off")]
    if not rows:
        return ""
    good = sum(row[-1] == "yes" for row in rows)
    bounds = "10 % of answers/s and p50 and 25 % of p99"
    return f"{_table(['', 'load', 'requests', *header, 'within'], rows)}\n\n{good} of {len(rows)} are within {bounds}."


@dataclass(frozen=True)
class Loaded:
    """One load on one topology: what was measured of it and simulated, round by round."""

    topology: str
    target: str
    measured: Sequence[Case]
    simulated: Sequence[Case]

    def middle(self, measure: str) -> float:
        """The median of what was measured."""
        return median([row[measure] for row in self.measured])

    def off(self, measure: str) -> Interval:
        """See `rrrbench.scale.beyond.off`."""
        return off([row[measure] for row in self.measured], [row[measure] for row in self.simulated])

    def within(self) -> bool:
        """Whether the simulation is as near as `BOUNDS` ask for."""
        return all(abs(self.off(measure).value) <= bound for measure, bound in BOUNDS.items())


def loads_of(document: Document) -> list[Loaded]:
    """All loads of the section `replicas`, in the order in which they were put on."""
    found: dict[tuple[str, str, int], tuple[list[Case], list[Case]]] = {}
    for place, section in enumerate(("replicas", "simulated")):
        for case in document.get(section, []):
            for topology, rows in case["topologies"].items():
                for number, row in enumerate(rows):
                    found.setdefault((topology, case["target"], number), ([], []))[place].append(row)
    return [Loaded(topology, target, *both) for (topology, target, _), both in found.items()]


def beyond_table(document: Document) -> str:
    """Replicas on one core each for large loads, by target and goal."""
    rows = []
    for case in document.get("beyond", []):
        for goal in case["goals"]:
            needed = [replicas_for(load, goal["rate"]) for load in IMAGES_PER_SECOND]
            share = f"{100 * goal['rate'] / case['capacity']:.0f} %"
            bears = [f"{goal['rate']:.1f}", share, f"{goal['under_way']:.1f}"] if goal["rate"] else ["none", "", ""]
            cells = [f"{goal['p99_ms']:g}", *bears]
            rows.append([f"`{case['target']}`", *cells, *("none" if each is None else f"{each:,}" for each in needed)])
    header = ["", "p99 within (ms)", "images/s a replica", "of what it can do", "requests under way"]
    return _table([*header, *(f"replicas for {load:,}/s" for load in IMAGES_PER_SECOND)], rows)


def balancer_table(document: Document) -> str:
    """What a replica bears behind each balancer."""
    lines = []
    for case in document.get("beyond", []):
        if "balancers" in case:
            goal, together = case["goals"][0]["p99_ms"], case["together"]
            rows = [[name, f"{rate:.1f}", f"{100 * rate / case['capacity']:.0f} %"] for name, rate in _balanced(case)]
            header = [f"{together} replicas, `{case['target']}`, p99 within {goal:g} ms", "images/s a replica"]
            lines.append(_table([*header, "of what it can do"], rows))
    return "\n\n".join(lines)


def wire_table(document: Document) -> str:
    """Bytes of an image on each wire, and what they make at large loads."""
    if not document.get("service"):
        return ""
    wire = document["service"][0]["wire_bytes"]
    sizes: dict[str, float] = {}
    for name in ("drawn letter", "photo"):
        sizes[f"JPEG in, a {name}"] = wire[name]["request"]
    sizes["JSON out"] = wire["drawn letter"]["answer"]
    sizes["pixels from front to Triton, where they are apart"] = wire["pixels"]
    rows = []
    for name, size in sizes.items():
        bits = [f"{8e-9 * size * load:,.1f} Gbit/s" for load in IMAGES_PER_SECOND]
        rows.append([name, f"{size:,.0f}", *bits])
    return _table(["", "bytes an image", *(f"{load:,} images/s" for load in IMAGES_PER_SECOND)], rows)


def storage_table(document: Document) -> str:
    """Bytes of a repository, and those that a new version moves to all replicas at the first goal."""
    repositories = {case["target"]: case["repository_bytes"] for case in document.get("service", [])}
    rows = []
    for case in document.get("beyond", []):
        if case["target"] not in repositories:
            continue
        megabytes = repositories[case["target"]] / 1e6
        moved = []
        for load in IMAGES_PER_SECOND:
            needed = replicas_for(load, case["goals"][0]["rate"])
            moved.append("none" if needed is None else f"{needed * megabytes / 1e6:,.3f} TB")
        rows.append([f"`{case['target']}`", f"{megabytes:.1f} MB", *moved])
    titles = [f"a new version to all replicas, {load:,} images/s" for load in IMAGES_PER_SECOND]
    return _table(["", "repository", *titles], rows)


def start_table(document: Document) -> str:
    """From process start to ready, what of it warms the sizes of batch up, and the first answer."""
    rows = []
    for case in document.get("start", []):
        for name in (name for name in case if name.endswith(("core", "cores"))):
            found = case[name]
            times = [median(found[key]) for key in ("start_seconds", "first_answer_ms", "later_answers_ms")]
            cells = [f"{times[0]:.1f} ({max(found['start_seconds']):.1f})", *(f"{each:.1f}" for each in times[1:])]
            rows.append([f"`{case['target']}`, {name}", *cells, f"{_warm_up_seconds(document, case['target']):.1f}"])
    header = ["", "start until ready (s), median and longest", "first answer then (ms)", "later answers (ms)"]
    return _table([*header, "engine calls of the warm-up on one core (s)"], rows)


def head_room_table(document: Document) -> str:
    """How full replicas may be when the load grows, so that new ones come in time."""
    rows = []
    for case in document.get("start", []):
        seconds = REACTION_SECONDS + float(np.max(case["1 core"]["start_seconds"]))
        for minutes in _DOUBLING_MINUTES:
            room = head_room(seconds, 60 * minutes)
            rows.append([f"{minutes} min", f"{seconds:.0f}", f"{room:.2f}", f"{100 / room:.0f} %"])
    header = ["load doubles in", "until a new replica answers (s)", "head room", "most of the rate at the goal"]
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown(header, rows) if rows else ""


def _pairs(document: Document) -> list[tuple[Case, Case]]:
    """Cases of `engine` and `service` of the same target."""
    engines = {case["target"]: case for case in document.get("engine", [])}
    return [(engines[case["target"]], case) for case in document.get("service", []) if case["target"] in engines]


def _best_served(service: Case) -> float:
    return max(float(service[name]["throughput"]) for name in ("light", "loaded"))


def _balanced(case: Case) -> list[tuple[str, float]]:
    return sorted(case["balancers"].items(), key=lambda item: float(item[1]))


def _warm_up_seconds(document: Document, target: str) -> float:
    """What the calls of all sizes of batch take by which Triton warms a model up, going by the engine alone."""
    engines = [case for case in document.get("engine", []) if case["target"] == target]
    return sum(median(times) for engine in engines for times in engine["alone_ms"].values()) / 1000


# What stands between the marks of each name, in the order of the page: by title the tables.
BLOCKS: dict[str, dict[str, Callable[[Document], str]]] = {
    "cost": {"One core": cost_table, "The engine's calls": engine_table, "Two cores": topology_table},
    "check": {"": check_table, "Stages": stages_table},
    "replicas": {"": beyond_table, "Balancers": balancer_table},
    "wire": {"": wire_table, "Storage": storage_table},
    "start": {"": start_table, "Head room": head_room_table},
}
