"""The tables of docs/scale.md: pure functions of the result file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rrrbench.scale.beyond import MEASURES, head_room, off, replicas_for
from rrrbench.scale.demands import slowdown_of
from rrrbench.scale.measure import load_text
from rrrbench.tables import markdown, median

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
    for case in document.get("replicas", []):
        for row in case["rows"]:
            cells = [f"{row['stages_ms'][stage][0]:.2f}" for stage in _STAGES]
            queue = "" if row["queue_ms"] is None else f"{row['queue_ms']:.1f}"
            batch = "" if row["batches"] is None else f"{row['requests'] / row['batches']:.1f}"
            rows.append([f"{case['topology']}, `{case['target']}`", load_text(row), *cells, queue, batch])
    header = ["", "load", *(f"{stage} (ms)" for stage in _STAGES), "of it in Triton's queue, mean", "images a batch"]
    return _table(header, rows)


def topology_table(document: Document) -> str:
    """What a million images cost by replicas on two cores, at the closed loop that got most answers."""
    rows = []
    for case in document.get("replicas", []):
        best = max((row for row in case["rows"] if "clients" in row), key=lambda row: row["throughput"])
        cores = 1 if case["topology"].startswith("1 ") else 2
        figures = [f"{best['throughput']:.1f}", load_text(best), f"{core_hours(cores, best['throughput']):.2f}"]
        rows.append([f"{case['topology']}, `{case['target']}`", str(cores), *figures])
    return _table(["", "cores", "most answers/s", "with", "core-hours a million"], rows)


def check_table(document: Document) -> str:
    """Every measured load beside its simulation, and whether it is within the bounds."""
    rows = []
    for case, row, simulated in compared(document):
        cells = []
        for measure in MEASURES:
            cells += [f"{row[measure]:.1f}", f"{simulated[measure]:.1f}"]
            cells.append(f"{100 * off(row[measure], simulated[measure]):+.0f} %")
        cells.append("yes" if within(row, simulated) else "no")
        rows.append([f"{case['topology']}, `{case['target']}`", load_text(row), str(row["requests"]), *cells])
    titles = ("answers/s", "p50 (ms)", "p99 (ms)")
    header = [word for title in titles for word in (title, "simulated", "off")]
    if not rows:
        return ""
    good = sum(row[-1] == "yes" for row in rows)
    bounds = "10 % of answers/s and p50 and 25 % of p99"
    return f"{_table(['', 'load', 'requests', *header, 'within'], rows)}\n\n{good} of {len(rows)} are within {bounds}."


def compared(document: Document) -> Iterable[tuple[Case, Case, Case]]:
    """Each case of the section `replicas` with a measured row and its simulation."""
    simulated = {(case["target"], case["topology"]): case["rows"] for case in document.get("simulated", [])}
    for case in document.get("replicas", []):
        for measured, found in zip(case["rows"], simulated.get((case["target"], case["topology"]), []), strict=False):
            yield case, measured, found


def within(measured: Case, simulated: Case) -> bool:
    """Whether a simulation is as near as `BOUNDS` ask for."""
    return all(abs(off(measured[name], simulated[name])) <= bound for name, bound in BOUNDS.items())


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
