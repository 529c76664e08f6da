"""The line that installs what is missing: of a clone and of a wheel, by the pip of this environment."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from rrrnet import installing


class Installed(Distribution):
    """An installed package that pip wrote direct_url.json for."""

    def __init__(self, document: Any) -> None:
        self.document = document

    def read_text(self, filename: str) -> str | None:
        return self.document if self.document is None or isinstance(self.document, str) else json.dumps(self.document)

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def asked_again() -> Iterator[None]:
    """What is kept for a process is asked for anew by each test, and after it."""
    for kept in (installing._clone, installing._pip):
        kept.cache_clear()
    yield
    for kept in (installing._clone, installing._pip):
        kept.cache_clear()


def line_of(monkeypatch: pytest.MonkeyPatch, document: Any, *, extra: str = "heif") -> list[str]:
    """The words of the line where this is what pip left; the last ones, behind `install`."""
    monkeypatch.setattr(installing, "distribution", lambda name: Installed(document))
    words = shlex.split(installing.install_line(extra))
    return words[words.index("install") + 1 :]


def test_an_editable_install_names_its_clone_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clone = tmp_path / "my clone ü"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    document = {"url": clone.as_uri(), "dir_info": {"editable": True}}
    assert line_of(monkeypatch, document, extra="train,heif") == ["-e", f"{clone}[train,heif]"]
    assert f"'{clone}[heif]'" in installing.install_line("heif")
    assert installing.reinstall_line().endswith(f"install --no-deps -e '{clone}'")


@pytest.mark.parametrize(
    "document",
    [
        None,
        {"url": "file:///a/rrrnet_serving-0.1.0-py3-none-any.whl", "archive_info": {}},
        {"url": "file:///nowhere/clone", "dir_info": {"editable": True}},
        {"url": "file:///a/clone", "dir_info": {}},
        "{not json",
        [],
    ],
)
def test_a_wheel_or_a_clone_that_is_gone_is_called_by_the_packages_name(
    monkeypatch: pytest.MonkeyPatch, document: Any
) -> None:
    assert line_of(monkeypatch, document) == ["rrrnet-serving[heif]"]


def test_pip_is_called_pip_only_where_that_is_this_environments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pip = tmp_path / "pip"
    pip.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installing.pip_install("numpy<2") == f"{sys.executable} -m pip install 'numpy<2'"
    installing._pip.cache_clear()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert installing.pip_install("numpy<2") == "pip install 'numpy<2'"
    installing._pip.cache_clear()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(installing, "find_spec", lambda name: None)
    assert installing.pip_install("a") == f"pip --python {sys.executable} install a"


# Each command in a process that finds none of the packages that extras bring.
_WITHOUT_EXTRAS = """
import sys
from pathlib import Path
for name in ("torch", "matplotlib", "onnx", "grpc", "tritonclient", "pydantic", "scipy", "ruamel", "bentoml", "uvicorn",
             "starlette", "prometheus_client", "hdrh", "jinja2", "google", "kornia", "onnxruntime", "openvino"):
    sys.modules[name] = None
from rrrserve.cli import run
folder = sys.argv[1]
for line in sys.stdin.read().splitlines():
    print(run([word.format(folder=folder) for word in line.split()]), flush=True)
"""
_COMMANDS = {
    "data glyphs {folder}/letters": "train",
    "train --data {folder} --out {folder}/out --weights none": "train",
    "evaluate {folder}": "train",
    "repository {folder}": "build",
    "serve {folder}": "serve",
    "reload": "serve",
    "tune --repository {folder}": "serve",
    "bench --url http://127.0.0.1:9": "bench",
    "claims init {folder}": "bench",
    "verify --claims {folder}": "bench",
    "report {folder}": "bench",
}


def test_every_command_without_its_extra_ends_in_one_line_with_the_line_that_installs_it(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRAS, str(tmp_path)],
        input="\n".join(_COMMANDS),
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = ran.stderr.splitlines()
    assert (ran.stdout.split(), len(said)) == (["4"] * len(_COMMANDS), len(_COMMANDS)), ran.stderr
    for line, (command, extra) in zip(said, _COMMANDS.items(), strict=True):
        assert line.startswith("rrr: "), command
        assert line.endswith(installing.install_line(extra)), command
