"""`rrr verify` against the real service: driven, scraped, and asked of a real Prometheus."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from harness.observed import prometheus, slowed

RRR = Path(sys.executable).parent / "rrr"
MODEL, BASELINE = "single", "tiny"  # one network, and three members that run side by side


def claim(name: str, **fields: object) -> dict[str, object]:
    """A claim as the file holds it."""
    return {"name": name, "model": MODEL, **fields}


def ratio(name: str, level: str, **bound: object) -> dict[str, object]:
    return claim(name, kind="speedup", baseline=BASELINE, level=level, **bound)


def verify(folder: Path, claims: list[dict[str, object]], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and verdicts of the command."""
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "claims": claims}))
    command = [str(RRR), "verify", "--claims", str(path), "--json", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.stdout, ran.stderr
    found = json.loads(ran.stdout)["verdicts"]
    print([item["explanation"] for item in found])
    return ran.returncode, found


@pytest.mark.nightly
def test_scraped_and_asked_of_prometheus_the_verdicts_agree(service: Any, tmp_path: Path) -> None:
    claims = [
        ratio("http", "http", at_least=0.02),
        ratio("triton", "triton", at_least=0.02),
        claim("latency", kind="latency", level="triton", at_most_ms=10000),
    ]
    with prometheus(tmp_path, service.url) as server:
        time.sleep(0.5)
        begun = time.time()
        code, both = verify(
            tmp_path, claims, "--scrape", service.url, "--drive", "--prometheus", server, "--seconds", "100"
        )
        window = f"{round(time.time() - begun) + 1}s"
        asked_code, asked = verify(tmp_path, claims, "--prometheus", server, "--range", window)
        # The scrapes at the window's ends differ, and one slow request among a few hundred quick ones is a lot.
        for verdict in (*both, *asked):
            assert 1 / 3 < value_of(server, verdict["queries"][0]) / verdict["evidence"]["pooled"] < 3
        code_of_missing, missing = verify(
            tmp_path, [claim("other", kind="latency", at_most_ms=1) | {"model": "singel"}], "--prometheus", server
        )
    assert (code, asked_code, code_of_missing) == (0, 0, 1)
    for one, two in zip(both, asked, strict=True):
        scraped = one["evidence"]["scraped"]
        assert (scraped["verdict"], scraped["reason"]) == ("pass", "bound_met")
        for asked_prometheus in (one, two):
            assert asked_prometheus["interval"][0] <= scraped["interval"][1]
            assert scraped["interval"][0] <= asked_prometheus["interval"][1]
        assert one["evidence"]["client"].keys() <= {MODEL, BASELINE}
    assert missing[0]["reason"] == "unknown_model"
    assert "Did you mean 'single'?" in missing[0]["explanation"]


@pytest.mark.nightly
def test_a_false_claim_fails_and_a_slowed_model_flips_a_verdict(service: Any, tmp_path: Path) -> None:
    drive = ("--scrape", service.url, "--drive", "--seconds", "40")
    _, (measured, spent) = verify(
        tmp_path,
        [
            ratio("any", "triton", at_least=0.02),
            claim("any latency", kind="latency", level="triton", at_most_ms=10000),
        ],
        *drive,
    )
    client = measured["evidence"]["client"]
    for model in (MODEL, BASELINE):
        assert client[model]["ok"] == measured["samples"][model] > 30
        assert client[model]["errors"] == {}
        # What the server calls a call's time is within what the client waits for the answer.
        assert measured["evidence"]["mean_ms"][model] < client[model]["mean_ms"]
    latency = claim("latency", kind="latency", level="triton", at_most_ms=3 * spent["estimate"])
    twice = ratio("twice", "triton", at_least=2 * measured["interval"][1])
    code, found = verify(tmp_path, [twice, latency], *drive)
    assert code == 1
    assert [(item["verdict"], item["reason"]) for item in found] == [("fail", "bound_missed"), ("pass", "bound_met")]
    stubs = [child for child in service.children() if any(f"/{MODEL}/" in word for word in child.cmdline())]
    assert stubs
    with slowed(stubs):
        code, found = verify(tmp_path, [latency], *drive)
    assert code == 1
    assert (found[0]["verdict"], found[0]["reason"]) == ("fail", "bound_missed")
    assert found[0]["interval"][0] > 3 * spent["estimate"]


def test_ctrl_c_ends_a_drive_with_code_130_and_a_misspelt_model_ends_it_at_once(service: Any, tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "claims": [ratio("any", "http", at_least=0.0001, at_most=0.0002)]}))
    command = [str(RRR), "verify", "--claims", str(path), "--scrape", service.url, "--drive", "--seconds", "600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ))
    before = service_count(service.url)
    while service_count(service.url) < before + 20:
        assert process.poll() is None
        time.sleep(0.05)
    assert psutil.Process(process.pid).children(recursive=True) == []
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"stopped: no claim was judged" in said
    assert b"Traceback" not in said
    code, found = verify(
        tmp_path,
        [claim("other", kind="latency", at_most_ms=1) | {"model": "singel"}],
        *("--scrape", service.url, "--drive", "--seconds", "600"),
    )
    assert (code, found[0]["reason"]) == (1, "unknown_model")
    assert "serve tiny, single, and not 'singel'. Did you mean 'single'?" in found[0]["explanation"]


def value_of(server: str, query: str) -> float:
    """What a query gives now."""
    answer = httpx.get(f"{server}/api/v1/query", params={"query": query}, trust_env=False).json()
    (series,) = answer["data"]["result"]
    return float(series["value"][1])


def service_count(url: str) -> float:
    """Images that the service has been asked for."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    counted = re.compile(r'rrr_request_duration_seconds_count\{.*route="/v1/.*predict"')
    lines = [line for line in text.splitlines() if counted.match(line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
