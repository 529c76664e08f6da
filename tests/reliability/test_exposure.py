"""A service that is reachable from outside, with token, TLS and JSON log: what answers, whom, and what is written."""

import ipaddress
import json
import os
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import trustme
from tritonclient.grpc import service_pb2 as pb

from harness.service import RRR, wait_for

TOKEN = "first-token-0123456789abcdef"
NEXT_TOKEN = "second/token+0123456789abcdef=="
# Each kind of service that Triton offers beyond health, metadata and inference.
ADMIN_CALLS = {
    "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=8),
    "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": pb.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(name="a"),
    "CudaSharedMemoryUnregister": pb.CudaSharedMemoryUnregisterRequest(),
    "RepositoryIndex": pb.RepositoryIndexRequest(),
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="tiny"),
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="tiny"),
    "ModelConfig": pb.ModelConfigRequest(name="tiny"),
    "ModelStatistics": pb.ModelStatisticsRequest(name="tiny"),
    "TraceSetting": pb.TraceSettingRequest(),
    "LogSettings": pb.LogSettingsRequest(),
}


@dataclass
class Exposed:
    """A service on all addresses, and what a client needs for it."""

    process: psutil.Process
    port: int
    authority: Path
    token_file: Path
    log: Path

    def ask(self, path: str, *, token: str | None = TOKEN, **arguments: Any) -> httpx.Response:
        """One request; with a body it is a POST."""
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **arguments.pop("headers", {})}
        trust = ssl.create_default_context(cafile=self.authority)
        method = "POST" if arguments else "GET"
        url = f"https://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, headers=headers, verify=trust, trust_env=False, timeout=30, **arguments)

    def events(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def tree(self) -> list[psutil.Process]:
        """The parent and all of its descendants."""
        return [self.process, *self.process.children(recursive=True)]

    def triton(self) -> psutil.Process:
        """The tritonserver."""
        return next(process for process in self.tree() if process.name() == "tritonserver")


@pytest.fixture(scope="module")
def exposed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exposed]:
    folder = tmp_path_factory.mktemp("exposed")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(folder / "cert.pem"), append=True)
    (folder / "tokens").write_text(f"{TOKEN}\n\n{NEXT_TOKEN}\n")
    command = [str(RRR), "serve", str(repository), "--host", "0.0.0.0", "--port", "0", "--drain", "0"]  # noqa: S104
    command += ["--token-file", str(folder / "tokens"), "--log-format", "json", "--access-log"]
    command += ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
    log = folder / "log"
    environment = {**os.environ, "A_SECRET_OF_THE_SHELL": "hunter2"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, umask=0o022)
    try:
        wait_for(lambda: process.poll() is not None or '"event": "ready"' in log.read_text())
        assert process.poll() is None, log.read_text()
        found = re.search(r'"url": "https://127\.0\.0\.1:(\d+)"', log.read_text())
        assert found is not None, log.read_text()
        yield Exposed(psutil.Process(process.pid), int(found[1]), folder / "ca.pem", folder / "tokens", log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def is_loopback(text: str) -> bool:
    """Whether an address reaches only this machine, also in the form ::ffff:127.0.0.1."""
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def outer_addresses() -> list[str]:
    """This machine's IPv4 addresses that are not loopback."""
    every = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    found = [address.address for address in every if address.family is socket.AF_INET]
    return [address for address in found if not address.startswith("127.")]


def test_only_our_port_answers_from_outside(exposed: Exposed) -> None:
    listening = [
        connection.laddr
        for process in exposed.tree()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    inside = {address.port for address in listening if is_loopback(address.ip)}
    outside = {address.port for address in listening if not is_loopback(address.ip)}
    assert outside == {exposed.port}
    assert len(inside) == 2, "Triton's gRPC and its metrics"
    assert {"--allow-http=false", "--model-control-mode=none"} <= set(exposed.triton().cmdline())
    for address in outer_addresses():
        for port in inside:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, port), timeout=5)
        socket.create_connection((address, exposed.port), timeout=5).close()


def raw_http2(port: int, call: str, message: bytes, fields: dict[str, str]) -> bytes:
    """A gRPC call put together by hand, with header fields that no library would send; what came back."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    pseudo = {":method": "POST", ":scheme": "http", ":path": f"/inference.GRPCInferenceService/{call}"}
    header = {**pseudo, ":authority": "x", "content-type": "application/grpc", "te": "trailers", **fields}
    literals = (b"\0%c%b%c%b" % (len(n), n.encode(), len(v), v.encode()) for n, v in header.items())
    head, data = b"".join(literals), b"\0" + struct.pack(">I", len(message)) + message
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        wire.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, head))
        wire.sendall(frame(0, 1, 1, data))
        while b"grpc-message" not in answer:
            received = wire.recv(65536)
            assert received, "closed"
            answer += received
    return answer


@pytest.mark.parametrize("call", ADMIN_CALLS)
def test_triton_refuses_to_be_administrated_even_by_who_reads_its_command_line(exposed: Exposed, call: str) -> None:
    arguments = exposed.triton().cmdline()
    port = next(item.partition("=")[2] for item in arguments if item.startswith("--grpc-port="))
    name, _, value = next(item for item in arguments if "restricted" in item).rpartition(":")[2].partition("=")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(f"/inference.GRPCInferenceService/{call}")
        attempts: tuple[tuple[tuple[str, str], ...], ...] = ((), ((f"triton-grpc-protocol-{name}".lower(), value),))
        for metadata in attempts:
            with pytest.raises(grpc.RpcError, match="restricted"):
                method(ADMIN_CALLS[call].SerializeToString(), metadata=metadata, timeout=10)
    request = ADMIN_CALLS[call].SerializeToString()
    assert b"restricted" in raw_http2(int(port), call, request, {})
    assert b"Missing :method header" in raw_http2(int(port), call, request, {f"triton-grpc-protocol-{name}": value})


def test_a_request_without_a_right_token_is_refused_in_the_one_shape(
    exposed: Exposed, png: Callable[[int], bytes]
) -> None:
    wrong = [None, "wrong-token-0123456789", TOKEN[:-1], TOKEN + "x", TOKEN.upper()]
    headers = [*({"Authorization": f"Bearer {token}"} if token else {} for token in wrong)]
    headers += [{"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer"}]
    for sent in headers:
        answer = exposed.ask("/v1/predict", token=None, headers=sent, content=png(1))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized"), sent
        assert answer.headers["www-authenticate"].startswith('Bearer realm="rrr"')
        assert set(answer.json()["error"]) == {"code", "message", "request_id"}


@pytest.mark.parametrize("token", [TOKEN, NEXT_TOKEN])
def test_each_token_of_the_file_is_good(exposed: Exposed, png: Callable[[int], bytes], token: str) -> None:
    assert exposed.ask("/v1/predict", token=token, content=png(1)).status_code == 200
    assert exposed.ask("/v1/models", token=None, headers={"Authorization": f"bearer  {token}"}).status_code == 200


def test_only_the_two_probes_and_the_empty_pages_need_no_token(exposed: Exposed) -> None:
    paths = ["/v1/models", "/metrics", "/metrics/triton", "/docs.json", "/schema.json", "/nowhere", "/livez/"]
    paths += ["/v1/predict", "/predict", "/predict_batch", "/docs/", "/v1/samples", "/v1/samples/0"]
    assert {path: exposed.ask(path, token=None).status_code for path in paths} == dict.fromkeys(paths, 401)
    unlocked = ("/livez", "/readyz", "/docs", "/", "/page/page.js")
    assert [exposed.ask(path, token=None).status_code for path in unlocked] == [200] * 5
    assert exposed.ask("/metrics").status_code == 200
    described = exposed.ask("/docs.json").json()
    assert described["security"] == [{"token": []}]
    assert [path for path, item in described["paths"].items() if item.get("get", {}).get("security") == []] == [
        "/livez",
        "/readyz",
        "/docs",
    ]
    assert 'rrr_requests_rejected_total{reason="unauthorized"}' in exposed.ask("/metrics").text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_spoken_from_1_2_on(exposed: Exposed, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=exposed.authority)
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", exposed.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.version() == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_older_tls_and_plain_http_get_nothing(exposed: Exposed) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", exposed.port), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{exposed.port}/livez", trust_env=False)


def test_rrr_predict_sends_the_token_and_trusts_the_authority(
    exposed: Exposed, tmp_path: Path, png: Callable[[int], bytes]
) -> None:
    (tmp_path / "image.png").write_bytes(png(1))
    url = f"https://127.0.0.1:{exposed.port}"
    command = [str(RRR), "predict", str(tmp_path / "image.png"), "--url", url, "--json", "--ca", str(exposed.authority)]
    answered = subprocess.run(
        [*command, "--token-file", str(exposed.token_file)], capture_output=True, text=True, check=True
    )
    assert json.loads(answered.stdout)["model"]["name"] == "tiny"
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "(unauthorized)" in refused.stderr


def test_the_log_has_one_json_line_an_event_and_nothing_of_the_client(
    exposed: Exposed, png: Callable[[int], bytes]
) -> None:
    form = {"image": ("client-file-name.png", png(2), "image/png")}
    hidden = {"X-Request-ID": "mine-1", "User-Agent": "client-agent", "X-Other": "client-header"}
    assert exposed.ask("/v1/predict?top_k=2", headers=hidden, files=form).status_code == 200
    assert exposed.ask('/client-path/%0a{"forged":1}').status_code == 404
    wait_for(lambda: any(event.get("status") == 404 for event in exposed.events()))
    requests = [event for event in exposed.events() if event["event"] == "request"]
    (mine,) = [event for event in requests if event["request_id"] == "mine-1"]
    assert (mine["route"], mine["model"], mine["status"]) == ("/v1/predict", "tiny", 200)
    assert 0 < mine["duration_ms"] < 60_000
    assert set(mine) == {"time", "level", "logger", "event", "request_id", "route", "model", "status", "duration_ms"}
    assert {event["route"] for event in requests if event["status"] == 404} == {"unmatched"}
    text = exposed.log.read_text()
    assert not any(word in text for word in ("client-", "forged", TOKEN, NEXT_TOKEN, "hunter2"))
    assert max(map(len, text.splitlines())) < 1024


def test_an_old_triton_is_told_in_one_line_at_the_start(exposed: Exposed) -> None:
    wait_for(lambda: any("known vulnerabilities" in event["event"] for event in exposed.events()))
    told = [event for event in exposed.events() if "known vulnerabilities" in event["event"]]
    assert [event["level"] for event in told] == ["warning"]
    assert "2.51.0" in told[0]["event"]
    assert "25.08" in told[0]["event"]


def test_every_process_writes_privately_dumps_no_core_and_gains_no_privilege(exposed: Exposed) -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 2**20)
    for process in exposed.tree():
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^Umask:\s+0077$", status, re.M), process
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.M), process
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.M), process
        assert re.search(rf"^Max open files\s+{hard}\s", limits, re.M), process


def test_no_secret_is_in_a_command_line_and_triton_gets_none_at_all(exposed: Exposed) -> None:
    for process in exposed.tree():
        assert not any(token in argument for argument in process.cmdline() for token in (TOKEN, NEXT_TOKEN, "hunter2"))
        variables = process.environ()
        if process.name() in ("tritonserver", "triton_python_backend_stub"):
            assert not any(name.startswith("RRR_TOKEN") or name == "A_SECRET_OF_THE_SHELL" for name in variables)
        else:
            assert "RRR_TOKEN" not in variables
        if "rrrserve.worker" in process.cmdline():
            assert variables["BENTOML_DO_NOT_TRACK"] == "True"


def test_the_admin_key_is_another_after_each_start_of_triton(exposed: Exposed) -> None:
    def key() -> str:
        return " ".join(item for item in exposed.triton().cmdline() if "restricted" in item)

    before, old = key(), exposed.triton()
    old.kill()
    wait_for(lambda: not old.is_running())
    wait_for(lambda: exposed.ask("/readyz", token=None).status_code == 200)
    assert exposed.triton().pid != old.pid
    assert key().rpartition("=")[0] == before.rpartition("=")[0]
    assert key() != before
    assert len(key().rpartition("=")[2]) == 32
