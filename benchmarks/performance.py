"""Write the tables of docs/performance.md and draw its plots from the result files; nothing is measured.

.venv/bin/python benchmarks/performance.py
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rrrbench import charts
from rrrbench.environment import RESULTS, ROOT
from rrrbench.service_tables import peers_bars, peers_table, service_bars, service_tables
from rrrbench.tables import bars, engine_tables

PAGE = ROOT / "docs" / "performance.md"
Document = Mapping[str, Any]


def marks(name: str) -> tuple[str, str]:
    """The lines between which the figures of a result file stand."""
    return f"<!-- {name} figures: written by benchmarks/performance.py -->", f"<!-- end of {name} figures -->"


def _peers_tables(document: Document) -> dict[str, str]:
    return {"One at a time on the same two cores": peers_table(document)}


# Result file -> its tables by title, its bars, its plots (file in docs/, what must be there to draw it, by what).
PARTS: dict[str, tuple[Callable[[Document], dict[str, str]], Callable[[Document], str], list[Any]]] = {
    "engine": (
        engine_tables,
        bars,
        [
            ("performance_ratios.png", ("ratios", "peak"), charts.draw_ratios),
            ("performance_scaling.png", ("members", "batch"), charts.draw_scaling),
        ],
    ),
    "service": (service_tables, service_bars, [("performance_load.png", ("concurrency",), charts.draw_load)]),
    "peers": (_peers_tables, peers_bars, [("performance_peers.png", ("peers",), charts.draw_peers)]),
}


def figures(name: str, document: Document) -> str:
    """What stands between the marks: how it was measured, the tables, the bars, the plots."""
    tables, its_bars, plots = PARTS[name]
    lines = []
    for section, made in document["environment"].items():
        machine = made["machine"]
        gpu = machine["gpu"]["name"] if machine["gpu"] else "no GPU"
        load = ", ".join(str(value) for value in made["load_average_before"])
        versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
        lines.append(
            f"* {section}: `{made['command']}`, {made['date']}, {machine['cpu']}, {machine['cores']} cores, {gpu}, "
            f"load before {load}; {versions}"
        )
    blocks = [f"### {title}\n\n{table}" for title, table in tables(document).items()]
    pictures = [f"![{path}]({path})" for path, sections, _ in plots if all(document.get(key) for key in sections)]
    return "\n\n".join(["\n".join(lines), *blocks, f"### Bars\n\n{its_bars(document)}", *pictures])


def write(page: str, name: str, document: Document) -> str:
    """The page with the figures of one result file replaced."""
    begin, end = marks(name)
    before, rest = page.split(begin)
    return f"{before}{begin}\n{figures(name, document)}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Rewrite the page and the plots from every result file that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page; plots go beside it")
    options = parser.parse_args()
    for name, (_, _, plots) in PARTS.items():
        result = options.results / f"{name}.json"
        if not result.is_file():
            print(f"left as it is: {name}, for there is no {result}")
            continue
        document = json.loads(result.read_text())
        options.page.write_text(write(options.page.read_text(), name, document))
        for file, sections, draw in plots:
            if all(document.get(section) for section in sections):
                draw(document, options.page.parent / file)
                print(f"drawn: {options.page.parent / file}")


if __name__ == "__main__":
    main()
