"""The locks, the accept-list of vulnerabilities, and what containers and units are made from (docs/security.md)."""

import ast
import datetime as dt
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import requires, version
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ACCEPTED = ROOT / "requirements" / "advisories.toml"
LOCKS = ("build", "serving", "front", "training", "audit")
ENTRY = re.compile(r"([A-Za-z0-9._-]+)==(\S+)(?: \\\n {4}--hash=sha256:([0-9a-f]{64}))+\n")
REMEDY = "run make lock"
UNPINNED = {"setuptools", "pip", "wheel"}  # pip itself decides on these


@cache
def pins(path: str) -> dict[str, str]:
    """Versions by package, of a lock or of constraints.txt."""
    text = (ROOT / path).read_text()
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.M)}


def locked(name: str) -> dict[str, str]:
    return pins(f"requirements/{name}.lock")


@cache
def wanted(*extras: str) -> list[Requirement]:
    """What the project asks for in this Python, with these extras and those that they include."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    left = list(extras)
    while left:
        for item in map(Requirement, project["optional-dependencies"][left.pop()]):
            if item.name == project["name"]:
                left += item.extras
            elif item.marker is None or item.marker.evaluate():
                found.append(item)
    return found


def all_extras() -> list[str]:
    """Those of `make setup`."""
    line = re.search(r"^EXTRAS := (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert line is not None
    return line[1].split(",")


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_of_a_lock_is_a_version_with_its_digest(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    remarks, _, _ = text.partition("\n\n")
    entries = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert "".join(match[0] for match in ENTRY.finditer(entries)) == entries
    names = [match[1].lower() for match in ENTRY.finditer(entries)]
    assert names == sorted(set(names))
    assert len(names) >= 5
    assert "://" not in text, "a lock tells what is installed, not from where"
    assert remarks.startswith("# ")


# The front is for the Python 3.12 of NVIDIA's image, where nothing wants numpy 1.
@pytest.mark.parametrize(
    ("name", "others"), [("build", set()), ("serving", set()), ("front", {"numpy"}), ("training", {"torch"})]
)
def test_a_lock_has_the_versions_of_the_constraints(name: str, others: set[str]) -> None:
    differing = locked(name).items() - pins("constraints.txt").items()
    assert {package for package, _ in differing} - UNPINNED == others, REMEDY


def test_torch_is_the_build_for_cpus_in_the_training_image_alone() -> None:
    assert locked("training")["torch"] == pins("constraints.txt")["torch"] + "+cpu"
    assert not {name for name in locked("training") if name.startswith(("nvidia-cu", "triton", "cuda"))} - {
        "tritonclient"
    }
    assert "torch" not in locked("serving").keys() | locked("front").keys()


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        ("requirements/serving.lock", ["serve", "container"]),
        ("requirements/front.lock", ["front", "container"]),
        ("requirements/training.lock", ["build", "container"]),
        ("constraints.txt", all_extras()),
    ],
)
def test_what_pyproject_asks_for_is_pinned(file: str, extras: list[str]) -> None:
    for item in wanted(*extras):
        version = pins(file).get(canonicalize_name(item.name))
        assert version is not None, f"{item.name} is missing in {file}: {REMEDY}"
        assert item.specifier.contains(version, prereleases=True), f"{item} against {version}: {REMEDY}"


def test_what_is_installed_is_what_the_constraints_say() -> None:
    left, seen = wanted(*all_extras()), set[tuple[str, frozenset[str]]]()
    versions: dict[str, str] = {}
    while left:
        item = left.pop()
        name = str(canonicalize_name(item.name))
        if (name, frozenset(item.extras)) in seen:
            continue
        seen.add((name, frozenset(item.extras)))
        versions[name] = version(name).partition("+")[0]  # torch has builds of one version
        for needed in map(Requirement, requires(name) or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *item.extras)):
                left.append(needed)
    versions = {package: found for package, found in versions.items() if package not in UNPINNED}
    assert versions == pins("constraints.txt"), "make setup, or write constraints.txt anew (docs/internals/layout.md)"


def test_extras_install_what_their_work_needs_and_no_more() -> None:
    def names(*extras: str) -> set[str]:
        return {canonicalize_name(item.name) for item in wanted(*extras)}

    heavy = {"torch", "onnx", "openvino", "onnxruntime", "bentoml", "grpcio", "scipy", "nvidia-pytriton", "matplotlib"}
    assert names() & heavy == set()
    assert names("train") & heavy == {"torch", "matplotlib"}
    assert names("sweep") & heavy == {"torch", "matplotlib", "scipy"}
    assert names("build") & heavy == {"torch", "matplotlib", "onnx", "openvino", "onnxruntime", "grpcio"}
    assert names("front") & heavy == {"bentoml", "grpcio", "scipy"}
    assert locked("serving").keys() & heavy == heavy - {"torch", "onnx", "matplotlib"}
    assert locked("serving").keys() & {"kornia", "pytest", "mypy"} == set()
    kept = {"train", "heif", "otel", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx", "triton", "peers", "dev"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == kept | {
        "build",
        "bench",
        "container",
        "front",
        "report",
        "serve",
        "sweep",
        "batch",
        "ray",
    }


def test_packages_whose_private_parts_are_used_have_an_upper_bound() -> None:
    """Whether the parts are there is asked by tests/rrrserve/test_private_parts.py."""
    bounded = {item.name: item.specifier for item in wanted("serve")}
    for package in ("uvicorn", "prometheus-client", "bentoml"):
        major, minor, *_ = locked("serving")[package].split(".")
        assert not bounded[package].contains(f"{major}.{int(minor) + 1}.0"), package


def test_versions_with_known_faults_are_below_the_floor() -> None:
    floors = {
        "bentoml": "1.4.39",
        "starlette": "0.47.2",
        "python-multipart": "0.0.27",
        "onnx": "1.21",
        "torch": "2.6",
    }
    for name, floor in floors.items():
        assert Requirement(f"{name}>={floor}").specifier.contains(pins("constraints.txt")[name]), name


def test_a_changed_digest_is_not_installed(tmp_path: Path) -> None:
    lock = (ROOT / "requirements" / "build.lock").read_text()
    (name, version, digest) = next((match[1], match[2], match[3]) for match in ENTRY.finditer(lock))
    wheel = tmp_path / f"{name}-{version}-py3-none-any.whl"
    wheel.write_bytes(b"not what the digest is of")
    (tmp_path / "lock").write_text(f"{name}=={version} --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--isolated", "install", "--no-index"]
    command += ["--find-links", str(tmp_path), "--no-deps", "--require-hashes", "--target", str(tmp_path / "out")]
    refused = subprocess.run([*command, "-r", str(tmp_path / "lock")], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_each_accepted_vulnerability_has_a_reason_dates_and_a_test_that_exists() -> None:
    allowed = [SimpleNamespace(**item) for item in tomllib.loads(ACCEPTED.read_text())["accepted"]]
    assert len({(item.package, item.id) for item in allowed}) == len(allowed) >= 7
    security = (ROOT / "SECURITY.md").read_text()
    for item in allowed:
        assert canonicalize_name(item.package) in pins("constraints.txt"), item.id
        assert len(item.reason) > 30, item.id
        assert item.date < item.review_by <= item.date + dt.timedelta(days=100), item.id
        path, _, test = item.contained_by.partition("::")
        names = [
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
        ]
        assert test in names, item.id
        assert item.id in security, f"{item.id} is accepted, and SECURITY.md does not say so"


@pytest.mark.parametrize(("day", "due"), [("2026-12-01", 0), ("2999-01-01", 1)])
def test_an_audit_asks_nobody_while_an_acceptance_is_overdue(day: str, due: int) -> None:
    recipe = re.search(r"^audit:.*\n\t@(awk .*)$", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    command = recipe[1].replace("$$(date +%F)", day).replace("$$", "$")
    ended = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == due
    assert ("is due for review since 2027-02-22" in ended.stdout) == bool(due)


def test_the_images_install_by_digest_only() -> None:
    steps = re.findall(r"pip --python \S+ (?:install|wheel) [^&\n]*", (ROOT / "Dockerfile").read_text())
    assert len(steps) == 8  # what builds our wheel, and the wheel; packages of the three images, and our wheel in each
    for step in steps:
        assert "--require-hashes" in step or ("--no-deps" in step and "--no-index" in step), step
