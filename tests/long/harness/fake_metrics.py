"""A service's metrics without a service: two models, one of which takes five times as long as the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from rrrserve.metrics.instruments import BUCKETS

RATIO = 5.0


class Fake:
    """A server whose `/metrics` goes on by one block of requests with every scrape.

    Attributes:
        ratio: of the mean times of `slow` and `quick`.
        edit: may change the text; is told the number of the scrape.
    """

    def __init__(self, requests: int, *, seed: int = 0) -> None:
        self.registry = CollectorRegistry()
        self.spent = Histogram(
            "rrr_inference_duration_seconds", "", ["model", "target"], buckets=BUCKETS, registry=self.registry
        )
        self.random = np.random.default_rng(seed)
        self.requests, self.ratio = requests, RATIO
        self.edit: Callable[[int, str], str] = lambda _, text: text
        self.triton = self.prometheus = ""
        self.scrapes = 0
        self.status = 200
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 20  # head and body in one packet: else the body waits 40 ms for the head's acknowledgement

            def do_GET(self) -> None:
                text = fake.triton if self.path == "/metrics/triton" else fake.advance()
                self.send_response(fake.status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(fake.prometheus.encode())))
                self.end_headers()
                self.wfile.write(fake.prometheus.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def advance(self) -> str:
        """The text after another block."""
        speed = self.random.lognormal(0, 0.1)
        for model, mean in (("quick", 0.01), ("slow", 0.01 * self.ratio)):
            child = self.spent.labels(model, "any")
            for seconds in mean * speed * self.random.lognormal(-0.02, 0.2, self.requests):
                child.observe(seconds)
        self.scrapes += 1
        return self.edit(self.scrapes, generate_latest(self.registry).decode())


@contextmanager
def serving_metrics() -> Iterator[Fake]:
    """One that answers while the body of the `with` statement runs."""
    server = Fake(100)
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
