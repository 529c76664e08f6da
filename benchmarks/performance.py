"""Write the tables of both pages about performance and of README.md and draw the plots; nothing is measured.

.venv/bin/python benchmarks/performance.py
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rrrbench import charts
from rrrbench.environment import AND, RESULTS, ROOT, machine_text
from rrrbench.same_engine import same_engine_bars, same_engine_table
from rrrbench.service_tables import peers_bars, peers_table, service_bars, service_tables
from rrrbench.summary import demo_summary, servers_summary, speed_summary
from rrrbench.tables import bars, engine_tables

PAGE = ROOT / "docs" / "internals" / "performance.md"
OVERVIEW = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
Document = Mapping[str, Any]


def marks(name: str) -> tuple[str, str]:
    """The lines between which the figures of a result file stand."""
    return f"<!-- {name} figures: written by benchmarks/performance.py -->", f"<!-- end of {name} figures -->"


def _peers_tables(document: Document) -> dict[str, str]:
    shown = {"peers": ("One at a time on the same two cores", peers_table)}
    shown["same_engine"] = ("The same engine behind each", same_engine_table)
    return {title: table(document) for section, (title, table) in shown.items() if document.get(section)}


def _peers_bars(document: Document) -> str:
    header, rule, *rows = peers_bars(document).splitlines()
    return "\n".join([header, rule, *rows, *same_engine_bars(document).splitlines()[2:]])


# Result file -> its tables by title, its bars, its plots (file beside the page, what it needs, what draws it).
PARTS: dict[str, tuple[Callable[[Document], dict[str, str]], Callable[[Document], str], list[Any]]] = {
    "engine": (
        engine_tables,
        bars,
        [
            ("performance_ratios.png", ("ratios", "peak"), charts.draw_ratios),
            ("performance_scaling.png", ("members", "batch"), charts.draw_scaling),
        ],
    ),
    "targets": (engine_tables, bars, []),
    "service": (service_tables, service_bars, [("performance_load.png", ("concurrency",), charts.draw_load)]),
    "peers": (_peers_tables, _peers_bars, [("performance_peers.png", ("peers",), charts.draw_peers)]),
}


# The few figures by the name of their marks: result file, the option that names the page, what writes them.
SUMMARIES: dict[str, tuple[str, str, Callable[[Document], str]]] = {
    "speed": ("engine", "readme", speed_summary),
    "servers": ("peers", "overview", servers_summary),
    "demo": ("demo", "overview", demo_summary),
}


def figures(name: str, document: Document) -> str:
    """What stands between the marks: how it was measured, the tables, the bars that are missed, the plots."""
    tables, its_bars, plots = PARTS[name]
    sections: dict[str, list[str]] = {}  # of each run: sections are mostly measured together
    versions: dict[str, list[str]] = {}
    for section, made in document["environment"].items():
        machine = made["machine"]
        gpu = machine["gpu"]["name"] if machine["gpu"] else "no GPU"
        load = ", ".join(str(value) for value in made["load_average_before"])
        commands = AND.join(f"`{command}`" for command in made["command"].split(AND))
        run = f"{commands}, {made['date']}, {machine_text(machine)}; {gpu}, load before {load}"
        sections.setdefault(run, []).append(section)
        packages = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
        versions.setdefault(packages, []).append(section)
    lines = [f"* {', '.join(names)}: {run}" for run, names in sections.items()]
    lines += [f"* versions of {', '.join(names)}: {packages}" for packages, names in versions.items()]
    blocks = [f"### {title}\n\n{table}" for title, table in tables(document).items()]
    pictures = [f"![{path}]({path})" for path, needed, _ in plots if all(document.get(key) for key in needed)]
    return "\n\n".join(["\n".join(lines), *blocks, f"### Bars\n\n{missed(its_bars(document))}", *pictures])


def missed(table: str) -> str:
    """The bars that are not met; the command that measured prints all."""
    header, rule, *rows = table.splitlines()
    short = [row for row in rows if not row.endswith("| met |")]
    said = f"{len(rows) - len(short)} of {len(rows)} are met"
    return "\n".join([f"{said}; the others:\n", header, rule, *short]) if short else f"{said}."


def write(page: str, name: str, text: str) -> str:
    """The page with what stands between the marks `name` replaced."""
    begin, end = marks(name)
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Rewrite the pages and the plots from every result file that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page; plots go beside it")
    parser.add_argument("--readme", type=Path, default=README, help="the README, which has the main figures")
    parser.add_argument("--overview", type=Path, default=OVERVIEW, help="the page of the servers and the demo")
    options = parser.parse_args()
    documents = {}
    for name, (_, _, plots) in PARTS.items():
        result = options.results / f"{name}.json"
        if not result.is_file():
            print(f"left as it is: {name}, for there is no {result}")
            continue
        document = documents[name] = json.loads(result.read_text())
        options.page.write_text(write(options.page.read_text(), name, figures(name, document)))
        for file, sections, draw in plots:
            if all(document.get(section) for section in sections):
                draw(document, options.page.parent / file)
                print(f"drawn: {options.page.parent / file}")
    demo = options.results / "demo.json"
    if demo.is_file():
        documents["demo"] = json.loads(demo.read_text())
        charts.draw_demo(documents["demo"], options.overview.with_name("demo.png"))
    for name, (source, page, summary) in SUMMARIES.items():
        if source in documents:
            file = getattr(options, page)
            file.write_text(write(file.read_text(), name, summary(documents[source])))


if __name__ == "__main__":
    main()
