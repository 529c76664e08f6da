"""The pictures of the rooms in docs/layout.md, drawn from the imports (`make layout`); a test compares them.

An arrow says that a room imports another. One that follows from others (a -> c beside a -> b -> c) is left out, so that
a picture shows the order of the rooms and not all of the hundred arrows.
"""

from pathlib import Path

import grimp

PAGE = Path(__file__).with_name("layout.md")
BEGIN, END = "<!-- picture: written by make layout -->", "<!-- end of picture -->"
# The package whose rooms are drawn -> the packages in its picture.
PICTURES = {"rrrserve": ("rrrserve", "rrrbuild", "rrrnet"), "rrrnet": ("rrrnet",)}
Arrows = dict[str, set[str]]


def room_of(module: str, shown: str) -> str:
    """The room of a module: a sub-package or module of the package that is drawn, or one of the other packages."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == shown else package


def arrows(shown: str) -> Arrows:
    """What each room imports, by room."""
    graph = grimp.build_graph(*PICTURES[shown], exclude_type_checking_imports=True, cache_dir=None)
    modules = graph.modules - {shown}
    found: Arrows = {room_of(module, shown): set() for module in modules}
    for module in modules:
        imported = graph.find_modules_directly_imported_by(module) & modules
        found[room_of(module, shown)] |= {room_of(name, shown) for name in imported} - {room_of(module, shown)}
    return found


def without_shortcuts(found: Arrows) -> Arrows:
    """The arrows that do not follow from others.

    Raises:
        RecursionError: the rooms import one another in a circle.
    """

    def reached(room: str) -> set[str]:
        return found[room].union(*(reached(other) for other in found[room]))

    return {room: others - set().union(*(reached(other) for other in others)) for room, others in found.items()}


def picture(shown: str) -> str:
    """Mermaid's text."""
    found = without_shortcuts(arrows(shown))
    lines = [f"  {room} --> {other}" for room, others in sorted(found.items()) for other in sorted(others)]
    return "\n".join([f"The rooms of `{shown}`:", "```mermaid", "flowchart TD", *lines, "```"])


def drawn(page: str) -> str:
    """The page with the pictures of now."""
    before, rest = page.split(BEGIN)
    return "\n".join([before + BEGIN, *map(picture, PICTURES), END]) + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
