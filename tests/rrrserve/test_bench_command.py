"""`rrr bench` against the running service, its Triton, and an engine."""

import csv
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from PIL import Image

from rrrserve.bench.figures import merged
from rrrserve.cli import run

RRR = Path(sys.executable).parent / "rrr"
SHORT = ("--seconds", "0.2", "--warm-up", "0", "--sizes", "32,48")


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the result document (empty if there is none) and what was said."""
    capsys.readouterr()
    code = run(["bench", *arguments, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


def triton_of(service: Any) -> str:
    """HOST:PORT of the service's own Triton."""
    found = re.search(r"Triton at ([\w.:]+),", service.log.read_text())
    assert found is not None
    return found[1]


def answered(client: httpx.Client, model: str) -> float:
    """Predictions that the service counts for a model."""
    pattern = rf'rrr_request_duration_seconds_count{{model="{model}",outcome="ok",route="\S+"}} (\S+)'
    return sum(float(count) for count in re.findall(pattern, client.get("/metrics").text))


def test_models_take_turns_and_the_service_counts_what_the_client_counts(
    service: Any, client: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {model: answered(client, model) for model in ("tiny", "single")}
    files = [tmp_path / name for name in ("bench.json", "bench.csv", "bench.png")]
    code, document, said = bench(
        capsys,
        *("--url", service.url, *SHORT, "--rounds", "2", "--concurrency", "2", "--rate", "40"),
        *("--out", str(files[0]), "--csv", str(files[1]), "--plot", str(files[2])),
    )
    assert code == 0, said
    assert json.loads(files[0].read_text()) == document
    runs = document["runs"]
    assert [(run["model"], run["mode"]) for run in runs] == [
        (model, mode) for model in ("tiny", "single") for mode in ("closed", "open")
    ]
    for model, members in (("tiny", 3), ("single", 1)):
        mine = [run for run in runs if run["model"] == model]
        assert answered(client, model) - before[model] == sum(run["ok"] for run in mine) > 0
        assert {(run["level"], run["target"], run["members"], run["batch"]) for run in mine} == {
            ("http", "onnxruntime-fp32", members, 1)
        }
        assert {run["where"] for run in mine} == {f"{service.url}/v1/models/{model}/predict"}
    for row in runs:
        assert row["errors"] == {}
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p999_ms"] <= row["max_ms"]
        assert [merged([turn["histogram"]]).get_total_count() for turn in row["rounds"]] == [
            turn["ok"] for turn in row["rounds"]
        ]
    assert all(row["late_max_ms"] >= row["late_p99_ms"] >= 0 for row in runs if row["mode"] == "open")
    turns = sorted((turn["started_seconds"], row["mode"], row["model"]) for row in runs for turn in row["rounds"])
    assert [f"{mode} {model}" for _, mode, model in turns] == [
        *("closed tiny", "closed single", "open tiny", "open single"),
        *("closed single", "closed tiny", "open single", "open tiny"),
    ]
    client_figures = document["client"]
    assert client_figures["limit_requests_per_second"] > max(row["throughput"] for row in runs)
    assert client_figures["largest_share_of_limit"] == pytest.approx(
        max(row["throughput"] for row in runs) / client_figures["limits"]["http"], rel=0.01
    )
    assert {"cpu", "cores"} <= set(document["environment"]["machine"])
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    assert [float(row["p99_ms"]) for row in rows] == [row["p99_ms"] for row in runs]
    assert [(row["concurrency"], row["rate_per_second"]) for row in rows] == [("2", ""), ("", "40.0")] * 2
    with Image.open(files[2]) as picture:
        assert (picture.format, picture.width > picture.height > 300) == ("PNG", True)


@pytest.mark.nightly
def test_triton_and_an_engine_are_asked_in_batches_beside_each_other(
    service: Any, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = ("--triton", triton_of(service), "--model", "tiny", "--engine", str(repository / "single" / "1"))
    code, document, said = bench(
        capsys, *levels, *SHORT, "--batch", "3", "--concurrency", "2", "--rounds", "1", "--threads", "1"
    )
    assert code == 0, said
    assert [(run["model"], run["level"], run["target"], run["members"]) for run in document["runs"]] == [
        ("tiny", "triton", None, 3),
        ("single", "engine", "onnxruntime-fp32", 1),
    ]
    assert all(run["ok"] > 0 and run["errors"] == {} and run["batch"] == 3 for run in document["runs"])
    assert document["client"]["limits"].keys() == {"triton", "engine"}


@pytest.mark.nightly
def test_the_highest_rate_within_a_limit_is_searched_and_what_was_tried_is_kept(
    service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, said = bench(capsys, "--url", service.url, "--model", "single", *SHORT, "--p99-ms", "0.01")
    (found,) = document["highest_rate"]
    assert (code, found["rate_per_second"], found["tried"]) == (1, None, [])
    assert "keeps p99 within 0.01 ms at no rate: one request at a time takes" in said

    engine_like = ("--model", "single", "--p99-ms", "60000", "--arrivals", "constant", "--seconds", "0.05")
    code, document, said = bench(capsys, "--url", service.url, *engine_like, *SHORT[2:], "--max-in-flight", "40")
    (found,) = document["highest_rate"]
    best = found["rate_per_second"]
    # Nothing is that slow: what ends it is that more than 40 requests are under way, or what the client can do.
    assert (code, found["model"], found["p99_ms_limit"]) == (0, "single", 60000.0), said
    # A rate that failed is tried again: it may have been somebody else's work on this machine.
    *_, last = [trial for trial in found["tried"] if trial["rate_per_second"] == best]
    assert (last["ok"], last["errors"], last["p99_ms"]) == (True, 0, found["p99_ms"])
    assert all(trial["errors"] > 0 for trial in found["tried"] if not trial["ok"])


def test_errors_are_counted_by_kind_and_a_load_without_any_answer_fails(
    service: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], png: Callable[[int], bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    out, plot = tmp_path / "bench.json", tmp_path / "bench.svg"
    code, document, said = bench(
        capsys,
        *("--url", service.url, "--model", "tiny", "--images", str(tmp_path), "--requests", "6", "--warm-up", "0"),
        *("--concurrency", "2", "--rounds", "1", "--header", "content-encoding: gzip"),
        *("--out", str(out), "--plot", str(plot), "--no-keep-alive"),
    )
    assert code == 1
    assert document["runs"][0]["errors"] == {"415": 6}
    assert document["runs"][0]["p99_ms"] is None
    assert "tiny at" in said
    assert "answered no request: 6 x 415" in said
    assert json.loads(out.read_text()) == document
    assert plot.read_bytes().startswith(b"<?xml")


def test_what_cannot_be_measured_is_said_in_one_line_before_any_load(
    service: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as held:  # bound, so that nobody else takes the port, but not listening
        held.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{held.getsockname()[1]}"
        (tmp_path / "a.png").write_text("no image")
        url, triton = ("--url", service.url), ("--triton", triton_of(service))
        cases: list[tuple[tuple[str, ...], int, str]] = [
            (("--url", f"http://{nobody}"), 1, "start the service with rrr serve"),
            (("--triton", nobody, "--model", "m"), 1, f"no answer from Triton at {nobody}"),
            (("--url", f"http://{triton[1]}"), 1, ""),
            ((*url, "--model", "tinny"), 2, "--model is 'tinny'"),
            ((*triton, "--model", "tinny"), 2, "--model is 'tinny'"),
            (triton, 2, "--triton needs --model"),
            ((*triton, "--model", "tiny", "--batch", "9"), 2, "batch-size must be <= 4"),
            (("--triton", "here", "--model", "tiny"), 2, "--triton is 'here'"),
            ((*url, "--batch", "2"), 2, "over HTTP a request carries one image"),
            (("--url", "ftp://localhost"), 2, "expected http://HOST:PORT or https://HOST:PORT"),
            (("--url", "http://h:99999"), 2, "rrr: --url is 'http://h:99999': a port is from 1 to 65535\n"),
            ((*url, "--ca", str(tmp_path / "none")), 2, "none cannot be read: No such file"),
            ((*url, "--ca", str(tmp_path / "a.png")), 2, "a.png holds no certificate in PEM form"),
            (("--url", service.url.replace("http", "https")), 1, "a service without --tls-cert is asked with http://"),
            (("--engine", str(tmp_path)), 3, "manifest.json is missing"),
            (("--engine", str(tmp_path), "--model", "tiny"), 2, "an engine is named by its folder"),
            ((*url, "--rate", "0"), 2, "--rate is '0'"),
            ((*url, "--concurrency", "1,x"), 2, "--concurrency is '1,x'"),
            ((*url, "--concurrency", "5000"), 2, "allowed are 1 to 1024"),
            ((*url, "--rate", "5", "--arrivals", "burst"), 2, "allowed are poisson, constant"),
            ((*url, "--formats", "gif"), 2, "allowed are JPEG, PNG, WEBP"),
            ((*url, "--sizes", "9000"), 2, "allowed are 1 to 4096"),
            ((*url, "--header", "nothing"), 2, "expected 'NAME: VALUE'"),
            ((*url, "--image", str(tmp_path / "missing.png")), 3, "is not a file"),
            ((*url, "--images", str(tmp_path)), 3, "a.png: the bytes are not one of"),
            ((*url, "--out", str(tmp_path / "no" / "x.json")), 2, "make it first"),
            ((*url, "--csv", str(tmp_path)), 2, "which is a folder"),
            ((*url, "--plot", str(tmp_path / "x.pdf")), 2, "ends in .png or .svg"),
        ]
        for arguments, expected, words in cases:
            code, document, said = bench(capsys, *arguments)
            assert (code, document) == (expected, {}), (arguments, said)
            assert words in said, said
            assert said.count("\n") <= 1, said


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ('{"models": [{"name": "tiny"}]}', "gave no list of models: is this an rrr service?"),
        ('{"models": [{"name": "tiny", "target": "x", "members": null}]}', "gave no list of models"),
        ("[" * 100000, "gave no list of models"),
    ],
)
def test_a_list_of_models_that_is_none_is_said_in_one_line(
    models: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(models.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        code, _, said = bench(capsys, "--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert code == 1
    assert message in said
    assert said.count("\n") == 1


def test_an_interrupted_bench_keeps_what_it_has_and_says_so(service: Any, client: httpx.Client, tmp_path: Path) -> None:
    before = answered(client, "tiny")
    command = [str(RRR), "bench", "--url", service.url, "--model", "tiny", "--concurrency", "1", "--warm-up", "0"]
    command += ["--sizes", "32", "--seconds", "300", "--out", str(tmp_path / "bench.json")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while answered(client, "tiny") < before + 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in said) == (130, False), said
    assert "interrupted" in said
    assert "tiny" in out
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["interrupted"] is True
    assert document["runs"][0]["ok"] >= 3
    assert document["runs"][0]["errors"] == {}
    assert document["runs"][0]["throughput"] > 0
