"""One HTTP worker process of `rrr serve`: the BentoML service under uvicorn, on a socket the supervisor bound.

It does what BentoML's own worker does for `bentoml serve`, with three differences: logs go to standard error, the
limits of the HTTP server are ours to set, and it stops in an order that cuts nobody off.
"""

import argparse
import contextlib
import gc
import importlib
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn

from rrrserve.metrics import multiprocess
from rrrserve.net import tls
from rrrserve.process import logs
from rrrserve.supervise.standby import STANDBY_COMM

# How long the thread that answers a scrape may keep the event loop waiting. Python's own 5 ms would show in the 99th
# percentile of the latencies that are scraped.
_SWITCH_INTERVAL_SECONDS = 0.001
_STDIN = 0
_COMM = Path("/proc/self/comm")  # what `ps` calls this process
_STANDBY_NICE = 10


def main() -> None:
    """Serve until SIGTERM; requests that are in flight then finish first."""
    parser = argparse.ArgumentParser(prog="python -m rrrserve.worker")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--index", type=int, default=1, help="number of this worker, from 1")
    parser.add_argument(
        "--config", type=Path, required=True, help="the service's settings, as the supervisor wrote them"
    )
    parser.add_argument("--standby", action="store_true", help="get ready, and serve when a byte comes on stdin")
    arguments = parser.parse_args()

    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    if (folder := multiprocess.folder_in_use()) is not None:
        multiprocess.adopt(folder, arguments.index)
    server = (_stand_by if arguments.standby else _prepare)(arguments)
    gc.freeze()  # what is there now stays: the collector need not look through it again, which takes 0.1 s each time
    server.run(sockets=[socket.socket(fileno=arguments.fd)])


def _prepare(arguments: argparse.Namespace) -> uvicorn.Server:
    """All that takes long and touches nothing outside this process."""
    import uvicorn.lifespan.on
    from bentoml._internal.container import BentoMLContainer
    from bentoml._internal.context import server_context
    from PIL import Image

    from rrrserve.api.routes import Routes
    from rrrserve.config.service_config import ServiceConfig
    from rrrserve.http.server import Server, protocol
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

    server = uvicorn.Config(
        service.to_asgi(),
        http=protocol(config, tls.server_context(config.tls) if config.tls else None),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody asks for the client's address
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=config.grace_seconds,
    )
    server.get_loop_factory()
    return Server(server, routes)


def _stand_by(arguments: argparse.Namespace) -> uvicorn.Server:
    """Prepare, then wait for a byte on standard input; end when the pipe is closed without one."""
    comm = _COMM.read_text().strip()
    _call_this_process(STANDBY_COMM)
    importlib.import_module("numpy")  # starts threads, which keep the priority of who loads it
    # In a thread, whose priority is its own: that of a process cannot be raised again when it is to serve.
    with ThreadPoolExecutor(1, initializer=_give_way) as thread:
        server = thread.submit(_prepare, arguments).result()
    if not os.read(_STDIN, 1):
        sys.exit(0)
    _call_this_process(comm)
    return server


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _STANDBY_NICE)


def _call_this_process(name: str) -> None:
    with contextlib.suppress(OSError):  # read-only, in a sandbox
        _COMM.write_text(name)


if __name__ == "__main__":
    main()
