"""The routes, through the real port, the real BentoML application and the real tritonserver."""

import base64
import re
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from harness.raw_http import FORM, connect, file_part, form, receive, request
from rrrnet.checkpoint import Checkpoint
from rrrnet.inference import predictor

LABELS = ("red", "green", "blue")
Pictures = Callable[[int], npt.NDArray[np.uint8]]
Files = Callable[[int], bytes]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, after checking its shape."""
    document = answer.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message", "request_id"}
    assert document["error"]["request_id"] == answer.headers["x-request-id"]
    allowed = r"application/\S+|multipart/\S+|image/\S+|text/\S+|/docs.json|/v1/(models|predict_batch)"
    assert "/" not in re.sub(allowed, "", answer.text)
    return answer.status_code, document["error"]["code"]


def samples(client: httpx.Client) -> dict[str, float]:
    """All samples of /metrics by name and labels."""
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_the_answer_has_the_labels_and_probabilities_of_the_checkpoint(
    client: httpx.Client, checkpoints: tuple[Checkpoint, Checkpoint], picture: Pictures, png: Files
) -> None:
    expected = predictor(checkpoints[0])(np.stack([picture(seed) for seed in range(4)]))
    for seed in range(4):
        answer = client.post("/v1/predict?members=true&top_k=3", content=png(seed)).json()
        mean = expected[seed].mean(axis=0)
        order = np.argsort(-mean, kind="stable")
        assert [item["label"] for item in answer["predictions"]] == [LABELS[index] for index in order]
        given = [item["probability"] for item in answer["predictions"]]
        np.testing.assert_allclose(given, mean[order], atol=1e-3)
        assert [item["label"] for item in answer["members"]] == [LABELS[row.argmax()] for row in expected[seed]]
        assert answer["uncertainty"]["agreement"] == pytest.approx(
            (expected[seed].argmax(axis=1) == mean.argmax()).mean(), abs=1e-6
        )


def test_the_answer_tells_its_model_its_id_and_its_timing(client: httpx.Client, png: Files) -> None:
    answer = client.post("/v1/predict", content=png(0), headers={"X-Request-ID": "run-7"})
    document = answer.json()
    assert answer.headers["x-request-id"] == document["request_id"] == "run-7"
    repository = document["model"].pop("repository")
    assert repository == client.get("/v1/models").json()["repository"]
    assert re.fullmatch("[0-9a-f]{12}", repository)
    assert document["model"] == {"name": "tiny", "version": "1", "target": "onnxruntime-fp32", "members": 3}
    timing = document["timing_ms"]
    assert set(timing) == {"read", "decode", "preprocess", "inference", "total"}
    assert all(value >= 0 for value in timing.values())
    assert timing["total"] >= timing["inference"] > 0
    assert "server" not in answer.headers


def test_raw_put_multipart_and_json_give_the_same_answer(client: httpx.Client, png: Files) -> None:
    image = png(1)
    answers = [
        client.post("/v1/predict", content=image, headers={"Content-Type": "image/jpg"}),
        client.put("/v1/predict", content=image),
        client.post("/v1/predict", files={"image": ("../../x.php", image, "image/webp")}),
        client.post("/v1/predict", json={"image": base64.b64encode(image).decode()}),
        client.post("/v1/models/tiny/predict", content=image),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    results = [(item["predictions"], item["uncertainty"]) for item in (answer.json() for answer in answers)]
    assert all(result == results[0] for result in results)


def test_curl_uploads_an_image_without_further_options(service: Any, tmp_path: Any, png: Files) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(png(2))
    ran = subprocess.run(["curl", "-sS", "-T", file, f"{service.url}/v1/predict"], capture_output=True, check=True)
    assert b'"predictions":[{"label":' in ran.stdout


def test_another_model_is_asked_by_its_name(
    client: httpx.Client, checkpoints: tuple[Checkpoint, Checkpoint], picture: Pictures, png: Files
) -> None:
    answer = client.post("/v1/models/single/predict?top_k=1", content=png(3)).json()
    expected = predictor(checkpoints[1])(picture(3)[None])[0, 0]
    assert answer["model"]["members"] == 1
    assert answer["predictions"][0]["label"] == LABELS[expected.argmax()]
    assert answer["uncertainty"] | {"entropy": 0} == {"entropy": 0, "mutual_information": 0.0, "agreement": 1.0}


def test_a_batch_larger_than_the_models_gives_each_image_the_answer_of_a_single_call(
    client: httpx.Client, png: Files
) -> None:
    files = [("images", (f"{seed}.png", png(seed))) for seed in range(9)]  # the models' largest batch is 4
    results = client.post("/v1/predict_batch", files=files).json()["results"]
    for seed, result in enumerate(results):
        single = client.post("/v1/predict", content=png(seed)).json()
        assert [item["label"] for item in result["predictions"]] == [item["label"] for item in single["predictions"]]
        for ours, theirs in zip(result["predictions"], single["predictions"], strict=True):
            assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)
    assert len(results) == 9


def test_one_corrupt_image_in_a_batch_gives_an_error_item_and_leaves_the_others(
    client: httpx.Client, png: Files
) -> None:
    bad = png(1)[:-40]
    files = [("images", ("a", data)) for data in (png(0), bad, b"", png(2))]
    answer = client.post("/v1/models/single/predict_batch", files=files)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [item.get("error", {}).get("code") for item in results] == [None, "truncated_image", "empty_image", None]
    alone = client.post("/v1/models/single/predict", content=png(2)).json()
    assert results[3]["predictions"][0]["label"] == alone["predictions"][0]["label"]


def test_a_batch_of_only_corrupt_images_is_answered_with_error_items(client: httpx.Client) -> None:
    answer = client.post("/v1/predict_batch", json={"images": ["QQ==", ""]})
    assert answer.status_code == 200
    assert [item["error"]["code"] for item in answer.json()["results"]] == ["unsupported_image", "empty_image"]


def test_a_batch_of_33_is_too_large(client: httpx.Client, png: Files) -> None:
    files = [("images", ("a", png(0)))] * 33
    assert error_of(client.post("/v1/predict_batch", files=files)) == (413, "batch_too_large")
    assert client.post("/v1/predict_batch", files=files[:32]).status_code == 200


REFUSED: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "missing_image", "/v1/predict_batch", {"content": b"x"}),
    (415, "unsupported_image", "/v1/predict", {"content": b"GIF89a not here"}),
    (422, "empty_image", "/v1/predict", {"files": {"image": ("a", b"")}}),
    (400, "not_a_file", "/v1/predict", {"files": {"image": (None, "http://127.0.0.1:1/")}}),
    (400, "too_many_images", "/v1/predict", {"files": [("image", ("a", b"x")), ("image", ("b", b"y"))]}),
    (400, "bad_multipart", "/v1/predict", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
    (400, "bad_json", "/v1/predict", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    (400, "bad_request", "/v1/predict", {"json": {"image": 7}}),
    (400, "bad_request", "/v1/predict?top_k=0", {"content": b"x"}),
    (400, "bad_request", "/v1/predict", {"headers": {"X-Request-Timeout-Ms": "soon"}}),
    (400, "bad_request", "/v1/predict", {"headers": {"X-Request-Timeout-Ms": "0"}}),
    (415, "unsupported_media_type", "/v1/predict", {"content": b"x", "headers": {"Content-Type": "text/xml"}}),
    (415, "encoding_not_supported", "/v1/predict", {"content": b"x", "headers": {"Content-Encoding": "gzip"}}),
    (404, "unknown_model", "/v1/models/nobody/predict", {"content": b"x"}),
    (413, "body_too_large", "/v1/predict", {"content": b"\0" * (10 * 2**20 + 1)}),
    (404, "not_found", "/v1/predict/", {"content": b"x"}),
]


@pytest.mark.parametrize(("status", "code", "path", "request_"), REFUSED)
def test_an_unusable_request_is_refused_in_the_one_shape_and_the_next_is_answered(
    client: httpx.Client, png: Files, status: int, code: str, path: str, request_: dict[str, Any]
) -> None:
    """One of each code; tests/reliability/test_bad_inputs.py has many more."""
    assert error_of(client.post(path, **request_)) == (status, code)
    assert client.post("/v1/predict", content=png(0)).status_code == 200


def test_too_many_pixels_are_refused_from_the_header(client: httpx.Client, png: Files) -> None:
    header = bytearray(png(0))
    header[16:24] = (20_000).to_bytes(4) * 2  # width and height in PNG's IHDR
    assert error_of(client.post("/v1/predict", content=bytes(header)))[0] in (413, 422)


def test_a_deadline_that_cannot_be_met_gives_504_and_the_next_request_is_answered(
    client: httpx.Client, png: Files
) -> None:
    answer = client.post("/v1/predict", content=png(0), headers={"X-Request-Timeout-Ms": "1"})
    assert answer.status_code in (408, 504), "faster than a millisecond"
    assert error_of(answer)[1] in ("request_timeout", "deadline_exceeded")
    assert client.post("/v1/predict", content=png(0)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/predict", "POST, PUT"),
        ("DELETE", "/v1/models/tiny/predict_batch", "POST, PUT"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("TRACE", "/readyz", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client: httpx.Client, method: str, path: str, allow: str) -> None:
    answer = client.request(method, path)
    assert error_of(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


def test_every_route_answers_a_client_that_offers_another_protocol(service: Any, png: Files) -> None:
    pages = (
        "/livez",
        "/readyz",
        "/metrics",
        "/metrics/triton",
        "/v1/models",
        "/docs.json",
        "/schema.json",
        "/docs",
        "/",
    )
    single = ("/v1/predict", "/v1/models/single/predict", "/predict")
    together = form(file_part(png(0), name="images"))
    requests: list[tuple[str, str, bytes, str | None]] = [(path, "GET", b"", None) for path in pages]
    requests += [(path, method, png(0), "image/png") for path in single for method in ("POST", "PUT")]
    requests += [(f"{path}_batch", "POST", together, FORM) for path in single]
    for offer in ("h2c", "websocket"):
        # As JDK 17's default client sends it with each request.
        headers = [("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAEAAEAAAAI"), ("Upgrade", offer)]
        with connect(service.url) as opened:
            for path, method, body, kind in requests:
                opened.sendall(request(body, method=method, path=path, content_type=kind, headers=headers))
                answer = receive(opened, method=method)
                assert (answer.status, "upgrade" in answer.headers) == (200, False), (path, answer.body[:200])


def test_what_nothing_knows_is_ignored_and_named_and_an_odd_request_id_replaced(
    client: httpx.Client, png: Files
) -> None:
    fields = [("user", (None, b"me")), ("image", ("a.png", png(0))), ("topk", (None, b"1"))]
    headers = {"X-Request-ID": "{3f2504e0}"}
    answer = client.post("/v1/predict?_=123&top_k=99&timing=false", files=fields, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-rrr-ignored"] == "_, user, topk"
    document = answer.json()
    told = {"predictions", "uncertainty", "effort", "members_used", "partial", "unsure"}
    assert set(document) == {"request_id", "model"} | told
    assert len(document["predictions"]) == len(LABELS)
    assert document["request_id"] == answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", document["request_id"])
    assert "x-rrr-ignored" not in client.post("/v1/predict?members=true", content=png(0)).headers


def test_a_page_asked_by_a_wrong_method_counts_as_unmatched_and_has_no_histogram_for_it(client: httpx.Client) -> None:
    before = samples(client)
    assert error_of(client.delete("/livez")) == (405, "method_not_allowed")
    after = samples(client)
    unmatched = 'rrr_request_duration_seconds_count{model="",outcome="client_error",route="unmatched"}'
    assert after[unmatched] - before[unmatched] == 1
    assert not [name for name in after if 'outcome="client_error",route="/livez"' in name]
    assert set(after) - set(before) <= {name for name in after if 'outcome="ok",route="/metrics"' in name}


@pytest.mark.parametrize("path", ["/nothing", "/docs//", "/%2e%2e/", "/docs/nothing", "/healthz", "/" + "x" * 8000])
def test_an_unknown_path_is_404_in_the_one_shape(client: httpx.Client, path: str) -> None:
    assert error_of(client.get(path)) == (404, "not_found")


def test_health_answers_get_and_head(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz"):
        assert client.get(path).status_code == client.head(path).status_code == 200


def test_the_models_are_listed_with_their_labels(client: httpx.Client) -> None:
    document = client.get("/v1/models").json()
    assert document["default"] == "tiny"
    assert [model["name"] for model in document["models"]] == ["tiny", "single"]
    first = document["models"][0]
    assert (first["members"], first["labels"], first["image_size"]) == (3, list(LABELS), 32)
    assert first["parameters"] > 0


def test_the_histograms_count_every_stage_and_every_call_of_triton_once(client: httpx.Client, png: Files) -> None:
    """Requests, refusals and images are counted in test_metrics.py."""
    before = samples(client)
    for seed in range(3):
        client.post("/v1/predict", content=png(seed))
    client.post("/v1/models/single/predict_batch", files=[("images", ("a", png(seed))) for seed in range(5)])
    client.post("/v1/predict", content=b"no image")
    after = samples(client)

    def rise(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    for stage in ("read", "decode", "preprocess", "inference", "encode"):
        count = rise(f'rrr_stage_duration_seconds_count{{model="tiny",stage="{stage}"}}')
        assert count == (4 if stage == "read" else 3)
    # five images go to Triton as batches of 4 and 1
    assert rise('rrr_inference_duration_seconds_count{model="single",target="onnxruntime-fp32"}') == 2
    assert after["rrr_in_flight_requests"] == 0


def test_the_build_info_names_the_versions(client: httpx.Client) -> None:
    (info,) = [name for name, value in samples(client).items() if name.startswith("rrr_build_info") and value == 1]
    assert re.search(r'bentoml="1\.4\.\d+",triton="2\.\d+\.\d+",version="\d+\.\d+\.\d+"', info)


def test_tritons_own_metrics_are_handed_through(client: httpx.Client, png: Files) -> None:
    client.post("/v1/predict", content=png(0))
    text = client.get("/metrics/triton").text
    (line,) = [line for line in text.splitlines() if line.startswith('nv_inference_request_success{model="tiny"')]
    assert float(line.rsplit(" ", 1)[1]) >= 1
