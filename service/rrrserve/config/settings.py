"""Settings of the service, read once from environment variables and validated.

`rrr serve` sets them for its HTTP workers from its own flags; a built Bento takes them from its environment.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rrrnet.errors import UsageError
from rrrnet.preprocess import MAX_PIXELS

DEFAULT_REPOSITORY = Path("artifacts/repository")


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Settings:
    """What can be set, with its environment variable in brackets.

    Attributes:
        repository: the Triton model repository [RRR_REPOSITORY].
        triton_url: HOST:PORT of a running Triton's gRPC; None starts our own [RRR_TRITON_URL].
        triton_metrics_url: URL of Triton's metrics, for GET /metrics/triton [RRR_TRITON_METRICS_URL].
        default_model: the model that /v1/predict asks; None is the repository's first [RRR_DEFAULT_MODEL].
        request_timeout_ms: deadline of a request that names none [RRR_REQUEST_TIMEOUT_MS].
        max_request_timeout_ms: the longest deadline a client may ask for [RRR_MAX_REQUEST_TIMEOUT_MS].
        max_body_bytes: largest request body [RRR_MAX_BODY_BYTES].
        max_pixels: largest width x height of an image [RRR_MAX_PIXELS].
        max_batch_images: most images in one predict_batch request [RRR_MAX_BATCH_IMAGES].
        decode_threads: images decoded at the same time [RRR_DECODE_THREADS].
        decode_memory_bytes: what the images that are being decoded may take together [RRR_DECODE_MEMORY_BYTES].
        body_memory_bytes: what bodies that were received may take together [RRR_BODY_MEMORY_BYTES].
        max_in_flight: images being worked on at the same time; None leaves it to the models [RRR_MAX_IN_FLIGHT].
        max_connections: open connections of one HTTP worker [RRR_MAX_CONNECTIONS].
        header_timeout_ms: from a request's first byte to the end of its header [RRR_HEADER_TIMEOUT_MS].
        keep_alive_ms: a connection without a request is closed after so long [RRR_KEEP_ALIVE_MS].
    """

    repository: Path = DEFAULT_REPOSITORY
    triton_url: str | None = None
    triton_metrics_url: str | None = None
    default_model: str | None = None
    request_timeout_ms: int = 10_000
    max_request_timeout_ms: int = 60_000
    max_body_bytes: int = 10 * 2**20
    max_pixels: int = MAX_PIXELS
    max_batch_images: int = 32
    decode_threads: int = 2
    decode_memory_bytes: int = 192 * 2**20
    body_memory_bytes: int = 64 * 2**20
    max_in_flight: int | None = None
    max_connections: int = 4096
    header_timeout_ms: int = 8_000
    keep_alive_ms: int = 75_000

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the RRR_ variables.

        Raises:
            UsageError: a variable has a value that is not allowed; names it.
        """
        settings = cls(
            repository=Path(environ.get("RRR_REPOSITORY") or DEFAULT_REPOSITORY),
            triton_url=environ.get("RRR_TRITON_URL") or None,
            triton_metrics_url=environ.get("RRR_TRITON_METRICS_URL") or None,
            default_model=environ.get("RRR_DEFAULT_MODEL") or None,
            request_timeout_ms=_integer(environ, "RRR_REQUEST_TIMEOUT_MS", cls.request_timeout_ms, 1, 3_600_000),
            max_request_timeout_ms=_integer(
                environ, "RRR_MAX_REQUEST_TIMEOUT_MS", cls.max_request_timeout_ms, 1, 3_600_000
            ),
            max_body_bytes=_integer(environ, "RRR_MAX_BODY_BYTES", cls.max_body_bytes, 1024, 2**30),
            max_pixels=_integer(environ, "RRR_MAX_PIXELS", cls.max_pixels, 1, 2**28),
            max_batch_images=_integer(environ, "RRR_MAX_BATCH_IMAGES", cls.max_batch_images, 1, 1024),
            decode_threads=_integer(environ, "RRR_DECODE_THREADS", max(2, available_cores()), 1, 64),
            decode_memory_bytes=_integer(environ, "RRR_DECODE_MEMORY_BYTES", cls.decode_memory_bytes, 2**20, 2**40),
            body_memory_bytes=_integer(environ, "RRR_BODY_MEMORY_BYTES", cls.body_memory_bytes, 2**20, 2**40),
            max_in_flight=_integer(environ, "RRR_MAX_IN_FLIGHT", 0, 1, 2**20) or None,
            max_connections=_integer(environ, "RRR_MAX_CONNECTIONS", cls.max_connections, 1, 2**20),
            header_timeout_ms=_integer(environ, "RRR_HEADER_TIMEOUT_MS", cls.header_timeout_ms, 1, 3_600_000),
            keep_alive_ms=_integer(environ, "RRR_KEEP_ALIVE_MS", cls.keep_alive_ms, 1, 3_600_000),
        )
        if settings.request_timeout_ms > settings.max_request_timeout_ms:
            raise UsageError(
                f"RRR_REQUEST_TIMEOUT_MS is {settings.request_timeout_ms}, more than RRR_MAX_REQUEST_TIMEOUT_MS, "
                f"{settings.max_request_timeout_ms}: lower the first or raise the second"
            )
        if settings.body_memory_bytes < settings.max_body_bytes:
            raise UsageError(
                f"RRR_BODY_MEMORY_BYTES is {settings.body_memory_bytes}, less than RRR_MAX_BODY_BYTES, "
                f"{settings.max_body_bytes}: raise the first or lower the second"
            )
        if settings.triton_url is not None:
            check_address(settings.triton_url, "RRR_TRITON_URL")
        return settings


def check_address(address: str, name: str) -> None:
    """Check that `address` is HOST:PORT.

    Raises:
        UsageError: it is not; names the setting or flag `name`.
    """
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535) or "/" in host:
        raise UsageError(f"{name} is {address!r}: expected HOST:PORT of Triton's gRPC, such as 127.0.0.1:8001")


def _integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise UsageError(f"{name} is {text!r}: expected a whole number from {low} to {high}")
    return int(text)
