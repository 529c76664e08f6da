"""`rrr serve --metrics-port`: metrics in plain HTTP and without a token, while the API has both TLS and tokens."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trustme
from prometheus_client import CollectorRegistry, Counter

from harness.service import Service, port_is_free
from rrrserve.api.routes import Routes

RRR = Path(sys.executable).parent / "rrr"
TOKEN = "metrics-port-token-0"


@pytest.fixture
def secured(tmp_path: Path) -> tuple[str, ...]:
    """Flags for TLS and a token."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(tmp_path / "cert.pem"), append=True)
    (tmp_path / "token").write_text(TOKEN)
    files = {"--tls-cert": "cert.pem", "--tls-key": "key.pem", "--token-file": "token"}
    return tuple(word for flag, name in files.items() for word in (flag, str(tmp_path / name)))


def error(answer: httpx.Response) -> tuple[int, str, str]:
    document = answer.json()["error"]
    return answer.status_code, document["code"], document["message"]


def test_whoever_reaches_the_port_reads_the_metrics_of_all_workers_and_nothing_else(
    start_service: Callable[..., Service], repository: Path, png: Callable[[int], bytes], secured: tuple[str, ...]
) -> None:
    served = start_service(str(repository), "--workers", "2", "--metrics-port", "0", *secured)
    found = re.search(
        r"^metrics at (http://127\.0\.0\.1:(\d+))/metrics, without a token$", served.log.read_text(), re.M
    )
    assert found is not None
    url, port = found[1], int(found[2])

    with httpx.Client(verify=False, trust_env=False, timeout=30) as client:  # noqa: S501  which certificate is not what is tested
        assert client.get(f"{served.url}/metrics").status_code == 401, "the API's own port asks for the token as before"
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        client.headers["Connection"] = "close"  # so that both workers get some
        answered = [client.post(f"{served.url}/v1/predict", content=png(0)).status_code for _ in range(8)]
        assert answered == [200] * 8

    with httpx.Client(base_url=url, trust_env=False, timeout=30) as scraper:
        for _ in range(4):  # whichever worker tells it
            text = scraper.get("/metrics", headers={"Connection": "close"}).raise_for_status().text
            counts = re.findall(
                r'^rrr_request_duration_seconds_count\{.*outcome="ok",route="/v1/predict"\} (\S+)', text, re.M
            )
            assert counts == ["8.0"]
        assert {f'worker="{slot}"' for slot in (1, 2)} <= set(re.findall(r'worker="\d+"', text))
        answer = scraper.get("/metrics", headers={"Accept": "application/openmetrics-text"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert "nv_inference_count" in scraper.get("/metrics/triton").raise_for_status().text
        assert "date" in answer.headers

        message = "this port has GET /metrics and /metrics/triton alone: the API is at --port"
        for path in ("/", "/v1/models", "/v2", "/readyz", "/docs", "/metrics/"):
            assert error(scraper.get(path)) == (404, "not_found", message)
        assert error(scraper.post("/v1/predict", content=png(0))) == (404, "not_found", message)
        assert error(scraper.post("/metrics")) == (405, "method_not_allowed", "allowed here: GET, HEAD")

        # A connection that a scraper keeps does not keep the service from stopping.
        assert served.stop() == 0
    assert port_is_free(port)


def test_a_port_that_cannot_be_had_is_exit_2_with_the_flags_name(repository: Path) -> None:
    def serve(*arguments: str) -> tuple[int, str]:
        ran = subprocess.run([str(RRR), "serve", str(repository), *arguments], capture_output=True, text=True)
        return ran.returncode, " ".join(ran.stderr.split())

    for taken in ("--port", "--grpc-port"):
        others = ("--port", "0") if taken == "--grpc-port" else ()
        code, said = serve(*others, taken, "3456", "--metrics-port", "3456")
        message = f"--metrics-port is 3456, which {taken} has already: choose another --metrics-port"
        assert (code, message in said) == (2, True), said
    code, said = serve("--port", "0", "--metrics-port", "80")
    assert (code, "--metrics-port is 80: allowed are 1024 to 65535" in said) == (2, True), said
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = serve("--port", "0", "--metrics-port", str(port))
    message = f"port {port} is in use: stop what listens there, or choose another --metrics-port"
    assert (code, message in said) == (2, True), said


def asked(application: Any, path: str) -> httpx.Response:
    """The answer of an application without a service around it."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://rrr") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_it_tells_the_same_as_the_route_of_the_api_and_neither_tells_anything_before_the_service_has_begun() -> None:
    routes = Routes()
    routes.registry = CollectorRegistry()
    Counter("things", "How many.", registry=routes.registry).inc(3)
    applications = (routes.application(), routes.metrics_application())
    for application in applications:
        assert error(asked(application, "/metrics")) == (503, "not_ready", "the service is starting")
    routes.backend = cast(Any, object())
    api, alone = (asked(application, "/metrics").text for application in applications)
    assert api == alone
    assert "things_total 3.0" in alone
