"""The whole way through the real command line, the real tritonserver and the real HTTP port, on tiny images."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from harness.service import RRR, Service
from rrrbench.servers import free_port

pytestmark = pytest.mark.service  # all of it: what it makes takes long, and is not made twice
MEMBERS, CLASSES = 2, 4


def rrr(*words: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run one command and require its exit code; never a traceback."""
    done = subprocess.run([str(RRR), *map(str, words)], check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def rrr_json(*words: str | Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(rrr(*words, "--json").stdout)
    return document


@dataclass(frozen=True)
class Products:
    """Folders that the commands wrote."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "letters"

    @property
    def checkpoint(self) -> Path:
        return self.root / "models" / "letters"

    @property
    def common(self) -> tuple[str | Path, ...]:
        """Options of every training."""
        return ("--data", self.data, "--weights", "none", "--size", "32")

    def engine(self, target: str, name: str = "letters") -> Path:
        return self.root / "engines" / name / target

    @property
    def repository(self) -> Path:
        return self.root / "repository"


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Products:
    made = Products(tmp_path_factory.mktemp("whole-way"))
    rrr("data", "glyphs", made.data, "--classes", str(CLASSES), "--per-class", "24", "--size", "48")
    rrr("train", "--out", made.checkpoint, "--members", str(MEMBERS), "--epochs", "2", *made.common)
    rrr(
        "build", made.checkpoint, "--target", "openvino-fp32", "--plan", "merged", "--out", made.engine("openvino-fp32")
    )
    rrr("repository", made.engine("openvino-fp32"), "--out", made.repository)
    return made


@pytest.fixture(scope="module")
def server(products: Products) -> Iterator[Service]:
    with Service(products.root / "log", str(products.repository), "--default", "letters") as service:
        yield service


def engine_labels(products: Products, tmp_path: Path) -> dict[str, str]:
    """Label of each test image by `rrr evaluate` of the engine."""
    saved = tmp_path / "predictions.npz"
    rrr("evaluate", products.engine("openvino-fp32"), "--predictions", saved)
    labels = json.loads((products.checkpoint / "model.json").read_text())["labels"]
    with np.load(saved) as arrays:
        best = arrays["probabilities"].mean(axis=1).argmax(axis=1)
        return {str(file): labels[index] for file, index in zip(arrays["files"], best, strict=True)}


@pytest.mark.nightly
def test_checkpoint_and_engines_agree_on_every_test_image(products: Products, tmp_path: Path) -> None:
    rrr("build", products.checkpoint, "--target", "onnxruntime-fp32", "--out", products.engine("onnxruntime-fp32"))
    probabilities = {}
    for name, path in (
        ("pytorch", products.checkpoint),
        ("openvino", products.engine("openvino-fp32")),
        ("onnxruntime", products.engine("onnxruntime-fp32")),
    ):
        rrr("evaluate", path, "--predictions", tmp_path / f"{name}.npz")
        with np.load(tmp_path / f"{name}.npz") as arrays:
            probabilities[name] = arrays["probabilities"]
    assert probabilities["pytorch"].shape == (CLASSES * 12, MEMBERS, CLASSES)
    for name in ("openvino", "onnxruntime"):
        difference = np.abs(probabilities[name] - probabilities["pytorch"]).max()
        assert difference <= 1e-3, (name, difference)


@pytest.mark.nightly
def test_evaluate_reports_the_ensemble_and_each_member(products: Products) -> None:
    scores = rrr_json("evaluate", products.checkpoint)
    assert scores["images"] == CLASSES * 12
    assert len(scores["members"]) == MEMBERS
    assert {"accuracy", "nll", "ece"} <= scores.keys() & scores["members"][0].keys()
    assert rrr_json("evaluate", products.checkpoint, "--split", "all")["images"] == CLASSES * 24


def test_http_answers_with_the_labels_of_evaluate_in_all_three_forms(
    products: Products, server: Service, tmp_path: Path
) -> None:
    for file, label in list(engine_labels(products, tmp_path).items())[::5]:
        data = (products.data / file).read_bytes()
        encoded = base64.b64encode(data).decode()
        answers = [
            httpx.put(f"{server.url}/v1/predict", content=data),
            httpx.post(f"{server.url}/v1/predict", content=data),
            httpx.post(f"{server.url}/v1/predict", files={"image": ("x.jpg", data, "image/jpeg")}),
            httpx.post(f"{server.url}/v1/models/letters/predict", json={"image": encoded}),
        ]
        for answer in answers:
            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions"][0]["label"] == label
            assert answer.json()["model"]["members"] == MEMBERS


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sends_a_file_as_the_documentation_says(products: Products, server: Service, tmp_path: Path) -> None:
    file, label = next(iter(engine_labels(products, tmp_path).items()))
    command = ["curl", "-sS", "-T", str(products.data / file), f"{server.url}/v1/predict"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    assert answer["predictions"][0]["label"] == label


def test_predict_command_prints_one_json_line_for_each_image(products: Products, server: Service) -> None:
    files = sorted((products.data / "images").iterdir())[:3]
    lines = rrr("predict", *files, "--url", server.url, "--json").stdout.splitlines()
    assert len(lines) == 3
    assert all(len(json.loads(line)["predictions"]) >= 1 for line in lines)


def test_metrics_count_exactly_the_requests_that_were_sent(products: Products, server: Service) -> None:
    image = next((products.data / "images").iterdir()).read_bytes()

    def count() -> float:
        wanted = 'rrr_request_duration_seconds_count{model="letters",outcome="ok",route="/v1/models/{name}/predict"}'
        for line in httpx.get(f"{server.url}/metrics").text.splitlines():
            if line.startswith(wanted):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    before = count()
    for _ in range(7):
        httpx.post(f"{server.url}/v1/models/letters/predict", content=image).raise_for_status()
    assert count() - before == 7


@pytest.mark.nightly
def test_a_resnet152_goes_the_same_way_and_is_served_beside_the_ensemble(products: Products, tmp_path: Path) -> None:
    baseline, engine = tmp_path / "resnet152", products.engine("openvino-fp32", "resnet152")
    rrr("train", "--out", baseline, "--method", "full", "--epochs", "0", *products.common)
    rrr("build", baseline, "--target", "openvino-fp32", "--out", engine)
    rrr("repository", products.engine("openvino-fp32"), engine, "--out", tmp_path / "both")
    image = next((products.data / "images").iterdir()).read_bytes()
    with Service(tmp_path / "log", str(tmp_path / "both"), "--default", "letters") as service:
        models = {model["name"]: model for model in service.ask("/v1/models").json()["models"]}
        assert models.keys() == {"letters", "resnet152"}
        assert models["letters"]["members"] == MEMBERS
        answer = service.ask("/v1/models/resnet152/predict", content=image).raise_for_status().json()
        assert answer["model"]["name"] == "resnet152"


@pytest.mark.nightly
def test_readyz_is_503_until_an_inference_answered_and_sigterm_leaves_nothing(products: Products) -> None:
    port = free_port()
    with Service(products.root / "log-2", str(products.repository), "--port", str(port), ready=False) as service:
        service.url = f"http://127.0.0.1:{port}"
        seen: list[int] = []
        end = time.monotonic() + 60
        while seen[-1:] != [200]:
            assert time.monotonic() < end, (seen, service.log.read_text())
            with contextlib.suppress(httpx.TransportError):
                seen.append(service.ask("/readyz").status_code)
            time.sleep(0.02)
        assert set(seen[:-1]) <= {503}
        children = service.children()
        assert service.of_kind("tritonserver")
        assert service.stop() == 0
        assert service.left_behind(children) == []


@pytest.mark.parametrize(
    ("folder", "file", "command"),
    [
        ("checkpoint", "model.safetensors", "evaluate"),
        pytest.param("checkpoint", "model.json", "describe", marks=pytest.mark.nightly),
        pytest.param("checkpoint", "split.csv", "evaluate", marks=pytest.mark.nightly),
        ("engine", "model.bin", "evaluate"),
        pytest.param("engine", "model.xml", "evaluate", marks=pytest.mark.nightly),
        pytest.param("engine", "manifest.json", "repository", marks=pytest.mark.nightly),
        pytest.param("repository", "letters/config.pbtxt", "serve", marks=pytest.mark.nightly),
        ("repository", "letters/1/model.bin", "serve"),
        pytest.param("repository", "letters/1/model.py", "serve", marks=pytest.mark.nightly),
        pytest.param("repository", "repository.json", "serve", marks=pytest.mark.nightly),
    ],
)
def test_a_flipped_byte_is_refused_with_exit_code_3_and_the_files_name(
    products: Products, tmp_path: Path, folder: str, file: str, command: str
) -> None:
    source = products.engine("openvino-fp32") if folder == "engine" else getattr(products, folder)
    copy = tmp_path / source.name
    shutil.copytree(source, copy)
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (copy / file).write_bytes(data)
    options = {"repository": ("--out", tmp_path / "out"), "serve": ("--port", "0")}.get(command, ())
    done = rrr(command, copy, *options, expect=3)
    assert file in done.stderr.replace("\n", "")
    assert not (tmp_path / "out").exists()
