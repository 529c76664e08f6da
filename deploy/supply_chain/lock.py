"""Write requirements/*.lock: every package that an environment gets, with its version and the digest of its file.

    python deploy/supply_chain/lock.py [NAME ...]

pip resolves what pyproject.toml and constraints.txt ask for, and tells the SHA-256 of each file that it would install
on this machine (Linux on x86-64, Python 3.11), so a lock holds for machines of this kind. Where a file comes from is
not written down: that is the business of whoever installs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
SERVING_EXTRAS = ("onnxruntime", "openvino", "triton")
_PROJECT = "rrrnet-serving"


@dataclass(frozen=True)
class Lock:
    """What a lock is made from.

    Attributes:
        purpose: for its first line.
        wanted: arguments of pip install.
        constrained: whether constraints.txt decides the versions.
    """

    purpose: str
    wanted: tuple[str, ...]
    constrained: bool = True


def locks() -> dict[str, Lock]:
    """The locks by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dev = sorted(set(project["project"]["optional-dependencies"]) - {"tensorrt"})  # needs an NVIDIA driver's libraries
    audit = tuple((FOLDER / "audit.in").read_text().split())
    return {
        "build": Lock("what builds the wheel", tuple(project["build-system"]["requires"])),
        "serving": Lock("what serves, without torch", (f".[{','.join(SERVING_EXTRAS)}]",)),
        "dev": Lock("what .venv holds after make setup", (f".[{','.join(dev)}]",)),
        "audit": Lock("what make audit and make sbom run, apart from everything else", audit, constrained=False),
    }


def resolve(lock: Lock) -> list[dict[str, Any]]:
    """What pip would install into an empty environment, from its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run", "--quiet"]
        command += ["--ignore-installed", "--report", str(report), *lock.wanted]
        if lock.constrained:
            command += ["--constraint", "constraints.txt"]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if answer.returncode != 0:
            sys.exit(f"pip could not resolve {' '.join(lock.wanted)}:\n{answer.stderr.strip()}")
        installed: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return installed


def render(name: str, lock: Lock, installed: list[dict[str, Any]]) -> str:
    """The text of a lock file, in pip's own format."""
    lines = [f"# {lock.purpose}; made by make lock for Linux on x86-64, Python 3.11."]
    lines += [f"# pip install --require-hashes --no-deps --requirement requirements/{name}.lock"]
    entries = {}
    for item in installed:
        project, version = item["metadata"]["name"], item["metadata"]["version"]
        if project != _PROJECT:
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            public = version.partition("+")[0]  # torch has builds of one version; the digest tells which was meant
            entries[project.lower()] = f"{project}=={public} \\\n    --hash=sha256:{digest}"
    return "\n".join([*lines, *(entries[project] for project in sorted(entries))]) + "\n"


def main() -> None:
    """Write the locks that are named, else all."""
    known = locks()
    parser = argparse.ArgumentParser(description="Write requirements/*.lock.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    names = parser.parse_args().names or list(known)
    for name in names:
        if name not in known:
            parser.error(f"no lock is named {name}: {', '.join(known)}")
    for name in names:
        installed = resolve(known[name])
        (FOLDER / f"{name}.lock").write_text(render(name, known[name], installed))
        print(f"requirements/{name}.lock: {len(installed)} packages")


if __name__ == "__main__":
    main()
