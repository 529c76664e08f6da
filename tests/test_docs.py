"""The pages: each begins with what to type, and every link and anchor is there."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCREENS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")), *sorted(ROOT.glob("docs/**/*.md"))]
SOURCES = [
    path
    for folder in ("models", "build", "service", "benchmarks", "tests", "deploy", "requirements")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yml", ".yaml", ".json", ".toml", ".html", ".service")
]


def lines_outside_code(page: Path) -> list[str]:
    parts = re.split(r"^```.*$", page.read_text(), flags=re.MULTILINE)
    return "".join(parts[::2]).splitlines()


@cache
def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings: a second heading of the same words gets -1, and so on."""
    found: dict[str, int] = {}
    names = set()
    for line in lines_outside_code(page):
        if line.startswith("#"):
            slug = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
            names.add(f"{slug}-{found[slug]}" if slug in found else slug)
            found[slug] = found.get(slug, 0) + 1
    return names


def is_there(target: str, folder: Path, page: Path) -> bool:
    path, _, anchor = target.partition("#")
    file = folder / path if path else page
    return file.exists() and (not anchor or anchor in anchors(file))


@pytest.mark.parametrize("page", SCREENS, ids=lambda page: page.name)
def test_a_page_begins_with_what_to_type(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert lines[0].startswith("# ")
    first_code = next(index for index, line in enumerate(lines) if line.startswith("```"))
    assert first_code < 45
    assert [line for line in lines[1:first_code] if line.startswith("#")] == [], "below what to type"


def test_the_page_of_pages_lists_every_other() -> None:
    index = ROOT / "docs" / "README.md"
    assert [page.name for page in SCREENS if page != index and f"]({page.name})" not in index.read_text()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_anchor_of_a_page_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join(lines_outside_code(page)))
    lost = [link for link in links if "://" not in link and not is_there(link, page.parent, page)]
    assert lost == []


def test_every_page_that_sources_name_is_there() -> None:
    named = [
        (path, target)
        for path in SOURCES
        for target in re.findall(r"(?<![\w./-])docs/[\w/]+\.md(?:#[\w-]+)?", path.read_text(errors="ignore"))
    ]
    assert len(named) > 30
    assert [(path.name, target) for path, target in named if not is_there(target, ROOT, path)] == []
