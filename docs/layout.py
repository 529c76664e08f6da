"""The picture of the rooms in docs/layout.md, drawn from the imports (`make layout`); a test compares it.

An arrow says that a room imports another. One that follows from others (a -> c beside a -> b -> c) is left out, so that
the picture shows the order of the rooms and not all of the hundred arrows.
"""

from pathlib import Path

import grimp

PAGE = Path(__file__).with_name("layout.md")
BEGIN, END = "<!-- picture: written by make layout -->", "<!-- end of picture -->"
PACKAGES = ("rrrnet", "rrrbuild", "rrrserve")
Arrows = dict[str, set[str]]


def room_of(module: str) -> str:
    """The room of a module: a sub-package or module of rrrserve, or one of the other packages."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "rrrserve" and rest else package


def arrows() -> Arrows:
    """What each room imports, by room."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found: Arrows = {room_of(module): set() for module in graph.modules if module != "rrrserve"}
    for module in graph.modules - {"rrrserve"}:
        imported = graph.find_modules_directly_imported_by(module) - {"rrrserve"}
        found[room_of(module)] |= {room_of(name) for name in imported} - {room_of(module)}
    return found


def without_shortcuts(found: Arrows) -> Arrows:
    """The arrows that do not follow from others.

    Raises:
        RecursionError: the rooms import one another in a circle.
    """

    def reached(room: str) -> set[str]:
        return found[room].union(*(reached(other) for other in found[room]))

    return {room: others - set().union(*(reached(other) for other in others)) for room, others in found.items()}


def picture() -> str:
    """Mermaid's text."""
    lines = [
        f"  {room} --> {other}"
        for room, others in sorted(without_shortcuts(arrows()).items())
        for other in sorted(others)
    ]
    return "\n".join([BEGIN, "```mermaid", "flowchart TD", *lines, "```", END])


def drawn(page: str) -> str:
    """The page with the picture of now."""
    before, rest = page.split(BEGIN)
    return before + picture() + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
