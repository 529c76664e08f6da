"""What a million images cost, one replica and two, and by simulation how many replicas a larger load needs.

    .venv/bin/python benchmarks/scale.py             # measures: half an hour on 2 cores that do nothing else
    .venv/bin/python benchmarks/scale.py --tables    # only writes docs/scale.md again

engine     calls of every target's engine on one core, by size of batch
service    one replica of every target on one core: cost, bytes, memory
replicas   one target, in rounds: both again, and loops on 1 replica, on 2, and on front and Triton apart, a core each
start      one target: from process start to ready, on one core and on two
simulate   computed: the same loads by the simulation, each round fed by the engine and service of that round
beyond     computed: replicas for large loads

Needs taskset (util-linux) and two cores. Engines that are not in the cache are built first, which takes minutes.
"""

import argparse
import sys
from pathlib import Path

from rrrbench.environment import RESULTS, ROOT, ResultFile, machine_text
from rrrbench.networks import CACHE, Networks
from rrrbench.pages import write_between
from rrrbench.scale import tables
from rrrbench.scale.beyond import REQUESTS, beyond, simulated_row
from rrrbench.scale.demands import demands_of, slowdown_of
from rrrbench.scale.measure import Measurements, case_of
from rrrbench.servers import ending_on_sigterm
from rrrbuild.targets import TARGETS, run_obstacle

SCRIPT = "benchmarks/scale.py"
PAGE, RESULT = ROOT / "docs" / "scale.md", RESULTS / "scale.json"
SECTIONS = ("engine", "service", "replicas", "start", "simulate", "beyond")
MEASURED = {"cost": "engine", "check": "replicas", "start": "start"}  # blocks whose CPU matters, and their section
NOTHING = "Nothing has been measured yet."


def block(name: str, document: tables.Document) -> str:
    """What stands between the marks of a name."""
    if not all(document.get(section) for section in ("engine", "service", "beyond")):
        return NOTHING
    found = [(title, table(document)) for title, table in tables.BLOCKS[name].items()]
    texts = [f"### {title}\n\n{text}" if title else text for title, text in found if text]
    measured = document["environment"].get(MEASURED.get(name))
    return "\n\n".join([*([f"On {machine_text(measured['machine'])}."] if measured else []), *texts])


def compute(result: ResultFile, options: argparse.Namespace) -> None:
    """The sections that are computed from the others."""
    document = result.document
    if "simulate" in options.only:
        cases = document.get("replicas", [])
        for case in cases:
            rounds = [(each["engine"], each["service"]) for each in cases if each["target"] == case["target"]]
            engine, service, slowdown = case["engine"], case["service"], slowdown_of(case["engine"])
            found = {
                name: [simulated_row(name, row, demands_of(engine, service, rounds, row), slowdown) for row in rows]
                for name, rows in case["topologies"].items()
            }
            result.record("simulated", {"target": case["target"], "round": case["round"]}, {"topologies": found})
    if "beyond" in options.only:
        for service in document.get("service", []):
            target = service["target"]
            found = beyond(
                case_of(document, "engine", target),
                service,
                options.p99_ms,
                balancers=target == options.target,
                requests=options.trial_requests,
            )
            result.record("beyond", {"target": target}, found)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections")
    parser.add_argument("--target", default="openvino-int8", help="of the sections that take one")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, help="of the others (all that run on this CPU)")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of the engine")
    parser.add_argument("--engine-seconds", type=float, default=0.8, help="for each size of batch")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="of the closed loops")
    parser.add_argument(
        "--rate-share",
        type=float,
        nargs="+",
        default=[0.3, 0.5, 0.7],
        help="rates of the open loops, of what replicas can do",
    )
    parser.add_argument("--requests", type=int, default=1000, help="of each load, for each replica, at most")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load at most")
    parser.add_argument("--rounds", type=int, default=5, help="of section replicas")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--p99-ms", type=float, nargs="+", default=[100.0, 250.0], help="goals of section beyond")
    parser.add_argument("--trial-requests", type=int, default=REQUESTS, help="of each load that section beyond tries")
    parser.add_argument("--core-hour-price", type=float, help="adds a column to what is printed; the page has none")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints and engines are kept")
    parser.add_argument("--save", type=Path, default=RESULT)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--tables", action="store_true", help="write the page from the file; nothing is measured")
    parser.add_argument("--quick", action="store_true", help="tiny networks and short runs: a test of the steps")
    options = parser.parse_args()
    if options.targets is None:
        options.targets = [
            name for name, target in TARGETS.items() if not target.on_gpu and run_obstacle(target) is None
        ]
    if options.quick:
        options.target, options.targets, options.pixels = "openvino-fp32", ["openvino-fp32"], 32
        options.batch, options.engine_seconds, options.clients, options.rate_share = [1, 2, 8], 0.1, [1, 4], [0.3]
        options.requests, options.seconds, options.starts, options.trial_requests = 30, 4.0, 1, 300
        options.rounds = 2
    return options


def main() -> None:
    """Measure, compute, print; or write the page."""
    ending_on_sigterm()
    options = parse()
    result = ResultFile(options.save)
    if not options.tables:
        networks = Networks(options.cache, tiny=options.quick, largest_batch=max(options.batch))
        measurements = Measurements(options, networks, result)
        for section in ("engine", "service", "replicas", "start"):
            for target in options.targets if section in ("engine", "service") else [options.target]:
                if section in options.only:
                    print(f"{section}: {target}", flush=True)
                    getattr(measurements, section)(target)
        compute(result, options)
    for name in tables.BLOCKS:
        text = block(name, result.document)
        print(f"\n{name}\n\n{text}")
        if options.tables:
            write_between(options.page, name, SCRIPT, text)
    if options.core_hour_price is not None:
        print(f"\n{tables.cost_table(result.document, options.core_hour_price)}")
    print(f"\nwritten: {options.page if options.tables else options.save}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
