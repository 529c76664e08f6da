"""KServe v2 as its users meet it: Triton's own clients, over REST and gRPC, with the answers of /v1."""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as aio_client
import tritonclient.http as http_client
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

PAGE = Path(__file__).parents[2] / "docs" / "kserve.md"
LABELS = ("red", "green", "blue")
SIZE, MEMBERS, MAX_BODY = 32, 3, 10 * 2**20
Files = Callable[[int], bytes]
Pictures = Callable[[int], npt.NDArray[np.uint8]]


@pytest.fixture
def rest(service: Any) -> Iterator[Any]:
    """Triton's HTTP client."""
    opened = http_client.InferenceServerClient(service.url.removeprefix("http://"), network_timeout=30)
    yield opened
    opened.close()


@pytest.fixture
def rpc(service: Any) -> Iterator[Any]:
    """Triton's gRPC client."""
    with grpc_client.InferenceServerClient(service.grpc) as opened:
        yield opened


def tensor(kind: Any, name: str, values: npt.NDArray[Any], **how: Any) -> Any:
    made = kind.InferInput(name, list(values.shape), "UINT8" if values.dtype == np.uint8 else "BYTES")
    made.set_data_from_numpy(values, **how)
    return made


def encoded(*files: bytes) -> npt.NDArray[np.object_]:
    return np.array(files, dtype=np.object_)


def both(rest: Any, rpc: Any) -> list[tuple[Any, Any]]:
    return [(http_client, rest), (grpc_client, rpc)]


def test_both_clients_find_it_live_and_ready_and_read_its_description(rest: Any, rpc: Any) -> None:
    inputs = [{"name": "images", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}]
    inputs += [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}]
    outputs = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, MEMBERS, len(LABELS)]}]
    outputs += [{"name": "mean_probabilities", "datatype": "FP32", "shape": [-1, len(LABELS)]}]
    outputs += [{"name": "members_used", "datatype": "INT32", "shape": [-1]}]
    for client in (rest, rpc):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.is_model_ready("single", "1")
    assert rest.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    assert rpc.get_server_metadata(as_json=True) == rest.get_server_metadata()
    described = rest.get_model_metadata("tiny", "1")
    whole = {"name": "tiny", "versions": ["1"], "platform": "rrr_onnxruntime-fp32"}
    assert described == {**whole, "inputs": inputs, "outputs": outputs}
    told = rpc.get_model_metadata("tiny", as_json=True)
    assert {item["name"]: [int(size) for size in item["shape"]] for item in told["outputs"]} == {
        item["name"]: item["shape"] for item in outputs
    }


def test_200_images_have_the_labels_of_v1_however_they_are_sent(
    client: httpx.Client, rest: Any, rpc: Any, png: Files, picture: Pictures
) -> None:
    seeds = range(200)
    labels = [client.post("/v1/predict", content=png(seed)).json()["predictions"][0]["label"] for seed in seeds]
    assert len(set(labels)) > 1
    for kind, opened in both(rest, rpc):
        for start in range(0, 200, 25):
            part = seeds[start : start + 25]
            pixels = np.stack([picture(seed) for seed in part])
            for given in (pixels, encoded(*map(png, part))):
                name = "images" if given is pixels else "image_bytes"
                found = opened.infer("tiny", [tensor(kind, name, given)]).as_numpy("mean_probabilities")
                assert [LABELS[place] for place in found.argmax(1)] == labels[start : start + 25]


def test_the_outputs_are_those_of_the_members_and_their_mean_and_the_best_labels(
    client: httpx.Client, rest: Any, rpc: Any, picture: Pictures, png: Files
) -> None:
    told = client.post("/v1/predict?members=true", content=png(1)).json()
    pixels = np.stack([picture(1), picture(2)])
    for kind, opened in both(rest, rpc):
        found = opened.infer("tiny", [tensor(kind, "images", pixels)], request_id="mine")
        members, mean = found.as_numpy("probabilities"), found.as_numpy("mean_probabilities")
        assert (members.dtype, members.shape, mean.dtype) == (np.float32, (2, MEMBERS, len(LABELS)), np.float32)
        assert np.allclose(members.mean(1), mean, atol=1e-6)
        assert [LABELS[place] for place in members[0].argmax(1)] == [item["label"] for item in told["members"]]
        assert found.as_numpy("members_used").tolist() == [MEMBERS, MEMBERS]
        wanted = [kind.InferRequestedOutput("mean_probabilities", class_count=2)]
        best = opened.infer("tiny", [tensor(kind, "images", pixels)], outputs=wanted).as_numpy("mean_probabilities")
        assert best.shape == (2, 2)
        for text, expected in zip(best[0], told["predictions"], strict=False):
            probability, number, label = text.decode().split(":")
            assert (LABELS[int(number)], label) == (expected["label"], expected["label"])
            assert float(probability) == pytest.approx(expected["probability"], abs=1e-6)
    assert rest.infer("tiny", [tensor(http_client, "images", pixels)], request_id="mine").get_response()["id"] == "mine"


def test_json_without_any_bytes_says_the_same(client: httpx.Client, rest: Any, picture: Pictures, png: Files) -> None:
    pixels = picture(3)[None]
    binary = rest.infer("tiny", [tensor(http_client, "images", pixels)]).as_numpy("mean_probabilities")
    outputs = [http_client.InferRequestedOutput("mean_probabilities", binary_data=False)]
    flat = rest.infer("tiny", [tensor(http_client, "images", pixels, binary_data=False)], outputs=outputs)
    assert np.array_equal(flat.as_numpy("mean_probabilities"), binary)
    nested = {"name": "images", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.tolist()}
    in_base64 = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [base64_of(png(3))]}
    for given in (nested, in_base64):
        answer = client.post("/v2/models/tiny/versions/1/infer", json={"id": "7", "inputs": [given], "user": "me"})
        document = answer.json()
        assert (document["model_name"], document["model_version"], document["id"]) == ("tiny", "1", "7")
        assert document["parameters"] == {"effort": "full", "partial": False}
        assert np.allclose(document["outputs"][1]["data"], binary[0])
        assert answer.headers["x-rrr-ignored"] == "user"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_asynchronous_client_is_answered_side_by_side(service: Any, picture: Pictures) -> None:
    async def ask() -> list[Any]:
        async with aio_client.InferenceServerClient(service.grpc) as opened:
            assert await opened.is_server_ready()
            inputs = [[tensor(aio_client, "images", picture(seed)[None])] for seed in range(8)]
            return await asyncio.gather(*(opened.infer("single", each) for each in inputs))

    found = np.concatenate([answer.as_numpy("probabilities") for answer in asyncio.run(ask())])
    assert found.shape == (8, 1, len(LABELS))
    assert np.allclose(found.sum(-1), 1, atol=1e-3)


PIXELS = np.zeros((1, SIZE, SIZE, 3), np.uint8)
# What is wrong -> the inputs, the request's parameters and outputs, HTTP's status, and what the error must hold.
WRONG: dict[str, tuple[list[tuple[str, str, Any]], dict[str, Any], list[tuple[str, int]], int, str]] = {
    "size": (
        [("images", "UINT8", PIXELS[:, :31])],
        {},
        [],
        400,
        r"shape \[N, 32, 32, 3\], N from 1: it is \[1, 31, 32, 3\]",
    ),
    "rank": ([("images", "UINT8", PIXELS[0])], {}, [], 400, r"N from 1: it is \[32, 32, 3\]"),
    "no images": ([("images", "UINT8", PIXELS[:0])], {}, [], 400, r"N from 1: it is \[0, 32, 32, 3\]"),
    "type": ([("images", "FP32", PIXELS.astype(np.float32))], {}, [], 400, "images must be UINT8: it is 'FP32'"),
    "name": ([("pixels", "UINT8", PIXELS)], {}, [], 400, "no input 'pixels': tiny takes exactly one input, images or"),
    "missing": ([], {}, [], 400, "the request has 0 inputs: tiny takes exactly one"),
    "both": ([("images", "UINT8", PIXELS), ("image_bytes", "BYTES", encoded(b"a"))], {}, [], 400, "has 2 inputs"),
    "batch": ([("images", "UINT8", np.zeros((33, SIZE, SIZE, 3), np.uint8))], {}, [], 413, "33 images: most is 32"),
    "text": ([("image_bytes", "BYTES", encoded(b"no image"))], {}, [], 415, "image 0: the bytes are not one of JPEG"),
    "empty": ([("image_bytes", "BYTES", encoded(b""))], {}, [], 422, "image 0"),
    "output": (
        [("images", "UINT8", PIXELS)],
        {},
        [("logits", 0)],
        400,
        "no output 'logits': tiny gives probabilities,",
    ),
    "twice": ([("images", "UINT8", PIXELS)], {}, [("members_used", 0)] * 2, 400, "asked for twice"),
    "classes": ([("images", "UINT8", PIXELS)], {}, [("probabilities", 2)], 400, "classification is for mean_prob"),
    "effort": ([("images", "UINT8", PIXELS)], {"effort": "much"}, [], 400, "effort must be fast, auto or full"),
    "sets": (
        [("images", "UINT8", PIXELS)],
        {"coverage": 0.9},
        [],
        400,
        "tiny has no sets: it was built without images",
    ),
    "coverage": (
        [("images", "UINT8", PIXELS)],
        {"coverage": 2.0},
        [],
        400,
        "coverage must be a number between 0 and 1",
    ),
}


def ask_wrongly(kind: Any, opened: Any, wrong: str) -> InferenceServerException:
    inputs, parameters, outputs, *_ = WRONG[wrong]
    tensors = []
    for name, datatype, values in inputs:
        made = kind.InferInput(name, list(values.shape), datatype)
        made.set_data_from_numpy(values)
        tensors.append(made)
    wanted = [kind.InferRequestedOutput(name, class_count=classes) for name, classes in outputs] or None
    with pytest.raises(InferenceServerException) as raised:
        opened.infer("tiny", tensors, outputs=wanted, parameters=parameters)
    return raised.value


@pytest.mark.parametrize("wrong", WRONG)
def test_a_bad_request_gets_the_protocols_own_error_that_says_what_is_allowed(rest: Any, rpc: Any, wrong: str) -> None:
    *_, status, message = WRONG[wrong]
    told = ask_wrongly(http_client, rest, wrong)
    assert (told.status(), bool(re.search(message, told.message()))) == (str(status), True), told.message()
    told = ask_wrongly(grpc_client, rpc, wrong)
    assert told.status() == "StatusCode.INVALID_ARGUMENT"
    assert re.search(message, told.message()), told.message()


def test_an_unknown_model_or_version_is_not_found(rest: Any, rpc: Any) -> None:
    for kind, opened in both(rest, rpc):
        status = "404" if opened is rest else "StatusCode.NOT_FOUND"
        for name, version, words in (("nobody", "", "no such model"), ("tiny", "2", "in version 1, not '2'")):
            with pytest.raises(InferenceServerException, match=words) as raised:
                opened.infer(name, [tensor(kind, "images", PIXELS)], model_version=version)
            assert raised.value.status() == status
            with pytest.raises(InferenceServerException, match=words):
                opened.get_model_metadata(name, version)
    assert not rest.is_model_ready("nobody")


def test_ten_megabytes_too_much_are_refused_by_both(rest: Any, rpc: Any, client: httpx.Client) -> None:
    large = np.zeros((2, MAX_BODY), np.uint8)
    with pytest.raises(InferenceServerException, match="at most 10485760 are allowed") as raised:
        rest.infer("tiny", [tensor(http_client, "images", large)])
    assert raised.value.status() == "413"
    with pytest.raises(InferenceServerException, match="message larger than max") as raised:
        rpc.infer("tiny", [tensor(grpc_client, "images", large)])
    assert raised.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert rpc.infer("tiny", [tensor(grpc_client, "images", PIXELS)]).as_numpy("members_used").tolist() == [MEMBERS]


ONE = {"name": "images", "shape": [1, SIZE, SIZE, 3], "datatype": "UINT8"}
ZEROS = [0] * PIXELS.size
LENGTH = "Inference-Header-Content-Length"


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", {}, 400, "not valid JSON"),
        (b"[]", {}, 400, "no JSON object"),
        ({"inputs": {}}, {}, 400, "inputs must be a list of objects"),
        ({"inputs": [ONE]}, {}, 400, "either data or the parameter binary_data_size"),
        ({"inputs": [{**ONE, "data": ZEROS[1:]}]}, {}, 400, "has 3071 values: its shape asks for 3072"),
        ({"inputs": [{**ONE, "data": [256, *ZEROS[1:]]}]}, {}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [{**ONE, "data": [0.5, *ZEROS[1:]]}]}, {}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [{**ONE, "data": [[True]]}]}, {}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [{**ONE, "shape": [-1, SIZE, SIZE, 3], "data": []}]}, {}, 400, "list of whole numbers"),
        ({"inputs": [{**ONE, "shape": [10**400, SIZE, SIZE, 3], "data": []}]}, {}, 413, "most is 32"),
        ({"inputs": [{**ONE, "parameters": {"binary_data_size": 3072}}]}, {}, 400, "0 bytes follow the JSON"),
        ({"inputs": [{**ONE, "data": ZEROS}]}, {LENGTH: "99999999"}, 400, "must be the bytes of JSON"),
        ({"inputs": [{**ONE, "data": ZEROS}]}, {"Content-Encoding": "gzip"}, 415, "without one"),
        ({"inputs": [{**ONE, "data": ZEROS}], "id": 1}, {}, 400, "id must be a string"),
        ({"inputs": [{**ONE, "data": [[]] * 2**19}]}, {}, 400, "send them as binary data"),
    ],
)
def test_a_body_that_is_none_is_refused(
    client: httpx.Client, body: Any, headers: dict[str, str], status: int, message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/v2/models/tiny/infer", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert message in answer.json()["error"]


def test_bytes_that_do_not_fit_are_refused_by_both(client: httpx.Client, service: Any) -> None:
    names = {"name": "image_bytes", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}
    head = json.dumps({"inputs": [names]}).encode()
    for behind, message in (
        (b"\5\0\0\0ab", "2 elements, each behind"),
        (b"\1\0\0\0ab" + b"more", "4 bytes follow"),
    ):
        answer = client.post("/v2/models/tiny/infer", content=head + behind, headers={LENGTH: str(len(head))})
        assert (answer.status_code, message in answer.json()["error"]) == (400, True), answer.text
    with grpc.insecure_channel(service.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        two = pb.ModelInferRequest(model_name="tiny", raw_input_contents=[b"", b""])
        empty = b"\x2a\x00" * (MAX_BODY // 2)  # inputs, each of which would take 50 times its bytes
        lengthy = pb.ModelInferRequest(model_name="x" * 2**20 + "x").SerializeToString()
        for raw in (empty, lengthy):
            with pytest.raises(grpc.RpcError, match="more than 4096 fields, or more than 1048576 bytes beside"):
                infer(raw, timeout=10)
        for raw, words in (
            (b"\xff" * 9, "no ModelInferRequest"),
            (two.SerializeToString(), "2 items for 0 inputs"),
        ):
            with pytest.raises(grpc.RpcError, match=words) as raised:
                infer(raw, timeout=10)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_grpcs_own_deadline_is_the_requests_and_what_is_not_there_is_unimplemented(
    rpc: Any, client: httpx.Client
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        rpc.infer("tiny", [tensor(grpc_client, "images", PIXELS)], client_timeout=0.0005)
    assert raised.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    late = {"X-Request-Timeout-Ms": "1"}
    answer = client.post("/v2/models/tiny/infer", json={"inputs": [{**ONE, "data": ZEROS}]}, headers=late)
    assert answer.status_code in (408, 504)
    assert re.fullmatch("the deadline .*passed.*", answer.json()["error"])
    with pytest.raises(InferenceServerException) as raised:
        rpc.get_model_config("tiny")
    assert raised.value.status() == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/tiny/infer", 405),
        ("DELETE", "/v2", 405),
        ("GET", "/v2/models/tiny/config", 404),
        ("GET", "/v2/repository/index", 404),
        ("GET", "/v2/models/nobody/ready", 404),
    ],
)
def test_other_paths_and_methods_get_the_protocols_error_too(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_every_request_is_counted_by_its_door(client: httpx.Client, rest: Any, rpc: Any, png: Files) -> None:
    def counted() -> dict[str, float]:
        lines = [line for line in client.get("/metrics").text.splitlines() if "#" not in line]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    before = counted()
    for kind, opened in both(rest, rpc):
        opened.infer("tiny", [tensor(kind, "image_bytes", encoded(png(0), png(1)))])
        with pytest.raises(InferenceServerException):
            opened.infer("tiny", [tensor(kind, "pixels", PIXELS)])
        with pytest.raises(InferenceServerException):
            opened.infer("nobody", [tensor(kind, "images", PIXELS)])
    after = counted()
    rises = {name: after[name] - before.get(name, 0) for name in after}
    for route in ("/v2/models/{name}/infer", "grpc ModelInfer"):
        for model, outcome in (("tiny", "ok"), ("tiny", "client_error"), ("", "client_error")):
            name = f'rrr_request_duration_seconds_count{{model="{model}",outcome="{outcome}",route="{route}"}}'
            assert (name in before, rises[name]) == (outcome == "ok" or not model or name in before, 1), name
    assert rises['rrr_requests_rejected_total{reason="bad_request"}'] == 2
    assert rises['rrr_requests_rejected_total{reason="unknown_model"}'] == 2
    assert rises['rrr_members_used_count{model="tiny"}'] == 4
    for stage in ("read", "decode", "inference", "encode"):
        assert rises[f'rrr_stage_duration_seconds_count{{model="tiny",stage="{stage}"}}'] >= 2


@pytest.mark.parametrize("number", [0, 1])
def test_what_the_page_says_to_type_in_python_works(
    service: Any, png: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
    code = code.replace("127.0.0.1:3000", service.url.removeprefix("http://")).replace("127.0.0.1:8001", service.grpc)
    (tmp_path / "cat.jpg").write_bytes(png(0))
    monkeypatch.chdir(tmp_path)
    printed: list[Any] = []
    exec(code.replace('"mine"', '"tiny"'), {"print": printed.append})  # noqa: S102  our own page
    assert [array.shape for array in printed] == [(1, 2) if number == 0 else (1, MEMBERS, len(LABELS))]
