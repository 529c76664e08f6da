"""bentofile.yaml: it installs what the image installs, and the Bento serves from another folder."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
BENTOML = Path(sys.executable).parent / "bentoml"


def test_the_bento_installs_what_the_image_installs() -> None:
    options = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]
    assert options == {"lock_packages": False, "requirements_txt": "requirements/serving.lock"}
    assert options["requirements_txt"] in (ROOT / "Dockerfile").read_text()


@pytest.mark.e2e
def test_a_built_bento_serves_from_another_folder(
    repository: Path, tmp_path: Path, png: Callable[[int], bytes], client: httpx.Client
) -> None:
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("models", "build", "service"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("bentofile.yaml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "requirements", tree / "requirements")
    shutil.copytree(repository, tree / "artifacts" / "repository")
    environment: dict[str, Any] = {
        **os.environ,
        "BENTOML_HOME": str(tmp_path / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
        "TMPDIR": str(elsewhere),
    }
    subprocess.run([BENTOML, "build"], cwd=tree, env=environment, check=True, capture_output=True)
    (requirements,) = (tmp_path / "home" / "bentos" / "rrr").glob("*/env/python/requirements.txt")
    assert requirements.read_text().count("--hash=sha256:") > 50
    shutil.rmtree(tree)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "bento.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [BENTOML, "serve", "rrr:latest", "--host", "127.0.0.1", "--port", str(port)],
            cwd=elsewhere,
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as bento:
            _wait_until_ready(bento, log)
            for seed in range(3):
                ours = client.post("/v1/predict?members=true", content=png(seed)).json()
                theirs = bento.post("/v1/predict?members=true", content=png(seed)).json()
                for key in ("model", "predictions", "uncertainty", "members"):
                    assert theirs[key] == ours[key]
            count = 'rrr_request_duration_seconds_count{model="tiny",outcome="ok",route="/v1/predict"} 3.0'
            assert count in bento.get("/metrics").text
            assert bento.get("/metrics/triton").status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()


def _wait_until_ready(bento: httpx.Client, log: Path) -> None:
    for _ in range(600):
        try:
            if bento.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    pytest.fail(log.read_text())
