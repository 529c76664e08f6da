"""What each extra installs: in a fresh environment it does its work, and has nothing of the others'."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.pages import python_in
from rrrbuild.repository_document import read_repository

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 900

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(2 * INSTALL_SECONDS)]


class Environment:
    """A virtual environment with the wheel and one of its extras, at the versions of constraints.txt."""

    def __init__(self, folder: Path, wheel: Path, extra: str, pip: Path, python: str = sys.executable) -> None:
        self.bin = folder / "bin"
        self._folder, self._pip_folder = folder, pip
        self._run(python, "-m", "venv", "--without-pip", str(folder))  # ensurepip is missing in some Pythons
        self.install(f"{wheel}{extra}")
        self._pip("check")

    def rrr(self, *arguments: str, code: int = 0) -> str:
        """What a command said on both outputs."""
        return self._run(str(self.bin / "rrr"), *arguments, code=code)

    def python(self, *arguments: str, code: int = 0) -> str:
        """What Python said on both outputs."""
        return self._run(str(self.bin / "python"), *arguments, code=code)

    def install(self, *packages: str) -> None:
        """Add packages, at the versions of constraints.txt."""
        self._pip("install", "--progress-bar", "off", *packages, "--constraint", str(ROOT / "constraints.txt"))

    def lacks(self, module: str) -> bool:
        """Whether Python does not find it."""
        said = self._run(str(self.bin / "python"), "-c", f"import {module}", code=1)
        return f"ModuleNotFoundError: No module named '{module}'" in said

    def _pip(self, *arguments: str) -> None:
        command = (str(self.bin / "python"), "-m", "pip", "--disable-pip-version-check", *arguments)
        self._run(*command, PYTHONPATH=str(self._pip_folder))

    def _run(self, *command: str, code: int = 0, **variables: str) -> str:
        ran = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            cwd=self._folder.parent,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            | {"COLUMNS": "200"}
            | variables,
        )
        assert ran.returncode == code, f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stdout}"
        return ran.stdout


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Make environments of this wheel; give the extra, such as "[train]"."""
    folder = tmp_path_factory.mktemp("environments")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    # A new one: those of older systems do not run under Python 3.13.
    subprocess.run([*pip, "install", "--target", str(folder / "pip"), "pip"], check=True)
    return lambda extra, *python: Environment(
        folder / f"with{extra.strip('[]')}", wheel, extra, folder / "pip", *python
    )


@pytest.fixture
def serving(make: Callable[..., Environment], repository: Path, tmp_path: Path) -> Iterator[tuple[Environment, str]]:
    """An environment with `[serve]` alone, and the URL of a service that runs in it."""
    environment = make("[serve]")
    log = tmp_path / "serve.log"
    command = [str(environment.bin / "rrr"), "serve", str(repository), "--port", "0", "--drain", "0"]
    with log.open("wb") as file:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path, env={**variables, "COLUMNS": "200"})
    try:
        while (found := re.search(r"ready: (\S+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield environment, found[1]
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


def python_3_13() -> str | None:
    """A Python 3.13 of this machine."""
    command = ["python3.13", "-c", "import sys; print(sys.executable)"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYENV_VERSION": "3.13"})
    except FileNotFoundError:
        return None
    return ran.stdout.strip() or None


def test_with_train_alone_a_network_is_trained_and_scored_without_bentoml(
    make: Callable[..., Environment], tmp_path: Path
) -> None:
    environment = make("[train]")
    data, out = str(tmp_path / "letters"), str(tmp_path / "tiny")
    environment.rrr("data", "glyphs", data, "--classes", "2", "--per-class", "8", "--size", "32")
    environment.rrr(
        *("train", "--data", data, "--out", out, "--weights", "none"),
        *("--members", "2", "--epochs", "1", "--size", "32", "--batch-size", "4"),
    )
    assert "accuracy" in environment.rrr("evaluate", out)
    assert environment.lacks("bentoml")
    assert environment.lacks("onnx")
    said = environment.rrr("build", out, "--target", "onnxruntime-fp32", code=4)
    assert "onnxruntime is not installed: " in said
    assert "install 'rrrnet-serving[onnxruntime]'" in said


def test_with_serve_alone_a_repository_is_served_without_torch(
    serving: tuple[Environment, str], png: Callable[[int], bytes], tmp_path: Path
) -> None:
    environment, url = serving
    image = tmp_path / "image.png"
    image.write_bytes(png(0))
    assert '"predictions"' in environment.rrr("predict", str(image), "--url", url, "--json")
    environment.rrr("bench", "--help")
    assert environment.lacks("torch")


def test_with_a_runtime_and_batch_alone_a_folder_becomes_a_parquet_file(
    make: Callable[..., Environment], repository: Path, png: Callable[[int], bytes], tmp_path: Path
) -> None:
    environment = make("[onnxruntime,batch]")
    (tmp_path / "in").mkdir()
    for seed in range(3):
        (tmp_path / "in" / f"{seed}.png").write_bytes(png(seed))
    engine = str(read_repository(repository).models[0].engine)
    command = ("predict", str(tmp_path / "in"), "--engine", engine, "--out")
    assert "(3 rows)" in environment.rrr(*command, str(tmp_path / "a.parquet"))
    said = environment.rrr(*command, str(tmp_path / "b.csv"), "--ray", "local", code=4)
    assert "install 'rrrnet-serving[ray]'" in said
    assert environment.lacks("torch")
    assert environment.lacks("python_multipart")


def test_without_an_extra_it_is_a_client_also_in_python_3_13(
    make: Callable[..., Environment], service: Any, png: Callable[[int], bytes], tmp_path: Path
) -> None:
    python = python_3_13()
    if python is None:
        pytest.skip("no python3.13 is here")
    environment = make("", python)
    image = tmp_path / "image.png"
    image.write_bytes(png(0))
    assert '"predictions"' in environment.rrr("predict", str(image), "--url", service.url, "--json")
    assert "ResNet152 / all" in environment.rrr("describe", "--members", "4")
    assert "no tritonserver" in environment.rrr("doctor", code=1)
    assert "openvino-fp32" in environment.rrr("targets")
    wanted = {"train": "train", "repository": "build", "serve": "serve", "verify": "bench"}
    given = {
        "train": ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--weights", "none"],
        "repository": [str(tmp_path)],
        "serve": [str(tmp_path)],
        "verify": ["--claims", str(image), "--scrape", service.url],
    }
    for command, extra in wanted.items():
        said = environment.rrr(command, *given[command], code=4)
        assert "Traceback" not in said
        assert f"install 'rrrnet-serving[{extra}]'" in said
    for module in ("torch", "bentoml", "grpc", "scipy"):
        assert environment.lacks(module)


def test_the_clients_work_without_an_extra_and_code_that_uses_the_api_passes_a_strict_type_checker(
    make: Callable[..., Environment], service: Any, png: Callable[[int], bytes], tmp_path: Path
) -> None:
    environment = make("")
    (tmp_path / "image.png").write_bytes(png(0))
    user, wrong = tmp_path / "user.py", tmp_path / "wrong.py"
    user.write_text(
        "import sys\n"
        "import rrrserve\n"
        "with rrrserve.Client(sys.argv[1]) as client:\n"
        "    answer = client.predict(sys.argv[2])\n"
        "    many = list(client.predict_many([sys.argv[2]] * 2))\n"
        "labels = [item.label for item in many if isinstance(item, rrrserve.Answer)]\n"
        "print(labels == [answer.label] * 2)\n"
    )
    wrong.write_text("import rrrserve\nrrrserve.Client().predict(1).labels\n")
    assert environment.python(str(user), service.url, str(tmp_path / "image.png")) == "True\n"
    said = environment.python("-c", 'import rrrnet; rrrnet.train("images", "out")', code=1)
    assert "install 'rrrnet-serving[train]'" in said
    environment.install("mypy")
    page = tmp_path / "page.py"
    page.write_text(python_in(ROOT / "docs" / "python.md"))
    checked = ["-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    assert "Success: no issues found in 2 source files" in environment.python(*checked, str(user), str(page))
    assert "Found 2 errors in 1 file" in environment.python(*checked, str(wrong), code=1)
