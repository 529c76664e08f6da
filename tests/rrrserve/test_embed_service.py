"""Embeddings over HTTP, KServe v2 and the client; of the fixture's two models `single` alone was built with --embed."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import ImageError
from rrrnet.inference import embedder
from rrrserve import AsyncClient, Client, ServiceError

DIM = 4 * 8
EMBED = "/v1/models/single/embed"
Files = Callable[[int], bytes]
Vectors = npt.NDArray[np.float32]


@pytest.fixture
def expected(checkpoints: tuple[Checkpoint, Checkpoint], picture: Callable[[int], Any]) -> Vectors:
    """PyTorch's embeddings of the first 6 pictures, (6, D)."""
    return embedder(checkpoints[1])(np.stack([picture(seed) for seed in range(6)]))


def test_an_image_has_pytorchs_embedding_however_it_is_sent(
    client: httpx.Client, png: Files, expected: Vectors
) -> None:
    image = png(1)
    answers = [
        client.put(EMBED, content=image),
        client.post(EMBED, files={"image": ("x", image, "image/png")}, data={"top_k": "2"}),
        client.post(EMBED, json={"image": base64.b64encode(image).decode(), "timing": False}),
    ]
    for answer in answers:
        document = answer.json()
        assert (document["dim"], document["model"]["name"]) == (DIM, "single")
        np.testing.assert_allclose(document["embedding"], expected[1], atol=1e-3)
        assert np.linalg.norm(document["embedding"]) == pytest.approx(1, abs=1e-6)
    assert [answer.headers.get("x-rrr-ignored") for answer in answers] == [None, "top_k", None]
    assert ["timing_ms" in answer.json() for answer in answers] == [True, True, False]


def test_a_batch_larger_than_the_models_has_an_embedding_or_an_error_for_each_image(
    client: httpx.Client, png: Files, expected: Vectors
) -> None:
    images = [png(seed) for seed in range(6)]
    images[2] = b"no image"
    document = client.post(f"{EMBED}_batch", files=[("images", ("x", image, "image/png")) for image in images]).json()

    assert [sorted(item) for item in document["results"]] == [["dim", "embedding"]] * 2 + [["error"]] + [
        ["dim", "embedding"]
    ] * 3
    for place in (0, 1, 3, 4, 5):
        np.testing.assert_allclose(document["results"][place]["embedding"], expected[place], atol=1e-3)


def test_a_model_without_embeddings_answers_404_with_the_command_that_gives_them(
    client: httpx.Client, png: Files
) -> None:
    answer = client.post("/v1/embed", content=png(0))
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "no_embedding"
    assert error["message"] == (
        "tiny gives no embeddings: build it with rrr build CHECKPOINT --target onnxruntime-fp32 --embed, "
        "then rrr repository and rrr reload"
    )


def test_near_misses_and_methods_are_refused_as_on_the_routes_of_predictions(client: httpx.Client, png: Files) -> None:
    refused = [
        client.post(EMBED, content=b"https://example.org/cat.jpg"),
        client.post(EMBED, files=[("image", ("x", png(0), "image/png"))] * 2),
        client.get(EMBED),
        client.post(EMBED, content=png(0), headers={"X-Request-Timeout-Ms": "soon"}),
    ]
    assert [answer.json()["error"]["code"] for answer in refused] == [
        "unsupported_image",
        "too_many_images",
        "method_not_allowed",
        "bad_request",
    ]
    assert "curl -T cat.jpg URL" in refused[0].text


def test_the_route_is_counted_and_described_for_the_models_that_have_it(client: httpx.Client, png: Files) -> None:
    name = 'rrr_request_duration_seconds_count{model="single",outcome="ok",route="/v1/models/{name}/embed"}'

    def count() -> float:
        return next(float(line.split()[-1]) for line in client.get("/metrics").text.splitlines() if name in line)

    before = count()
    client.post(EMBED, content=png(0))
    assert count() == before + 1
    paths = client.get("/docs.json").json()["paths"]
    assert [path for path in paths if "embed" in path] == [
        "/v1/models/{name}/embed",
        "/v1/models/{name}/embed_batch",
    ]  # the default model has none
    operation = paths["/v1/models/{name}/embed"]["post"]
    assert operation["parameters"][0]["schema"]["enum"] == ["single"]


def test_kserve_gives_an_embedding_to_who_names_the_output(client: httpx.Client, png: Files, expected: Vectors) -> None:
    image = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(png(4)).decode()]}
    described = client.get("/v2/models/single").json()["outputs"]
    assert {"name": "embedding", "datatype": "FP32", "shape": [-1, DIM]} in described

    def ask(**more: Any) -> dict[str, Any]:
        document = client.post("/v2/models/single/infer", json={"inputs": [image], **more}).json()
        return {output["name"]: output["data"] for output in document["outputs"]}

    assert "embedding" not in ask()
    named = ask(outputs=[{"name": "embedding"}, {"name": "mean_probabilities"}])
    np.testing.assert_allclose(named["embedding"], expected[4], atol=1e-3)
    assert len(named["mean_probabilities"]) == 3


def test_the_clients_give_vectors(service: Any, png: Files, expected: Vectors) -> None:
    async def alone() -> tuple[float, ...]:
        async with AsyncClient(service.url) as asking:
            return (await asking.embed(png(0), model="single")).vector

    with Client(service.url) as client:
        one = client.embed(png(0), model="single")
        several = list(client.embed_many([png(0), b"none", png(5)], model="single"))
        with pytest.raises(ServiceError, match="tiny gives no embeddings"):
            client.embed(png(0))
    assert one.model == "single"
    np.testing.assert_allclose(one.vector, expected[0], atol=1e-3)
    assert asyncio.run(alone()) == one.vector
    assert isinstance(several[1], ImageError)
    np.testing.assert_allclose(several[2].vector, expected[5], atol=1e-3)  # type: ignore[union-attr]  # no error: an Embedding
