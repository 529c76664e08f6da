"""The guarded HTTP server with a small application behind it, on real ports, for tests."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import trustme
import uvicorn
from starlette.types import Receive, Scope, Send

from rrrserve.api.endpoint import client_gone, raw_error
from rrrserve.http.connections import Connections, Limits
from rrrserve.http.server import Server, protocol

LIMITS = Limits(
    body_bytes=100_000,
    header_seconds=0.6,
    keep_alive_seconds=1.5,
    linger_seconds=0.5,
    connections=20,
    pipelined=4,
)
GET = b"GET / HTTP/1.1\r\n\r\n"
BIG = 2**26


class Application:
    """Answers with the number of bytes it was sent; /headers with the header it was given; /slow takes its time.

    /big answers with 64 MB; /deaf reads nothing; /some answers with 20 kB; /scope tells who talks to whom.

    Attributes:
        given_up: requests that were cancelled.
        draining: whether the server is about to stop.
    """

    def __init__(self) -> None:
        self.given_up = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        size = 0
        more = scope["path"] != "/deaf"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            more = message["more_body"]
        if scope["path"] == "/slow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.given_up += 1
                return
        known: dict[str, Callable[[], bytes]] = {
            "/big": lambda: bytes(BIG),
            "/some": lambda: bytes(20_000),
            "/headers": lambda: b"\n".join(map(b"=".join, scope["headers"])),
            "/scope": lambda: json.dumps([scope["scheme"], scope["client"], scope["server"]]).encode(),
        }
        body = known.get(scope["path"], lambda: b"%d" % size)()
        headers = [(b"content-length", b"%d" % len(body))]
        with contextlib.suppress(asyncio.CancelledError):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})


def trust_in(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@contextlib.contextmanager
def served(application: Application, connections: Connections, authority: trustme.CA | None = None) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if authority is not None:
        authority.issue_cert("127.0.0.1").configure_cert(context)
    config = uvicorn.Config(
        application,
        http=protocol(connections, render=raw_error, gone=client_gone),
        ssl_context_factory=(lambda *_: context) if authority else None,
        log_config=None,
        ws="none",
        lifespan="off",
    )
    server = Server(config, connections.limits, beat=lambda: application.draining)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http{'s' if authority else ''}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
