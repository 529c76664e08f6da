"""Tables between two marks of a page, each named by the command that writes it."""

from pathlib import Path


def marks(name: str, script: str) -> tuple[str, str]:
    """The lines between which a table stands."""
    return f"<!-- {name} figures: written by {script} -->", f"<!-- end of {name} figures -->"


def write_between(page: Path, name: str, script: str, text: str) -> None:
    """Replace what stands between the marks of a page."""
    begin, end = marks(name, script)
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
