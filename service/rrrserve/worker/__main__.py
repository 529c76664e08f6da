"""One HTTP worker process of `rrr serve`: the BentoML service under uvicorn, on a socket the supervisor bound.

It does what BentoML's own worker does for `bentoml serve`, with three differences: logs go to standard error, the
limits of the HTTP server are ours to set, and it stops in an order that cuts nobody off.
"""

import argparse
import functools
import gc
import socket
import sys
from pathlib import Path

import uvicorn

from rrrserve.metrics import multiprocess
from rrrserve.net import tls
from rrrserve.process import logs

# How long the thread that answers a scrape may keep the event loop waiting. Python's own 5 ms would show in the 99th
# percentile of the latencies that are scraped.
_SWITCH_INTERVAL_SECONDS = 0.001
_FRAMING_BYTES = 2**20  # chunk headers and trailers around the largest body


def main() -> None:
    """Serve until SIGTERM; requests that are in flight then finish first."""
    parser = argparse.ArgumentParser(prog="python -m rrrserve.worker")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--metrics-fd", type=int, help="the one that only metrics are told at, if there is one")
    parser.add_argument("--index", type=int, default=1, help="number of this worker, from 1")
    parser.add_argument(
        "--config", type=Path, required=True, help="the service's settings, as the supervisor wrote them"
    )
    arguments = parser.parse_args()

    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    if (folder := multiprocess.folder_in_use()) is not None:
        multiprocess.adopt(folder, arguments.index)
    server = _prepare(arguments)
    gc.freeze()  # what is there now stays: the collector need not look through it again, which takes 0.1 s each time
    server.run(sockets=[socket.socket(fileno=arguments.fd)])


def _prepare(arguments: argparse.Namespace) -> uvicorn.Server:
    """All that takes long and touches nothing outside this process."""
    import uvicorn.lifespan.on
    from bentoml._internal.container import BentoMLContainer
    from bentoml._internal.context import server_context
    from PIL import Image

    from rrrserve.api.cors import Cors
    from rrrserve.api.endpoint import client_gone, raw_error
    from rrrserve.api.routes import Routes
    from rrrserve.api.v2.grpc_door import INFER_LABEL, GrpcDoor
    from rrrserve.config.service_config import ServiceConfig
    from rrrserve.http.connections import Connections, Limits
    from rrrserve.http.server import Beside, Server, protocol
    from rrrserve.worker.metrics_door import MetricsDoor
    from rrrserve.worker.service import make_service

    config = ServiceConfig.read(arguments.config)
    logs.configure(config.log_format, access=config.access_log)
    routes = Routes()
    service = make_service(config, routes, slot=arguments.index)
    server_context.worker_index = arguments.index
    server_context.service_type = "entry_service"
    server_context.service_name = server_context.bento_name = service.name
    server_context.bento_version = "not available"
    BentoMLContainer.development_mode.set(False)
    Image.init()

    limits = Limits(
        body_bytes=config.max_body_bytes + _FRAMING_BYTES,
        header_seconds=config.header_timeout_ms / 1000,
        keep_alive_seconds=config.keep_alive_ms / 1000,
        connections=config.max_connections,
    )
    render = functools.partial(raw_error, root_path=config.root_path, cors=Cors.of(config.cors))
    context = tls.server_context(config.tls) if config.tls else None
    server = uvicorn.Config(
        service.to_asgi(),
        http=protocol(Connections(limits), render=render, gone=client_gone),
        ssl_context_factory=None if context is None else lambda *_: context,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody asks for the client's address
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=config.grace_seconds,
    )
    server.get_loop_factory()
    beside: list[Beside] = []
    if config.grpc_address is not None:
        beside.append(GrpcDoor(config.grpc_address, config, routes.now, lambda: routes.access))
        routes.named_routes.append(INFER_LABEL)
    if arguments.metrics_fd is not None:
        listener = socket.socket(fileno=arguments.metrics_fd)
        beside.append(MetricsDoor(listener, routes.metrics_application(), limits))
    return Server(server, limits, beat=routes.beat, beside=beside)


if __name__ == "__main__":
    main()
