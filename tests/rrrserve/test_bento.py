"""BentoML: its clients, its description of the service, and a built Bento that serves from another folder."""

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bentoml
import httpx
import pytest
import yaml
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel

from harness.bentos import BENTOML, build_bento
from rrrserve.api.docs.schemas import Answer, BatchAnswer, Error, Models

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef"

# BentoML's clients use what pathspec and pydantic deprecate. They also leave their folder to the garbage collector,
# which would tell in some later test: hence `with client._temp_dir`.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_the_bento_installs_what_the_image_installs() -> None:
    options = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]
    assert options == {"lock_packages": False, "requirements_txt": "requirements/serving.lock"}
    assert options["requirements_txt"] in (ROOT / "Dockerfile").read_text()


def write_images(folder: Path, png: Callable[[int], bytes]) -> list[Path]:
    """Three pictures, and one that cannot be used."""
    files = [folder / f"{number}.png" for number in range(4)]
    for number, file in enumerate(files):
        file.write_bytes(png(number) if number < 3 else b"no image")
    return files


def essence(result: dict[str, Any]) -> Any:
    """What must not differ between two answers about the same image."""
    keys = ("predictions", "uncertainty", "effort", "members_used", "members", "set", "set_reason", "error")
    return {key: result[key] for key in keys if key in result}


def assert_bentoml_clients_agree_with_v1(url: str, files: list[Path], token: str | None = None) -> None:
    """Ask by BentoML's client with each way of giving options; the answers are those of /v1."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with (
        httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as v1,
        bentoml.SyncHTTPClient(url, token=token) as theirs,
        theirs._temp_dir,
    ):
        assert {"predict", "predict_batch"} == {route["name"] for route in v1.get("/schema.json").json()["routes"]}
        single = [v1.post("/v1/predict?members=true", content=file.read_bytes()).json() for file in files[:3]]
        asked = [theirs.predict(image=file, members=True) for file in files[:3]]
        assert [essence(answer) for answer in asked] == [essence(answer) for answer in single]
        together = [("images", (file.name, file.read_bytes())) for file in files]
        batch = v1.post("/v1/predict_batch?top_k=2&coverage=0.9", files=together).json()["results"]
        asked = theirs.predict_batch(images=files, top_k=2, coverage=0.9, effort="fast")["results"]
        assert [essence(result) for result in asked] == [essence(result) for result in batch]
        assert [len(result.get("predictions", "")) for result in batch] == [2, 2, 2, 0]


def test_bentoml_clients_get_the_answers_of_v1(service: Any, tmp_path: Path, png: Callable[[int], bytes]) -> None:
    files = write_images(tmp_path, png)
    assert_bentoml_clients_agree_with_v1(service.url, files)

    async def ask() -> Any:
        async with bentoml.AsyncHTTPClient(service.url) as client:
            with client._temp_dir:
                return await client.predict(image=files[0], top_k=1)

    (best,) = asyncio.run(ask())["predictions"]
    assert best == httpx.post(f"{service.url}/v1/predict?top_k=1", content=png(0)).json()["predictions"][0]


def test_what_v1_refuses_bentoml_clients_are_told_in_the_same_words(
    service: Any, tmp_path: Path, png: Callable[[int], bytes]
) -> None:
    *_, good, bad = write_images(tmp_path, png)
    with bentoml.SyncHTTPClient(service.url) as client, client._temp_dir:
        refusals: list[tuple[int, str, Callable[[], object]]] = [
            (400, "top_k must be a whole number from 1", lambda: client.predict(image=good, top_k=0)),
            (415, "a form that cannot hold files", lambda: client.predict(image=f"{service.url}/livez")),
            (413, "33 images: most is 32", lambda: client.predict_batch(images=[good] * 33)),
            (415, "the bytes are not one of JPEG, PNG, WEBP", lambda: client.predict(image=bad)),
        ]
        for status, message, ask in refusals:
            with pytest.raises(BentoMLException, match=message) as caught:
                ask()
            assert caught.value.error_code == status
        pickled = client.request("POST", "/predict", headers={"Content-Type": "application/vnd.bentoml+pickle"})
        assert pickled.json()["error"]["code"] == "unsupported_media_type"
        assert client.request("POST", "/predict", content=png(0), headers={"X-Request-Timeout-Ms": "1"}).is_error
    counted = httpx.get(f"{service.url}/metrics").text
    for route, outcome in (("predict", "client_error"), ("predict", "deadline"), ("predict_batch", "client_error")):
        assert f'rrr_request_duration_seconds_count{{model="tiny",outcome="{outcome}",route="/{route}"}}' in counted


def test_the_answers_are_what_the_models_of_the_document_say(client: httpx.Client, png: Callable[[int], bytes]) -> None:
    images = [("images", ("a.png", png(0))), ("images", ("b.png", b""))]
    answers: list[tuple[type[BaseModel], httpx.Response]] = [
        (Answer, client.post("/v1/predict?members=true", content=png(0))),
        (Answer, client.post("/predict", content=png(0))),
        (BatchAnswer, client.post("/predict_batch", files=images)),
        (Error, client.post("/v1/predict")),
        (Models, client.get("/v1/models")),
    ]
    for model, answer in answers:
        read = model.model_validate_json(answer.content, strict=True)
        assert read.model_dump(mode="json", exclude_unset=True) == answer.json()


def test_a_built_bento_serves_from_another_folder(
    repository: Path, tmp_path: Path, png: Callable[[int], bytes], client: httpx.Client
) -> None:
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**build_bento(repository, tree, tmp_path / "home"), "RRR_TOKEN": TOKEN, "TMPDIR": str(elsewhere)}
    (requirements,) = (tmp_path / "home" / "bentos" / "rrr").glob("*/env/python/requirements.txt")
    assert requirements.read_text().count("--hash=sha256:") > 50
    (built,) = (tmp_path / "home" / "bentos" / "rrr").glob("*/bento.yaml")
    assert yaml.safe_load(built.read_text())["service"] == "service.rrrserve.bento:RRRService"  # of its own sources
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
        url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as bento:
            _wait_until_ready(bento, log)
            for seed in range(3):
                ours = client.post("/v1/predict?members=true", content=png(seed)).json()
                theirs = bento.post("/v1/predict?members=true", content=png(seed)).json()
                for key in ("model", "predictions", "uncertainty", "members"):
                    assert theirs[key] == ours[key]
            count = 'rrr_request_duration_seconds_count{model="tiny",outcome="ok",route="/v1/predict"} 3.0'
            assert count in bento.get("/metrics").text
            assert bento.get("/metrics/triton").status_code == 200
        assert_bentoml_clients_agree_with_v1(url, write_images(elsewhere, png), TOKEN)
        paths = {"/": 200, "/docs": 200, "/docs/start.js": 200, "/docs.json": 401, "/schema.json": 401}
        assert {path: httpx.get(url + path).status_code for path in paths} == paths
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
