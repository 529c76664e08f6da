"""A canary with real processes: two versions of a model behind one route, a shadow, and weights moved by evidence."""

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import yaml

from harness.observed import prometheus, slowed
from harness.service import RRR, Service, wait_for
from rrrbuild.repository import write_repository
from rrrserve.config.routes import routes_of
from rrrserve.versions.running_services import running_services

OLD, NEW = "net@1", "net@2"
ROUTE = f"default={OLD}:90,{NEW}:10"
(WEIGHTS,) = routes_of([ROUTE])
# Bounds that hold, and that cannot, on any machine.
TRUE, FALSE = {"at_most_ms": 20_000}, {"at_most_ms": 0.001}
Files = Callable[[int], bytes]


@pytest.fixture(scope="module")
def versions(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks as versions of one model."""
    out = tmp_path_factory.mktemp("versions") / "repository"
    engines = [repository / "tiny" / "1", repository / "single" / "1"]
    write_repository(engines, out, backends=frozenset({"python"}), names=[OLD, NEW])
    return out


@pytest.fixture(scope="module")
def canary(versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers, a named route beside the default one, and the new version as the shadow."""
    flags = ["--route", ROUTE, "--route", f"net={OLD}:1,{NEW}:1", "--shadow", NEW]
    log = tmp_path_factory.mktemp("canary") / "serve.log"
    with Service(log, str(versions), *flags, "--workers", "2", "--drain", "0", "--grpc-port", "0") as served:
        yield served


def metrics_of(service: Service) -> dict[str, float]:
    lines = service.ask("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def routed(before: dict[str, float], after: dict[str, float], route: str) -> dict[str, float]:
    names = {model: f'rrr_routed_requests_total{{route="{route}",variant="{model}"}}' for model in (OLD, NEW)}
    return {model: after[name] - before[name] for model, name in names.items()}


def answered_by(client: httpx.Client, body: bytes, key: str = "", path: str = "/v1/predict") -> str:
    answer = client.post(path, content=body, headers={"X-Route-Key": key} if key else {})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"]["name"])


@pytest.mark.parametrize("requests", [400, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_requests_are_divided_by_the_weights_and_counted_as_the_clients_saw_it(
    canary: Service, png: Files, requests: int
) -> None:
    before, seen, bodies = metrics_of(canary), Counter[str](), [png(seed) for seed in range(4)]
    with ExitStack() as stack:
        opened = (httpx.Client(base_url=canary.url, timeout=60, trust_env=False) for _ in range(4))
        clients = [stack.enter_context(client) for client in opened]  # a connection each, to either worker
        for number in range(requests):
            seen[answered_by(clients[number % 4], bodies[number % 3])] += 1
    after = metrics_of(canary)
    assert routed(before, after, "default") == dict(seen)
    assert abs(seen[NEW] / requests - 0.1) < 0.01
    for model in (OLD, NEW):
        name = f'rrr_request_duration_seconds_count{{model="{model}",outcome="ok",route="/v1/predict"}}'
        assert after[name] - before[name] == seen[model]
        assert after[f'rrr_route_share{{route="default",variant="{model}"}}'] == WEIGHTS.shares[model]
    assert canary.ask("/v1/models").json()["routes"] == {"default": WEIGHTS.shares, "net": {OLD: 0.5, NEW: 0.5}}


def test_a_key_gets_one_model_from_every_worker_and_at_every_door(canary: Service, png: Files) -> None:
    (net,) = routes_of([f"net={OLD}:1,{NEW}:1"])
    image = grpc_client.InferInput("image_bytes", [1], "BYTES")
    image.set_data_from_numpy(np.array([png(0)], dtype=np.object_))
    for key in (f"user-{number}" for number in range(12)):
        for _ in range(2):  # each with a connection of its own, to either worker
            with httpx.Client(base_url=canary.url, timeout=60, trust_env=False) as client:
                assert answered_by(client, png(0), key) == WEIGHTS.by_key(key.encode())
                assert answered_by(client, png(0), key, "/v1/models/net/predict") == net.by_key(key.encode())
        with grpc_client.InferenceServerClient(canary.grpc) as rpc:
            answer = rpc.infer("net", [image], headers={"x-route-key": key}).get_response()
            assert answer.model_name == net.by_key(key.encode())
    twice = [("X-Route-Key", "a"), ("X-Route-Key", "b")]
    refused = httpx.post(f"{canary.url}/v1/predict", content=png(0), headers=twice, timeout=60, trust_env=False)
    assert refused.json()["error"]["message"] == "the header x-route-key is given twice"


def test_both_versions_are_asked_by_name_or_by_kserves_version(canary: Service, png: Files) -> None:
    for version, members in (("1", 3), ("2", 1)):
        named = canary.ask(f"/v1/models/net@{version}/predict?members=true", content=png(1)).json()
        assert (named["model"]["name"], named["model"]["version"]) == (f"net@{version}", version)
        assert len(named["members"]) == members
        described = canary.ask(f"/v2/models/net/versions/{version}").json()
        assert (described["name"], described["versions"]) == (f"net@{version}", [version])
        with grpc_client.InferenceServerClient(canary.grpc) as rpc:
            assert rpc.is_model_ready("net", version)
    assert canary.ask("/v2/models/net").json()["name"] == OLD, "a route is described by its first model"
    assert canary.ask("/v2/models/net/ready").json() == {"name": "net", "ready": True}
    assert canary.ask("/v2/models/net/versions/3").json()["error"] == "net@1 is served in version 1, not '3'"


def compared(found: dict[str, float]) -> float:
    pattern = 'rrr_shadow_compared_total{{model="{}",same="{}",shadow="{}"}}'
    return sum(found[pattern.format(OLD, same, NEW)] for same in ("yes", "no"))


def dropped(found: dict[str, float]) -> float:
    return sum(found[f'rrr_shadow_dropped_total{{reason="{reason}"}}'] for reason in ("busy", "share", "failed"))


def test_the_shadow_is_compared_in_the_gaps_and_leaves_no_trace_in_other_metrics(canary: Service, png: Files) -> None:
    before, asked = metrics_of(canary), Counter[str]()
    with httpx.Client(base_url=canary.url, timeout=60, trust_env=False) as client:
        for number in range(240):
            asked[answered_by(client, png(number % 8))] += 1
            time.sleep(0.005)

    def told() -> float:
        after = metrics_of(canary)
        return compared(after) + dropped(after) - compared(before) - dropped(before)

    wait_for(lambda: told() == asked[OLD])
    after = metrics_of(canary)
    assert 0 < compared(after) - compared(before) <= 0.05 * 240 + 2
    for model in (OLD, NEW):
        assert after[f'rrr_shadow_duration_seconds_count{{model="{model}"}}'] == compared(after)
        for name in (
            f'rrr_stage_duration_seconds_count{{model="{model}",stage="inference"}}',
            f'rrr_inference_duration_seconds_count{{model="{model}",target="onnxruntime-fp32"}}',
        ):
            assert after[name] - before[name] == asked[model]
    assert after['rrr_shadow_dropped_total{reason="failed"}'] == 0


@contextmanager
def traffic(url: str, body: bytes) -> Iterator[None]:
    """Somebody asks /v1/predict, one request after the other."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not over.is_set():
                answered_by(client, body)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def claims_file(folder: Path, *claims: dict[str, Any]) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "claims": list(claims)}))
    return path


def latency(**bound: float) -> dict[str, Any]:
    return {"name": "latency", "kind": "latency", "model": NEW, **bound}


def promote(service: Service, claims: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, document and last line on standard error of the command."""
    command = [str(RRR), "promote", "--claims", str(claims), "--pid", str(service.process.pid), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr.strip().splitlines()[-1]


def share_of_new(service: Service) -> float:
    return float(service.ask("/v1/models").json()["routes"]["default"][NEW])


def test_live_traffic_moves_the_weight_up_in_all_workers_and_down_when_a_claim_fails(
    canary: Service, png: Files, tmp_path: Path
) -> None:
    flags = ("--steps", "10,60,100", "--every", "3s")
    with traffic(canary.url, png(2)):
        code, document, said = promote(canary, claims_file(tmp_path, latency(**TRUE)), *flags)
        assert (code, document["outcome"], document["percent"]) == (0, "promoted", 100), said
        assert [look["percent"] for look in document["looks"] if look["verdicts"][0]["verdict"] == "pass"] == [10, 60]
    worker = canary.of_kind("worker")[0]
    worker.kill()
    wait_for(lambda: len(canary.of_kind("worker")) == 2 and worker not in canary.of_kind("worker"))
    before = metrics_of(canary)
    for _ in range(20):  # each over a connection of its own, to either worker, one of which is new
        wait_for(canary.is_ready)
        assert canary.ask("/v1/predict", content=png(2)).json()["model"]["name"] == NEW
    assert routed(before, metrics_of(canary), "default") == {OLD: 0, NEW: 20}


def test_a_shadow_that_answers_nobody_comes_last_on_the_processors(
    versions: Path, start_service: Callable[..., Service], png: Files
) -> None:
    served = start_service(str(versions), "--port", "0", "--default", OLD, "--shadow", NEW)

    def priorities(model: str) -> set[int]:
        stubs = [child for child in served.of_kind("stub") if any(f"/{model}/" in word for word in child.cmdline())]
        threads = [thread.id for stub in stubs for thread in stub.threads()]
        return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}

    wait_for(lambda: priorities(NEW) == {19})
    assert max(priorities(OLD)) < 19
    wait_for(lambda: served.ask("/v1/predict", content=png(0)).status_code == 200 and compared(metrics_of(served)) > 0)
    named = served.ask(f"/v1/models/{NEW}/predict", content=png(0)).json()
    assert named["model"]["name"] == NEW


def test_a_false_claim_gives_the_traffic_back_and_ctrl_c_leaves_what_there_is(
    versions: Path, start_service: Callable[..., Service], png: Files, tmp_path: Path
) -> None:
    served = start_service(str(versions), "--port", "0", "--route", f"default={OLD}:75,{NEW}:25")
    with traffic(served.url, png(2)):
        command = [str(RRR), "promote", "--claims", str(claims_file(tmp_path, latency(**TRUE))), "--every", "600s"]
        running = subprocess.Popen([*command, "--url", served.url], stderr=subprocess.PIPE, text=True)
        folder = next(Path(one.folder) for one in running_services() if one.pid == served.process.pid)
        wait_for(lambda: (folder / "routing.lock").exists())
        code, _, said = refused(served, tmp_path)
        assert (code, said) == (1, "rrr: another rrr promote moves weights of this service: let it end first")
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=60)[1].splitlines()[-1] == f"stopped: {NEW} has 25 % of default"
        assert running.returncode == 130
        assert share_of_new(served) == 0.25
        code, document, said = promote(served, claims_file(tmp_path, latency(**FALSE)), "--every", "3s")
    assert (code, document["outcome"], share_of_new(served)) == (1, "moved_back", 0)
    assert said == f"rrr: moved back: {NEW} has 0 % of default now (latency: bound_missed)"
    assert served.ask("/v1/predict", content=png(2)).json()["model"]["name"] == OLD
    assert f"route default: {OLD} 100 %, {NEW} 0 %" in served.log.read_text()
    assert served.stop() == 0


def refused(service: Service, folder: Path) -> tuple[int, str, str]:
    command = [str(RRR), "promote", "--claims", str(folder / "claims.yaml"), "--url", service.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr.strip()


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_by_a_real_prometheus_a_true_claim_takes_the_route_and_a_slowed_down_model_loses_it(
    versions: Path, start_service: Callable[..., Service], png: Files, tmp_path: Path
) -> None:
    """The claim is about the live traffic of both versions, and true until the new one's process is slowed down."""
    served = start_service(str(versions), "--port", "0", "--route", f"default={OLD}:90,{NEW}:10", "--workers", "2")
    flags = ("--steps", "10,25,50,100", "--every", "20s")
    with prometheus(tmp_path, served.url) as server, traffic(served.url, png(2)):
        ratio = {"name": "ratio", "kind": "speedup", "model": NEW, "baseline": OLD, "level": "triton", "at_least": 0.5}
        claims = claims_file(tmp_path, ratio)
        code, document, said = promote(served, claims, *flags, "--prometheus", server)
        assert (code, document["outcome"], share_of_new(served)) == (0, "promoted", 1.0), said
        passed = {look["percent"] for look in document["looks"] if look["verdicts"][0]["verdict"] == "pass"}
        assert passed == {10, 25, 50}
        assert all(query.startswith("(sum(increase(") for query in document["looks"][-1]["verdicts"][0]["queries"])
    served.stop()

    again = start_service(str(versions), "--port", "0", "--route", f"default={OLD}:50,{NEW}:50", "--workers", "2")
    stubs = [child for child in again.children() if any(f"/{NEW}/" in word for word in child.cmdline())]
    assert stubs
    (tmp_path / "again").mkdir()
    with prometheus(tmp_path / "again", again.url) as server, traffic(again.url, png(2)), slowed(stubs):
        code, document, said = promote(again, claims, *flags, "--prometheus", server)
    assert (code, document["outcome"], share_of_new(again)) == (1, "moved_back", 0), said
    assert document["looks"][-1]["percent"] == 50
    assert document["looks"][-1]["verdicts"][0]["reason"] == "bound_missed"
