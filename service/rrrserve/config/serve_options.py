"""How to serve: what the flags of `rrr serve` say."""

from dataclasses import dataclass

from rrrserve.net.tls import TlsFiles
from rrrserve.process.restarts import DEFAULT_RESTARTS


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        triton_url: HOST:PORT of a Triton that runs elsewhere; None starts one.
        default_model: the model that /v1/predict asks; None is the first.
        workers: HTTP worker processes.
        start_timeout_seconds: how long models may take to answer for the first time.
        grace_seconds: how long requests in flight may take after SIGTERM.
        drain_seconds: how long requests are still taken after SIGTERM, while /readyz says that it is not ready.
        most_restarts: how often Triton, or a worker, is started again within two minutes.
        tls: the HTTP port's certificate and key; None for plain HTTP.
    """

    triton_url: str | None = None
    default_model: str | None = None
    workers: int = 2
    start_timeout_seconds: int = 120
    grace_seconds: int = 30
    drain_seconds: float = 1.0
    most_restarts: int = DEFAULT_RESTARTS
    tls: TlsFiles | None = None
