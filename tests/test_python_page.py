"""docs/python.md and docs/rrr.ipynb: their code runs as it stands, and a type checker passes it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.pages import python_in

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
NOTEBOOK = ROOT / "docs" / "rrr.ipynb"
SURFACE = ("draw_glyphs", "train", "evaluate", "build_engine", "open_engine", "write_repository", "serve")


def cells_of(notebook: Path) -> str:
    document = json.loads(notebook.read_text())
    return "\n\n".join("".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code") + "\n"


def run(script: str, folder: Path, seconds: float) -> str:
    """What a script prints, run in a folder of its own."""
    (folder / "page.py").write_text(script)
    command = [sys.executable, "-W", "error::DeprecationWarning:rrrnet", "page.py"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def mypy(*files: Path) -> tuple[int, str]:
    """Strictly, with the sources; by the cache of `make lint`."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", *map(str, files)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    return ran.returncode, ran.stdout


@pytest.mark.nightly  # half a minute: it trains, builds and serves
def test_the_code_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    script = python_in(PAGE)
    assert [name for name in SURFACE if f".{name}(" not in script] == []
    printed = run(script, tmp_path, seconds=240)
    assert len(re.findall(r"U\+[0-9A-F]{4}: \d+% of the members agree, entropy \d\.\d\d\n", printed)) == 4
    assert re.search(r"^unsupported_image 415 [0-9a-f]{16}$", printed, re.MULTILINE)
    assert "['mine']" in printed
    assert "artifacts/engines/nobody" in printed


def test_a_type_checker_passes_the_code_of_the_page_and_sees_what_is_wrong(tmp_path: Path) -> None:
    page, wrong = tmp_path / "page.py", tmp_path / "wrong.py"
    page.write_text(python_in(PAGE))
    wrong.write_text(
        "import rrrbuild, rrrnet, rrrserve\n"
        'rrrnet.train("my_images", "out", epochs="two")\n'
        'rrrnet.trian("my_images", "out")\n'
        'rrrbuild.open_engine("engine").predict(1)\n'
        'rrrserve.Client().predict("cat.jpg", top=2)\n'
        'rrrserve.Client().predict("cat.jpg").labels\n'
    )
    code, said = mypy(page, wrong)
    assert sorted({int(line) for line in re.findall(r"wrong\.py:(\d+): error", said)}) == [2, 3, 4, 5, 6], said
    assert (code, "page.py" in said) == (1, False), said


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_notebook_runs_from_top_to_bottom_and_holds_no_outputs(tmp_path: Path) -> None:
    document = json.loads(NOTEBOOK.read_text())
    assert [cell["outputs"] for cell in document["cells"] if cell.get("outputs")] == []
    printed = run(cells_of(NOTEBOOK), tmp_path, seconds=1100)
    assert "the service answers as the engine does: True" in printed
