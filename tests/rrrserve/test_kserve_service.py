"""KServe's gRPC as it is run: several workers at one port, TLS and tokens, and a stop that loses nothing."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc_client
import trustme
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from harness.service import RRR, Service, wait_for

TOKEN = "a-token-of-the-tests-0123456789"
PIXELS = np.zeros((1, 32, 32, 3), np.uint8)
REQUEST = pb.ModelInferRequest(
    model_name="tiny",
    inputs=[pb.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=PIXELS.shape)],
    raw_input_contents=[PIXELS.tobytes()],
).SerializeToString()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The certificate of an authority, beside the certificate (cert.pem) and key that it made for 127.0.0.1."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = made.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    return tmp_path / "ca.pem"


def infer(opened: Any, **options: Any) -> Any:
    images = grpc_client.InferInput("images", PIXELS.shape, "UINT8")
    images.set_data_from_numpy(PIXELS)
    return opened.infer("tiny", [images], **options).as_numpy("mean_probabilities")


def listening(served: Service, port: int) -> list[int]:
    """The workers that listen at a port."""
    found = []
    for worker in served.of_kind("worker"):
        ends = [item.laddr.port for item in worker.net_connections("inet") if item.status == psutil.CONN_LISTEN]
        found += [worker.pid] * ends.count(port)
    return found


def test_two_workers_share_the_port_by_tls_and_token_and_finish_what_is_under_way_when_stopped(
    start_service: Callable[..., Service], repository: Path, authority: Path
) -> None:
    (authority.parent / "token").write_text(TOKEN)
    files = {name: str(authority.with_name(name)) for name in ("cert.pem", "key.pem", "token")}
    secured = ("--tls-cert", files["cert.pem"], "--tls-key", files["key.pem"], "--token-file", files["token"])
    served = start_service(str(repository), "--workers", "2", "--grpc-port", "0", "--drain", "2", *secured)
    port = int(served.grpc.rpartition(":")[2])
    wait_for(lambda: len(set(listening(served, port))) == 2)

    ran = subprocess.run(
        [str(RRR), "serve", str(repository), "--port", "0", "--grpc-port", str(port)], capture_output=True, text=True
    )
    assert (ran.returncode, "is in use" in ran.stderr, "--grpc-port" in ran.stderr) == (2, True, True)

    answer = httpx.get(f"{served.url}/v2", verify=False, trust_env=False)  # noqa: S501  the client of the next lines verifies
    assert (answer.status_code, list(answer.json())) == (401, ["error"])
    with grpc_client.InferenceServerClient(served.grpc, ssl=True, root_certificates=str(authority)) as opened:
        assert opened.is_server_live()
        assert opened.is_server_ready()
        for wrong in ({}, {"authorization": f"Bearer {TOKEN}x"}):
            with pytest.raises(InferenceServerException) as raised:
                infer(opened, headers=wrong)
            assert raised.value.status() == "StatusCode.UNAUTHENTICATED"
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert infer(opened, headers=headers).shape == (1, 3)

        complete = threading.Event()

        def late() -> Iterator[bytes]:
            complete.wait(30)
            yield REQUEST

        credentials = grpc.ssl_channel_credentials(authority.read_bytes())
        with grpc.secure_channel(served.grpc, credentials) as channel:
            method = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
            under_way = method.future(late(), metadata=tuple(headers.items()), timeout=30)
            time.sleep(0.5)  # until it is in the service
            served.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert not opened.is_server_ready()
            assert infer(opened, headers=headers).shape == (1, 3), "requests are taken while it drains"
            time.sleep(2.5)  # both ports are closed
            complete.set()
            assert len(pb.ModelInferResponse.FromString(under_way.result()).outputs) == 3
    assert served.process.wait(60) == 0
