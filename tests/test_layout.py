"""The layout of the repository and the traps in it (docs/internals/layout.md)."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import layout
import pathspec
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
PACKAGES = {"rrrnet": ROOT / "models", "rrrbuild": ROOT / "build", "rrrserve": ROOT / "service"}
SOURCES = sorted(path for package, root in PACKAGES.items() for path in (root / package).rglob("*.py"))
HEAVY = {"torch", "onnx", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "kornia", "matplotlib"}
EXTRAS = {"bentoml", "grpc", "prometheus_client", "pydantic", "scipy", "starlette", "tritonclient", "uvicorn", "uvloop"}
TOP_LEVEL = {
    *("models", "service", "build", "tests", "bentofile.yaml", "Dockerfile"),  # fixed
    *("benchmarks", "deploy", "docs", "requirements", "README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"),
    *("Makefile", "pyproject.toml", "constraints.txt", ".gitignore", ".dockerignore", ".ci"),
}


def run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@cache
def files() -> tuple[Path, ...]:
    """Every file of the repository that git knows or would add."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    return tuple(ROOT / name for name in sorted(set(listed)) if name and (ROOT / name).is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_top_level_is_the_fixed_one() -> None:
    found = {name_of(path).partition("/")[0] for path in files()}
    assert found - TOP_LEVEL == set()
    assert {"models", "service", "build", "tests", "bentofile.yaml", "Dockerfile"} <= found


def test_each_source_root_holds_one_package_and_is_none_itself() -> None:
    for package, root in PACKAGES.items():
        tracked = {path.relative_to(root).parts[0] for path in files() if path.is_relative_to(root)}
        assert tracked == {package}, f"{root.name}/ must hold {package} alone; an __init__.py would shadow PyPA's build"


def test_git_does_not_ignore_the_sources_in_build() -> None:
    ignored = subprocess.run(["git", "check-ignore", "build/rrrbuild/new.py"], cwd=ROOT, capture_output=True, text=True)
    assert (ignored.returncode, ignored.stdout) == (1, "")


def test_docker_gets_every_source_and_little_else() -> None:
    # Docker's patterns start at the root, git's at any depth; the last that matches decides in both.
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    anchored = [re.sub(r"^(!?)(?=[\w.])", r"\1/", line) for line in lines]
    ignored = pathspec.PathSpec.from_lines("gitignore", anchored)
    assert [name_of(path) for path in SOURCES if ignored.match_file(name_of(path))] == []
    hidden = (".git/HEAD", ".venv/bin/python", "artifacts/models/demo/model.safetensors", "tests/test_layout.py")
    assert all(ignored.match_file(name) for name in hidden)
    assert not ignored.match_file("artifacts/repository/repository.json")


def test_the_wheel_contains_all_three_packages_and_nothing_else(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(root).as_posix() for root in PACKAGES.values() for path in files() if root in path.parents
    }
    assert packed == wanted
    assert {"rrrnet/py.typed", "rrrbuild/targets.py", "rrrserve/cli.py"} <= packed


def test_ruff_checks_the_sources_in_build() -> None:
    checked = run(sys.executable, "-m", "ruff", "check", "--show-files").splitlines()
    assert {str(path) for path in SOURCES} <= set(checked)


def test_no_folder_of_tests_has_a_name_that_pytest_skips() -> None:
    folders = {path.name for path in (ROOT / "tests").rglob("*") if path.is_dir()}
    assert folders & {"build", "dist", "node_modules", "venv"} == set()
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_serving_imports_neither_torch_nor_a_compiler() -> None:
    modules = ("rrrserve.worker.service", "rrrserve.bento", "rrrserve.cli", "rrrserve.commands.serve")
    load = ("rrrserve.bench.runner", "rrrserve.bench.clients.grpc_client")
    code = f"import sys, {', '.join(modules + load)}; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert run(sys.executable, "-c", code) == "[]\n"


@cache
def trees() -> dict[Path, list[ast.AST]]:
    """The nodes of every module."""
    return {path: list(ast.walk(ast.parse(path.read_text()))) for path in SOURCES}


def test_importing_a_package_imports_nothing_else_and_no_import_is_relative() -> None:
    for path, nodes in trees().items():
        assert [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level] == [], name_of(path)
    code = f"import sys; before = set(sys.modules); import {', '.join(PACKAGES)}; print(*set(sys.modules) - before)"
    imported = {name.partition(".")[0] for name in run(sys.executable, "-c", code).split()}
    assert imported - sys.stdlib_module_names == set(PACKAGES)


def test_a_client_needs_no_package_of_an_extra() -> None:
    code = f"import sys; from rrrserve import AsyncClient, Client; print(sorted({HEAVY | EXTRAS!r} & set(sys.modules)))"
    assert run(sys.executable, "-c", code) == "[]\n"


def test_a_module_has_at_most_400_lines() -> None:
    lengths = {name_of(path): path.read_bytes().count(b"\n") for path in files() if path.suffix == ".py"}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


# Calls that run what they are given, or trust what they should not, and imports whose every use does.
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
    *("tempfile.mktemp", "ssl._create_unverified_context", "subprocess.getoutput", "subprocess.getstatusoutput"),
}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "telnetlib", "ftplib"}
# What a keyword may be, wherever it is given.
SAFE_KEYWORDS = {"shell": "False", "allow_pickle": "False", "weights_only": "True"}


def test_nothing_runs_what_it_reads() -> None:
    for path, nodes in trees().items():
        for node in nodes:
            place = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":  # what torch.load raises
                assert [alias.name for alias in node.names] == ["UnpicklingError"], place
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = {node.module} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}
                assert {str(name).partition(".")[0] for name in names} & FORBIDDEN_IMPORTS == set(), place
            elif isinstance(node, ast.Call):
                check_call(node, place)


def check_call(call: ast.Call, place: str) -> None:
    function, keywords = ast.unparse(call.func), {item.arg: ast.unparse(item.value) for item in call.keywords}
    assert function not in FORBIDDEN_CALLS, place
    assert {name: keywords[name] for name in SAFE_KEYWORDS.keys() & keywords.keys()}.items() <= SAFE_KEYWORDS.items(), (
        place
    )
    assert keywords.get("verify") != "False", place
    if function == "torch.load":
        assert keywords.get("weights_only") == "True", place
    if function.endswith((".tar.extractall", "tarfile.open")):
        assert keywords.get("filter") == "'data'", place


def test_no_file_names_a_place_outside_the_repository() -> None:
    for path in files():
        text = path.read_bytes().decode(errors="ignore")
        assert re.search(r"/(?:work|root|home)/\w", text) is None, name_of(path)
        for upwards in re.findall(r"(?<![\w.])(?:\.\./)+[\w./-]*", text):
            assert (path.parent / upwards).resolve().is_relative_to(ROOT), f"{name_of(path)}: {upwards}"


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"


def test_the_pins_fit_the_build_system_and_the_wheels_triton() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    build_system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert build_system["requires"] == [f"hatchling=={pinned['hatchling']}"]
    assert pinned["torch"] == "2.13.0"
    assert pinned["numpy"].startswith("1."), "the Python-backend stub of the pinned Triton needs numpy 1"


def test_every_file_of_ours_that_the_documentation_names_is_there() -> None:
    places = r"(?:benchmarks|tests|docs|deploy|requirements|models/rrrnet|build/rrrbuild|service/rrrserve)/[\w./-]*\w"
    for path in (path for path in files() if path.suffix in (".md", ".toml", ".yaml") or path.name == "Makefile"):
        # A word of a command that makes the file, such as OUT, is no file; neither is what history tells.
        named = [] if path.name == "CHANGELOG.md" else re.findall(rf"(?<![\w./-]){places}", path.read_text())
        lost = [name for name in named if not list(ROOT.glob(name)) and not list(ROOT.glob(f"{name}.*"))]
        assert lost == [], name_of(path)


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    assert layout.PAGE.read_text() == layout.drawn(layout.PAGE.read_text()), "make layout draws it anew"
