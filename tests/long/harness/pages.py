"""The code of a page of docs/."""

from pathlib import Path


def python_in(page: Path) -> str:
    """The page's Python, each line at its number in the page; all else is an empty line."""
    lines, inside = [], False
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines) + "\n"
