"""KServe's own Python client, in an environment of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

import harness

KSERVE = "kserve==0.21.0"


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_kserves_own_clients_find_it_ready_and_get_the_answers_of_v1(
    service: Any,
    client: httpx.Client,
    png: Callable[[int], bytes],
    picture: Callable[[int], npt.NDArray[np.uint8]],
    tmp_path: Path,
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "own")], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "own"), "install", "--quiet", KSERVE]
    subprocess.run(pip, check=True)
    np.save(tmp_path / "pixels.npy", picture(5)[None])
    script = Path(harness.__path__[0]) / "kserve_client.py"
    command = [str(tmp_path / "own/bin/python"), str(script), service.url, service.grpc, "tiny"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run([*command, str(tmp_path / "pixels.npy")], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout.splitlines()[-1])
    told = client.post("/v1/predict", content=png(5)).json()
    for found in answers.values():
        assert max(found["mean_probabilities"][0]) == pytest.approx(told["predictions"][0]["probability"], abs=1e-6)
        assert found["members_used"] == [told["members_used"]]
