"""Everything that can be set of the service: one frozen object, made once from flags and environment.

`rrr serve` makes it, and hands it to its HTTP workers as one file in the service's private folder; `bentoml serve`
makes it from the environment alone.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field

from rrrbuild.repository_document import DEFAULT_REPOSITORY
from rrrnet.errors import UsageError
from rrrnet.files import write_atomically
from rrrnet.images.preprocess import MAX_PIXELS
from rrrnet.processor import cores
from rrrserve.config.routes import DEFAULT, Route, routes_of
from rrrserve.net.addresses import origins_of, root_path_of
from rrrserve.net.targets import target_of
from rrrserve.net.tls import TlsFiles
from rrrserve.net.tokens import digests_of, tokens_of
from rrrserve.process.logs import Format, check_format
from rrrserve.process.restarts import DEFAULT_RESTARTS

_NOT_VARIABLES = {
    *("workers", "start_timeout_seconds", "grace_seconds", "drain_seconds", "most_restarts"),
    *("tls", "token_digests", "private_folder", "grpc_address", "page"),
}
_LONGEST_MS = 3_600_000


def default_workers() -> int:
    """Two, of which one answers while the other is replaced; on one core they would only take turns."""
    return min(2, cores())


class ServiceConfig(BaseModel):
    """What can be set. A name in capitals behind RRR_ is its environment variable, where it has one.

    Attributes:
        repository: the Triton model repository [variable].
        triton_url: target of the gRPC of a running Triton, or of several (see `rrrserve.net.targets`); None starts our
            own [variable, with spaces between several HOST:PORT].
        triton_metrics_url: URL of Triton's metrics, for GET /metrics/triton [variable].
        default_model: the model that /v1/predict asks; None is the repository's first [variable].
        request_timeout_ms: deadline of a request that names none [variable].
        max_request_timeout_ms: the longest deadline a client may ask for [variable].
        max_body_bytes: largest request body [variable].
        max_pixels: largest width x height of an image [variable].
        max_batch_images: most images in one predict_batch request [variable].
        decode_threads: images decoded at the same time [variable].
        decode_memory_bytes: what the images that are being decoded may take together [variable].
        body_memory_bytes: what bodies that were received may take together [variable].
        route: named routes, each as `Route.text` writes it [variable, with spaces between them].
        shadow: a model that is asked beside the one that /v1/predict asks, to compare them; None: none [variable].
        shed: whether a cascade's first members answer alone under load, before requests are refused [variable].
        quorum: least members in an answer at its deadline; None: half of them, or the first of a cascade [variable].
        abstain_above: entropy in nats above which an answer says that it is unsure [variable].
        keep_unsure: a folder for images of which the answer is unsure; None keeps none [variable].
        max_in_flight: images being worked on at the same time; None leaves it to the models [variable].
        max_connections: open connections of one HTTP worker [variable].
        header_timeout_ms: from a request's first byte to the end of its header [variable].
        keep_alive_ms: a connection without a request is closed after so long [variable].
        cors: origins whose pages may ask, as browsers name them, or `*` [variable, with spaces between them].
        root_path: what a proxy puts before our paths, whether or not it takes it away again [variable].
        log_format: one line an event, as text or JSON [variable].
        access_log: whether each request is logged [variable].
        workers: HTTP worker processes.
        start_timeout_seconds: how long models may take to answer for the first time.
        grace_seconds: how long requests in flight may take after SIGTERM.
        drain_seconds: how long requests are still taken after SIGTERM, while /readyz says that it is not ready.
        most_restarts: how often Triton, or a worker, is started again within two minutes.
        tls: the HTTP port's certificate and key; None for plain HTTP.
        token_digests: of the bearer tokens, one of which a client must send (RRR_TOKEN or RRR_TOKEN_FILE); none: all
            are answered. The tokens themselves are kept nowhere.
        grpc_address: HOST:PORT that each worker's gRPC listens at; None for no gRPC.
        page: whether / is the page for people; `rrr serve` says so, and under `bentoml serve` it is Swagger UI.
        private_folder: where the supervisor of `rrr serve` tells its workers what they share; None without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: Path = DEFAULT_REPOSITORY
    triton_url: str | None = None
    triton_metrics_url: str | None = None
    default_model: str | None = None
    request_timeout_ms: int = Field(default=10_000, ge=1, le=_LONGEST_MS)
    max_request_timeout_ms: int = Field(default=60_000, ge=1, le=_LONGEST_MS)
    max_body_bytes: int = Field(default=10 * 2**20, ge=1024, le=2**30)
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=2**28)
    max_batch_images: int = Field(default=32, ge=1, le=1024)
    decode_threads: int = Field(default_factory=lambda: max(2, cores()), ge=1, le=64)
    decode_memory_bytes: int = Field(default=192 * 2**20, ge=2**20, le=2**40)
    body_memory_bytes: int = Field(default=64 * 2**20, ge=2**20, le=2**40)
    route: tuple[str, ...] = ()
    shadow: str | None = None
    shed: bool = True
    quorum: int | None = Field(default=None, ge=1, le=1024)
    abstain_above: float | None = None
    keep_unsure: Path | None = None
    max_in_flight: int | None = Field(default=None, ge=1, le=2**20)
    max_connections: int = Field(default=4096, ge=1, le=2**20)
    header_timeout_ms: int = Field(default=8_000, ge=1, le=_LONGEST_MS)
    keep_alive_ms: int = Field(default=75_000, ge=1, le=_LONGEST_MS)
    cors: tuple[str, ...] = ()
    root_path: str = ""
    log_format: Format = "text"
    access_log: bool = False
    workers: int = Field(default_factory=default_workers, ge=1, le=64)
    start_timeout_seconds: int = Field(default=120, ge=1)
    grace_seconds: int = Field(default=30, ge=0)
    drain_seconds: float = Field(default=1.0, ge=0, le=600)
    most_restarts: int = Field(default=DEFAULT_RESTARTS, ge=0, le=1000)
    tls: TlsFiles | None = None
    token_digests: tuple[str, ...] = Field(default=(), repr=False)
    grpc_address: str | None = None
    page: bool = False
    private_folder: Path | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **flags: Any) -> Self:
        """What the flags say and, where there is none, the RRR_ variables.

        Raises:
            UsageError: a variable has a value that is not allowed; names it.
        """
        values: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            text = environ.get(variable := f"RRR_{name.upper()}", "")
            if text and name not in _NOT_VARIABLES:
                bounds = [bound for bound in field.metadata if isinstance(bound, Ge | Le)]
                values[name] = _whole_number(text, variable, bounds) if bounds else text
        values["access_log"] = values.get("access_log") == "1"
        values["shed"] = values.get("shed", "1") == "1"
        values |= flags
        values["cors"] = origins_of("--cors (RRR_CORS)", _words(values.get("cors")))
        urls = list(_words(values.get("triton_url")))
        option = "RRR_TRITON_URL" if environ.get("RRR_TRITON_URL", "").split() == urls else "--triton-url"
        values["triton_url"] = target_of(option, urls) if urls else None
        routes = routes_of(_words(values.get("route")))
        values["route"] = tuple(route.text() for route in routes)
        for route in routes:
            if route.name == DEFAULT:
                values["default_model"] = _first_of(route, values.get("default_model"))
        values["root_path"] = root_path_of("--root-path (RRR_ROOT_PATH)", values.get("root_path") or "")
        if values.get("abstain_above") is not None:
            values["abstain_above"] = _nats(values["abstain_above"])
        check_format(values.get("log_format", "text"))
        values.setdefault("token_digests", digests_of(tokens_of(environ)))
        config = cls(**values)
        for small, large, message in (
            ("request_timeout_ms", "max_request_timeout_ms", "{0}, more than {1}: lower the first or raise the second"),
            ("max_body_bytes", "body_memory_bytes", "{1}, less than {0}: raise the first or lower the second"),
        ):
            if getattr(config, small) > getattr(config, large):
                raise UsageError(message.format(*(f"RRR_{n.upper()} ({getattr(config, n)})" for n in (small, large))))
        if config.keep_unsure is not None:
            _prepare(config.keep_unsure)
        return config

    @property
    def routes(self) -> tuple[Route, ...]:
        """What `route` says."""
        return routes_of(self.route)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        """For the workers, in a folder that only this user can enter."""
        write_atomically(path, self.model_dump_json().encode())


def _words(given: str | Sequence[str] | None) -> Sequence[str]:
    """What a flag that may be given several times has, or its variable, with spaces in between."""
    return given.split() if isinstance(given, str) else given or ()


def _first_of(route: Route, default: str | None) -> str:
    """The default model where /v1/predict asks a route: what is told of one model is told of the first."""
    if default is not None:
        raise UsageError(
            f"--default (RRR_DEFAULT_MODEL) is {default!r}, and --route {route.name} says which models /v1/predict "
            "asks: leave one of them out"
        )
    return next(iter(route.weights))


def _prepare(folder: Path) -> None:
    """Make the folder for unsure images, for this user only; what people sent lies there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UsageError(
            f"--keep-unsure (RRR_KEEP_UNSURE) {folder}: nothing can be written there ({error.strerror}); name a folder "
            "that this user may write to"
        ) from error


def _nats(value: str | float) -> float:
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise UsageError(f"--abstain-above (RRR_ABSTAIN_ABOVE) is {value!r}: expected an entropy in nats, 0 or more")
    return found


def _whole_number(text: str, variable: str, bounds: list[Ge | Le]) -> int:
    low, high = (next(int(str(getattr(bound, key))) for bound in bounds if hasattr(bound, key)) for key in ("ge", "le"))
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise UsageError(f"{variable} is {text!r}: expected a whole number from {low} to {high}")
    return int(text)
