"""ServiceConfig, metrics, the check of Triton's output, the listener, finding Triton: the parts without a server."""

import asyncio
import ctypes.util
import importlib.util
import io
import itertools
import os
import re
import shutil
import sysconfig
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from openapi_spec_validator import validate
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tritonclient.grpc import service_pb2

from rrrbuild.repository_document import Repository, ServedModel
from rrrnet.errors import IncompatibleError, UsageError
from rrrnet.images.preprocess import MAX_PIXELS, Preprocess, image_to_array, open_image
from rrrnet.installing import install_line
from rrrserve.api import decoding
from rrrserve.api.decoding import Decoded, DecodePool
from rrrserve.api.docs.openapi import document
from rrrserve.api.errors import ERRORS, APIError
from rrrserve.config import service_config
from rrrserve.config.service_config import ServiceConfig
from rrrserve.metrics.instruments import BUCKETS, OUTCOMES, outcome_of
from rrrserve.net.listener import listen, url_of
from rrrserve.stamps.model_list import ModelList
from rrrserve.stamps.stamp import STAMP
from rrrserve.triton import install
from rrrserve.triton.calls import TritonError
from rrrserve.triton.client import checked_output

MODEL = ServedModel(
    "m", "1", "onnxruntime-fp32", "python", 2, 4, ("a", "b", "c"), Preprocess(32), 32, 1, 1, ("probabilities",)
)
GOOD = np.full((1, 2, 3), 1 / 3, np.float32)


def response(
    values: npt.NDArray[np.float32], *, raw: bytes | None = None, datatype: str = "FP32"
) -> service_pb2.ModelInferResponse:
    """Triton's answer with these values as the output tensor."""
    answer = service_pb2.ModelInferResponse()
    answer.outputs.add(name="probabilities", datatype=datatype, shape=values.shape)
    answer.raw_output_contents.append(values.tobytes() if raw is None else raw)
    return answer


@pytest.mark.parametrize(("usable", "workers", "decode_threads"), [(1, 1, 2), (2, 2, 2), (8, 2, 8), (64, 2, 64)])
def test_workers_and_decoding_threads_go_by_the_cores_that_are_usable(
    usable: int, workers: int, decode_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_config, "cores", lambda: usable)
    found = ServiceConfig.from_environment({})
    assert (found.workers, found.decode_threads) == (workers, decode_threads)
    assert ServiceConfig.from_environment({"RRR_DECODE_THREADS": "3"}, workers=4).workers == 4


def test_a_good_output_is_returned_as_it_is() -> None:
    probabilities, status = checked_output(response(GOOD), MODEL, 1)
    np.testing.assert_array_equal(probabilities, GOOD)
    assert status is None


@pytest.mark.parametrize(
    "bad",
    [
        response(GOOD[:, :1]),
        response(GOOD.reshape(1, 3, 2)),
        response(np.concatenate([GOOD, GOOD])),
        response(GOOD, raw=b""),
        response(GOOD, datatype="FP16"),
        response(np.full_like(GOOD, np.nan)),
        response(np.full_like(GOOD, np.inf)),
        response(np.zeros_like(GOOD)),
        response(GOOD * 30),
        response(np.array([[[2, -1, 0], [1, 0, 0]]], np.float32)),
        service_pb2.ModelInferResponse(),
    ],
)
def test_an_output_that_is_not_a_distribution_of_the_models_shape_is_refused(
    bad: service_pb2.ModelInferResponse,
) -> None:
    with pytest.raises(TritonError) as caught:
        checked_output(bad, MODEL, 1)
    assert caught.value.code == "bad_model_output"


def test_the_service_decodes_a_large_jpeg_to_the_very_pixels_that_training_sees() -> None:
    buffer = io.BytesIO()
    tiles = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(tiles.repeat(8, axis=0).repeat(8, axis=1)).save(buffer, "JPEG")
    preprocess, pool = Preprocess(32), DecodePool(1, max_pixels=MAX_PIXELS, memory_bytes=2**26)

    async def decoded(*images: bytes) -> list[Decoded | APIError]:
        return await pool.decode(images, preprocess)

    expected = image_to_array(buffer.getvalue(), preprocess)
    assert not np.array_equal(expected, image_to_array(buffer.getvalue(), Preprocess(32, jpeg_oversize=0)))
    for count in (1, 2):
        for found in asyncio.run(decoded(*[buffer.getvalue()] * count)):
            assert isinstance(found, Decoded)
            assert np.array_equal(found.array, expected)
    pool.close()


def test_the_service_crops_as_training_does_and_not_on_the_event_loop_where_that_takes_long() -> None:
    rule, pool = Preprocess(224, mode="crop", resize_size=256), DecodePool(1, max_pixels=MAX_PIXELS, memory_bytes=2**26)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)).save(buffer, "PNG")
    (found,) = asyncio.run(pool.decode([buffer.getvalue()], rule))
    pool.close()
    assert isinstance(found, Decoded)
    assert np.array_equal(found.array, image_to_array(buffer.getvalue(), rule))
    assert rule.working_pixels(60, 90) == 256 * 384
    assert rule.working_pixels(512, 4000) == 512 * 4000
    assert rule.working_pixels(1, 20_000) == 20_000


def test_a_small_png_whose_header_has_to_be_unpacked_is_not_decoded_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opened_in(data: bytes) -> str:
        names: list[str] = []

        def opening(data: bytes, *, max_pixels: int) -> Image.Image:
            names.append(threading.current_thread().name)
            return open_image(data, max_pixels=max_pixels)

        monkeypatch.setattr(decoding, "open_image", opening)
        pool = DecodePool(1, max_pixels=MAX_PIXELS, memory_bytes=2**26)
        (found,) = asyncio.run(pool.decode([data], Preprocess(32)))
        pool.close()
        assert isinstance(found, Decoded)
        (name,) = names
        return name

    for comment in ("", "short", "long" * 1000):
        buffer, text = io.BytesIO(), PngInfo()
        if comment:
            text.add_text("Comment", comment, zip=True)
        Image.new("RGB", (32, 32)).save(buffer, "PNG", pnginfo=text)
        assert opened_in(buffer.getvalue()).startswith("decode") == bool(comment)


def test_stamps_are_read_again_when_one_has_changed_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    listed, stamp = ModelList(Repository(tmp_path, (MODEL,), {}, "0" * 64), "m"), tmp_path / "m" / STAMP
    first = listed.document()
    assert (first["default"], first["repository"], first["models"][0]["claims"]) == ("m", "0" * 12, [])
    assert listed.document() is first
    stamp.write_text("{}")
    second = listed.document()
    assert [claim["verdict"] for claim in second["models"][0]["claims"]] == ["unreadable"]
    assert listed.document() is second
    stamp.unlink()
    assert listed.document() == first


def test_latency_buckets_are_fine_from_a_quarter_millisecond_to_half_a_minute() -> None:
    assert (BUCKETS[0], BUCKETS[-1]) == (0.00025, 30.0)
    factors = [after / before for before, after in itertools.pairwise(BUCKETS)]
    assert min(factors) > 1.0
    assert max(factors) <= 1.25


def test_every_error_status_has_an_outcome_from_the_closed_set() -> None:
    assert {outcome_of(kind.status) for kind in ERRORS.values()} | {outcome_of(200)} == set(OUTCOMES)


def test_a_503_tells_when_to_try_again_and_unknown_codes_cannot_be_sent() -> None:
    assert APIError("not_ready", "x").headers == {"Retry-After": "1"}
    with pytest.raises(KeyError):
        APIError("no_such_code", "x")


def test_the_openapi_document_names_every_error_code_and_both_methods() -> None:
    described = document(ServiceConfig(), ["tiny"], needs_token=False, has_triton_metrics=True)
    validate(described)
    operation = described["paths"]["/v1/models/{name}/predict_batch"]
    assert set(operation) == {"post", "put"}
    assert {"/v1/predict", "/readyz", "/metrics"} <= set(described["paths"])
    told = " ".join(entry["description"] for entry in operation["post"]["responses"].values())
    assert all(f"{code}: " in told for code in ERRORS)
    assert "name" in [parameter["name"] for parameter in operation["post"]["parameters"]]


@pytest.mark.parametrize("known", [True, False])
def test_the_openapi_document_has_tritons_metrics_only_where_their_address_is_known(known: bool) -> None:
    described = document(ServiceConfig(), ["tiny"], needs_token=False, has_triton_metrics=known)
    assert ("/metrics/triton" in described["paths"]) is known
    assert "/metrics" in described["paths"]


def test_settings_come_from_the_environment() -> None:
    settings = ServiceConfig.from_environment(
        {"RRR_REPOSITORY": "/r", "RRR_MAX_BATCH_IMAGES": "7", "RRR_TRITON_URL": ""}
    )
    assert (settings.repository, settings.max_batch_images, settings.triton_url) == (Path("/r"), 7, None)
    assert settings.max_body_bytes == 10 * 2**20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RRR_MAX_BODY_BYTES", "10MB"),
        ("RRR_MAX_BATCH_IMAGES", "0"),
        ("RRR_REQUEST_TIMEOUT_MS", "3600001"),
        ("RRR_REQUEST_TIMEOUT_MS", "60001"),
        ("RRR_TRITON_URL", "http://127.0.0.1:8001"),
        ("RRR_TRITON_URL", "127.0.0.1"),
        ("RRR_LOG_FORMAT", "xml"),
        ("RRR_TRITON_URL", "127.0.0.1:70000"),
    ],
)
def test_a_bad_setting_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name):
        ServiceConfig.from_environment({name: value})


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 80), ("127.0.0.1", 70000), ("no.such", 0), ("192.0.2.1", 0)])
def test_an_address_that_cannot_be_served_is_a_usage_error(host: str, port: int) -> None:
    with pytest.raises(UsageError, match=r"--host|--port"):
        listen(host, port)


def test_all_interfaces_are_reached_through_loopback() -> None:
    with listen("0.0.0.0", 0) as listener:  # noqa: S104  what is tested
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_the_wheels_python_backend_gets_its_stub_beside_it(tmp_path: Path) -> None:
    found = install.find_tritonserver()
    backends = install.lay_out(found, tmp_path)
    names = {path.name for path in (backends / "python").iterdir()}
    assert {"libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"} <= names
    assert not any(path.is_file() and not path.is_symlink() for path in (backends / "python").iterdir()), "for noexec"
    assert "python" in found.backends


def test_triton_gets_only_allowed_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    environment = install.child_environment(install.find_tritonserver(), tmp_path, threads=2)
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["HOME"] == str(tmp_path)


def test_a_tritonserver_on_the_path_comes_before_the_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("bin", "backends/openvino", "backends/python"):
        (tmp_path / folder).mkdir(parents=True)
    binary = tmp_path / "bin" / "tritonserver"
    shutil.copy("/bin/true", binary)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(install, "NATIVE_BACKENDS", tmp_path / "none")
    found = install.find_tritonserver()
    assert (found.binary, found.source) == (binary, "path")
    assert found.backends == {"openvino", "python"}
    assert install.lay_out(found, tmp_path / "x") == tmp_path / "backends"


def test_without_libpython_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(IncompatibleError, match=r"apt install libpython3\.11"):
        install.check_libpython(install.find_tritonserver())


def test_without_any_triton_the_message_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IncompatibleError, match=re.escape(install_line("triton"))):
        install.find_tritonserver()
