"""The locks, the accept-list of vulnerabilities, and what containers and units are made from (docs/security.md)."""

import ast
import datetime as dt
import importlib.util
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ("build", "serving", "dev", "audit")
ENTRY = re.compile(r"([A-Za-z0-9._-]+)==(\S+) \\\n {4}--hash=sha256:([0-9a-f]{64})\n")
REMEDY = "run make lock"


def script(name: str) -> ModuleType:
    """A script of deploy/supply_chain, imported."""
    spec = importlib.util.spec_from_file_location(f"supply_chain_{name}", ROOT / "deploy/supply_chain" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pins(text: str) -> dict[str, str]:
    """Versions by package."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}


@cache
def locked(name: str) -> dict[str, str]:
    return pins((ROOT / "requirements" / f"{name}.lock").read_text())


@cache
def project() -> dict[str, list[str]]:
    """Extras by name, and the dependencies that every installation has under the empty name."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {**found["optional-dependencies"], "": found["dependencies"]}


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


@pytest.mark.parametrize("name", ["build", "serving", "dev"])
def test_locks_and_constraints_agree(name: str) -> None:
    constraints = pins((ROOT / "constraints.txt").read_text())
    differing = {
        package: (version, constraints[package])
        for package, version in locked(name).items()
        if constraints.get(package, version) != version
    }
    assert differing == {}, REMEDY


def test_the_lock_of_the_development_environment_covers_every_constraint() -> None:
    constraints = set(pins((ROOT / "constraints.txt").read_text()))
    assert constraints - set(locked("dev")) == set(), REMEDY
    # pip itself decides on these, so they are in no constraint.
    assert set(locked("dev")) - constraints <= {"setuptools", "pip", "wheel"}, "name them in constraints.txt"


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("serving", ("", "onnxruntime", "openvino", "triton")),
        ("dev", ("", "dev", "onnxruntime", "openvino", "peers", "tensorrt-rtx", "train", "triton")),
    ],
)
def test_a_lock_has_what_pyproject_asks_for(name: str, extras: tuple[str, ...]) -> None:
    for text in (text for extra in extras for text in project()[extra]):
        wanted = Requirement(text)
        version = locked(name).get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is missing in {name}.lock: {REMEDY}"
        assert wanted.specifier.contains(version, prereleases=True), f"{text} against {version}: {REMEDY}"


def test_what_serves_needs_neither_torch_nor_a_compiler() -> None:
    assert locked("serving").keys() & {"torch", "onnx", "kornia", "matplotlib", "pytest"} == set()
    assert locked("serving").items() <= locked("dev").items(), REMEDY
    assert set(script("lock").SERVING_EXTRAS) == {"onnxruntime", "openvino", "triton"}


def test_versions_with_known_faults_are_below_the_floor() -> None:
    floors = {
        "bentoml": "1.4.39",
        "starlette": "0.47.2",
        "python-multipart": "0.0.27",
        "onnx": "1.21",
        "torch": "2.6",
    }
    for name, floor in floors.items():
        assert Requirement(f"{name}>={floor}").specifier.contains(locked("dev")[name]), name


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
    audit = script("audit")
    allowed = audit.accepted()
    assert len({(item.package, item.id) for item in allowed}) == len(allowed) >= 7
    security = (ROOT / "SECURITY.md").read_text()
    for item in allowed:
        assert canonicalize_name(item.package) in locked("dev"), item.id
        assert len(item.reason) > 30, item.id
        assert item.date < item.review_by <= item.date + dt.timedelta(days=100), item.id
        path, _, test = item.contained_by.partition("::")
        names = [
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
        ]
        assert test in names, item.id
        assert item.id in security, f"{item.id} is accepted, and SECURITY.md does not say so"


def test_the_audit_lets_pass_only_what_is_accepted_and_not_overdue() -> None:
    audit = script("audit")
    report = {
        "dependencies": [
            {"name": "Good", "version": "1", "vulns": []},
            {"name": "left-out", "skip_reason": "not found"},
            {
                "name": "Bad",
                "version": "2",
                "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"], "description": ""}],
            },
        ]
    }
    found = audit.findings(report)
    day = dt.date(2026, 1, 1)
    allowed = audit.Accepted("CVE-1", "bad", "because", day, dt.date(2026, 3, 1), "")
    assert audit.judge(found, [], day) == ["Bad 2: PYSEC-1 = CVE-1; fixed in 3"]
    assert audit.judge(found, [allowed], day) == []
    (overdue,) = audit.judge(found, [allowed], dt.date(2026, 3, 1))
    assert overdue == "CVE-1 (bad) was accepted on 2026-01-01 and is due for review since 2026-03-01"


NOBODY = "echo 'ConnectionError: nobody is there' >&2; exit 1"
SKIPS = """echo '{"dependencies": [{"name": "bentoml", "skip_reason": "not found"}]}'"""
KNOWS_NOTHING = """echo '{"dependencies": [{"name": "bentoml", "version": "1.4.2", "vulns": []}]}'"""


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (NOBODY, "could not be asked: ConnectionError: nobody is there"),
        (SKIPS, "could not be asked: it knows nothing of 1 packages, such as bentoml"),
        (KNOWS_NOTHING, "could not be asked: it does not know CVE-2025-27520 of bentoml 1.4.2"),
    ],
)
def test_an_audit_that_could_not_ask_is_no_pass(tmp_path: Path, answer: str, told: str) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    command = [sys.executable, str(ROOT / "deploy/supply_chain/audit.py"), "--pip-audit", str(program)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout.count(told) == 2, "each service was tried"
    assert ended.stdout.endswith("so nothing is known about the locked packages\n")


def test_the_image_installs_by_digest_only() -> None:
    steps = re.findall(r"pip (?:install|wheel)[^&\n]*", (ROOT / "Dockerfile").read_text())
    assert len(steps) == 4  # of build and serving packages, then our wheel
    for step in steps:
        assert "--require-hashes" in step or ("--no-deps" in step and "--no-index" in step), step
