"""What /metrics says equals what a client saw, to the last request, with one front process and with two."""

import concurrent.futures
import random
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from prometheus_install import find
from rrrserve.metrics.instruments import outcome_of

Files = Callable[[int], bytes]
Samples = dict[str, float]
NAMED = "/v1/models/{name}/predict"
REQUESTS = 240
ODD_METHODS = ("GET", "DELETE", "PATCH", "PROPFIND", "PURGE", "LOCK")


def scrape(client: httpx.Client) -> Samples:
    """All samples of /metrics by name and labels."""
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def ask(client: httpx.Client, kind: str, png: Files) -> Counter[str]:
    """Send one request of a kind; what a client can tell of the samples that it adds to."""
    batch = [("images", ("a.png", png(seed))) for seed in range(3)]
    corrupt = [("images", ("a.png", png(0))), ("images", ("b.png", png(0)[:40]))]
    kinds: dict[str, tuple[str, str, str, str, dict[str, Any]]] = {
        "good": ("POST", "/v1/predict", "/v1/predict", "tiny", {"content": png(1)}),
        "put": ("PUT", "/v1/predict", "/v1/predict", "tiny", {"content": png(2)}),
        "named": ("POST", "/v1/models/single/predict", NAMED, "single", {"content": png(3)}),
        "batch": ("POST", "/v1/models/single/predict_batch", f"{NAMED}_batch", "single", {"files": batch}),
        "corrupt": ("POST", "/v1/predict_batch", "/v1/predict_batch", "tiny", {"files": corrupt}),
        "text": ("POST", "/v1/predict", "/v1/predict", "tiny", {"content": b"no image"}),
        "late": ("POST", "/v1/predict", "/v1/predict", "tiny", {"content": png(0), "headers": LATE}),
        "nobody": ("POST", "/v1/models/nobody/predict", NAMED, "", {"content": png(0)}),
        "query": ("POST", "/v1/predict?top_k=x", "/v1/predict", "tiny", {"content": png(0)}),
        "method": ("GET", "/v1/predict", "/v1/predict", "", {}),
        "path": ("POST", "/v3/predict", "unmatched", "", {"content": png(0)}),
        "list": ("GET", "/v1/models", "/v1/models", "", {}),
    }
    method, path, route, model, more = kinds[kind]
    answer = client.request(method, path, **more)
    outcome = outcome_of(answer.status_code)
    request = f'rrr_request_duration_seconds_count{{model="{model}",outcome="{outcome}",route="{route}"}}'
    seen = Counter({request: 1})
    document = answer.json()
    if "error" in document:
        seen[f'rrr_requests_rejected_total{{reason="{document["error"]["code"]}"}}'] += 1
    elif model:
        images = document.get("results", [document])
        good = sum("predictions" in image for image in images)
        seen[f'rrr_disagreement_count{{model="{model}"}}'] += good
        seen[f'rrr_members_used_count{{model="{model}"}}'] += good
        seen[f'rrr_effort_total{{effort="full",model="{model}"}}'] += good
        for stage in ("encode", "inference"):
            seen[f'rrr_stage_duration_seconds_count{{model="{model}",stage="{stage}"}}'] += 1
    return seen


LATE = {"X-Request-Timeout-Ms": "1"}


def drive(url: str, png: Files) -> Counter[str]:
    """Requests of every kind, four at a time; the sum of what the clients saw."""
    kinds = ["good", "put", "named", "batch", "corrupt", "text", "nobody", "query", "method", "path", "list"]
    order = random.Random(0).choices(kinds, k=REQUESTS)

    def one_client(part: list[str]) -> Counter[str]:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            return sum((ask(client, kind, png) for kind in part), Counter())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return sum(pool.map(one_client, (order[index::4] for index in range(4))), Counter())


def assert_equal_counts(before: Samples, after: Samples, seen: Counter[str]) -> None:
    """Every counter of requests, errors, images and answers rose by exactly what the clients saw."""
    counted = re.compile(
        r"rrr_(request_duration_seconds_count|requests_rejected_total|disagreement_count|members_used_count|effort_total|"
        r'stage_duration_seconds_count\{.*stage="(encode|inference)")'
    )
    ours = {name for name in after if counted.match(name) and not re.search('route="/(metrics|readyz|livez)', name)}
    rises = {name: after[name] - before.get(name, 0) for name in ours}
    assert {name: rise for name, rise in rises.items() if rise} == dict(seen)
    requests = sum(rise for name, rise in rises.items() if name.startswith("rrr_request_duration"))
    assert requests == REQUESTS


def test_counts_equal_the_clients_own_with_one_worker(client: httpx.Client, service: Any, png: Files) -> None:
    before = scrape(client)
    seen = drive(service.url, png)
    assert_equal_counts(before, scrape(client), seen)


def test_a_deadline_that_passed_is_counted_once_as_what_the_client_saw(client: httpx.Client, png: Files) -> None:
    before = scrape(client)
    seen = sum((ask(client, "late", png) for _ in range(5)), Counter[str]())
    after = scrape(client)
    assert {name: after[name] - before.get(name, 0) for name in seen} == dict(seen)


def check_metrics(text: bytes) -> str:
    """What promtool finds wrong."""
    ran = subprocess.run([find("promtool"), "check", "metrics"], input=text, capture_output=True)
    return ran.stderr.decode() + ran.stdout.decode()


def send_unknown(url: str, requests: list[tuple[str, str]]) -> Counter[bytes]:
    """Pipeline requests without a body over one connection; the statuses of the answers."""
    statuses: Counter[bytes] = Counter()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for first in range(0, len(requests), 16):  # no more may wait for an answer
            part = requests[first : first + 16]
            heads = (f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" for method, path in part)
            connection.sendall("".join(heads).encode())
            received = b""
            while received.count(b'"}}') < len(part):  # where each error's JSON ends
                more = connection.recv(65536)
                assert more, f"the connection was closed after {received!r}"
                received += more
            statuses.update(re.findall(rb"HTTP/1.1 (\d+)", received))
    return statuses


def unknown_names() -> list[tuple[str, str]]:
    """10 000 requests that nothing answers, no two alike: paths, models, and methods on known paths."""
    names = [(ODD_METHODS[index % 6], f"/{random.Random(index).randbytes(6).hex()}") for index in range(4000)]
    names += [(ODD_METHODS[index % 6], f"/v1/models/m{index}/predict_batch") for index in range(3000)]
    names += [("POST", f"/v1/models/m{index}/predict") for index in range(2900)]
    paths = ("/v1/predict", "/v1/predict_batch", "/v1/models", "/livez", "/readyz", "/metrics", "/docs.json")
    names += [(ODD_METHODS[1 + index % 5], f"{paths[index % len(paths)]}?{index}") for index in range(100)]
    return names


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.nightly)])
def test_two_workers_count_exactly_and_up_to_10000_unknown_names_add_no_series(
    start_service: Any, repository: Any, png: Files, every: int
) -> None:
    served = start_service(str(repository), "--port", "0", "--workers", "2")
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as client:
        before = scrape(client)
        seen = drive(served.url, png)
        for _ in range(4):  # whichever worker answers
            assert_equal_counts(before, scrape(client), seen)
        assert check_metrics(client.get("/metrics").content) == ""
        assert {f'process_open_fds{{worker="{number}"}}' for number in (1, 2)} <= set(scrape(client))

        before = scrape(client)
        names = unknown_names()[::every]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            halves = pool.map(send_unknown, (served.url, served.url), (names[::2], names[1::2]))
        statuses = sum(halves, Counter[bytes]())
        assert statuses.total() == 10_000 / every
        assert set(statuses) == {b"404", b"405"}
        after = scrape(client)
        assert len(after) - len(before) <= 20
        assert set(after) == set(before)
    assert served.stop() == 0


def test_one_workers_metrics_pass_promtool(client: httpx.Client, png: Files) -> None:
    client.post("/v1/predict", content=png(0))
    assert check_metrics(client.get("/metrics").content) == ""


@pytest.mark.parametrize("name", ["rrr_model_ready", "rrr_model_info"])
def test_each_model_has_its_gauge(client: httpx.Client, name: str) -> None:
    assert client.get("/readyz").status_code == 200
    found = {key: value for key, value in scrape(client).items() if key.startswith(f"{name}{{")}
    assert {re.findall('model="([^"]*)"', key)[0] for key in found} == {"tiny", "single"}
    assert set(found.values()) == {1}
