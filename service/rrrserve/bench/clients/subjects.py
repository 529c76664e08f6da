"""What is measured: a model at a level, and how to reach it."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from rrrbuild.cascade_runner import AUTO
from rrrnet import sealed
from rrrnet.errors import CheckFailedError, UsageError
from rrrserve.bench.clients import images
from rrrserve.bench.clients.client import Client
from rrrserve.bench.clients.engine_client import EngineClient
from rrrserve.bench.clients.http_client import HttpClient
from rrrserve.net import tls
from rrrserve.net.addresses import check_url

EFFORT_HEADER = "X-RRR-Effort"
DEFAULT_TIMEOUT_SECONDS = 10.0
_ASK_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class SendOptions:
    """How requests are sent.

    Attributes:
        timeout_seconds: without an answer by then a request has failed; the server is told (not an engine).
        keep_alive: whether HTTP connections are used again.
        headers: further HTTP headers.
        batch: images in a request, where the level has batches.
        threads: CPU threads of an engine; None leaves the choice to the runtime.
        trust: for https; None for the certificates that this machine trusts.
        effort: how many members of a cascade are asked; None leaves it to each level, which means `auto`.
    """

    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    keep_alive: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    batch: int = 1
    threads: int | None = None
    trust: ssl.SSLContext | None = None
    effort: str | None = None


@dataclass(frozen=True)
class Subject:
    """A model at a level.

    Attributes:
        model: its name.
        level: `http`, `triton` or `engine`.
        target: of its engine; None where Triton does not tell.
        members: of the ensemble; None where Triton does not tell.
        where: the address or folder.
        batch: images in a request.
        connect: makes a client of it.
        connect_to_answerer: makes a client that sends the same to the address of an answerer (`rrrserve.bench.limit`).
        repository: short digest of what the service serves; None at other levels, or where it does not tell.
        engine_sha256: of the engine's manifest, which seals its files; None at other levels.
        effort: that is asked for; None where none was named.
    """

    model: str
    level: str
    target: str | None
    members: int | None
    where: str
    batch: int
    connect: Callable[[], Client]
    connect_to_answerer: Callable[[str], Client]
    repository: str | None = None
    engine_sha256: str | None = None
    effort: str | None = None

    def __str__(self) -> str:
        return f"{self.model} ({self.level})"

    def to_json(self) -> dict[str, Any]:
        """The keys that tell a subject in a result."""
        names = ("model", "level", "target", "members", "where", "batch", "repository", "engine_sha256", "effort")
        return {name: getattr(self, name) for name in names}


def http_subjects(url: str, models: Sequence[str], bodies: Sequence[bytes], options: SendOptions) -> list[Subject]:
    """Models of a running `rrr serve`.

    Args:
        url: such as `http://127.0.0.1:3000`.
        models: names; all that the service lists if empty.
        bodies: encoded images.
        options: how.

    Raises:
        UsageError: an address that is neither http nor https, a model that the service does not have, or a batch.
        CheckFailedError: nobody answers there, or not an rrr service.
    """
    if options.batch != 1:
        raise UsageError(f"--batch is {options.batch}: over HTTP a request carries one image; use --triton or --engine")
    listed, repository = _listed(url, options)
    for name in models:
        if name not in listed:
            raise UsageError(f"--model is {name!r}: {url} has {', '.join(listed) or 'no model'}")
    headers = {"X-Request-Timeout-Ms": str(max(1, int(1000 * options.timeout_seconds))), **options.headers}
    if options.effort is not None:
        headers[EFFORT_HEADER] = options.effort

    def subject(name: str) -> Subject:
        path = f"/v1/models/{name}/predict"

        def connect_to(base: str) -> Client:
            return HttpClient(
                base + path,
                bodies,
                timeout_seconds=options.timeout_seconds,
                headers=headers,
                keep_alive=options.keep_alive,
                trust=options.trust,
            )

        base = url.rstrip("/")
        row = listed[name]
        return Subject(
            name,
            "http",
            row.target,
            row.members,
            base + path,
            1,
            lambda: connect_to(base),
            lambda address: connect_to(f"http://{address}"),
            repository=repository,
            effort=options.effort,
        )

    return [subject(name) for name in dict.fromkeys(models or listed)]


def repository_now(url: str, options: SendOptions) -> str | None:
    """Short digest of what a service serves; None if it does not tell."""
    try:
        return _listed(url, options)[1]
    except CheckFailedError:
        return None


class _Row(NamedTuple):
    """What /v1/models tells of a model."""

    target: str
    members: int


def _listed(url: str, options: SendOptions) -> tuple[dict[str, _Row], str | None]:
    """The rows of /v1/models by name, and the repository that they are of."""
    check_url("--url", url)
    parts = httpx.URL(url)
    if parts.path.strip("/") or parts.query:
        raise UsageError(f"--url is {url!r}: expected http://HOST:PORT or https://HOST:PORT")
    try:
        answer = httpx.get(
            f"{url.rstrip('/')}/v1/models",
            headers=options.headers,
            timeout=_ASK_TIMEOUT_SECONDS,
            trust_env=False,
            verify=options.trust or True,
        )
        document = answer.raise_for_status().json()
        rows = {str(row["name"]): _Row(str(row["target"]), int(row["members"])) for row in document["models"]}
        repository = document.get("repository")
        return rows, None if repository is None else str(repository)
    except httpx.RequestError as error:
        if reason := tls.failure(error):
            raise CheckFailedError(f"no answer from {url}: {reason}") from error
        raise CheckFailedError(
            f"no answer from {url} ({error}): start the service with rrr serve, or name another --url"
        ) from error
    except httpx.HTTPStatusError as error:
        advice = "--token-file FILE or RRR_TOKEN gives its token" if error.response.status_code == 401 else "is it one?"
        raise CheckFailedError(f"{url}/v1/models answered HTTP {error.response.status_code}: {advice}") from error
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise CheckFailedError(f"{url}/v1/models gave no list of models: is this an rrr service?") from error


def triton_subjects(
    address: str, models: Sequence[str], bodies: Sequence[bytes], options: SendOptions
) -> list[Subject]:
    """Models of a running Triton; what they take is asked of it.

    Args:
        address: HOST:PORT of its gRPC.
        models: names.
        bodies: encoded images, decoded and resized before the run.
        options: how.

    Raises:
        UsageError: no name, no such model, or one that cannot be asked about so many images.
        CheckFailedError: nobody answers there.
    """
    from rrrserve.bench.clients.grpc_client import GrpcClient, TritonModel, model_of, request_message, try_once

    def subject(model: TritonModel) -> Subject:
        arrays = images.batches(bodies, model.dims, options.batch)
        messages = [request_message(model, array.tobytes(), options.batch, options.effort) for array in arrays]
        try_once(address, messages[0], model.name)

        def connect_to(place: str) -> Client:
            timeout_seconds, effort = options.timeout_seconds, options.effort
            return GrpcClient(place, messages, timeout_seconds=timeout_seconds, effort=effort, members=model.members)

        return Subject(
            model.name,
            "triton",
            None,
            model.members,
            address,
            options.batch,
            lambda: connect_to(address),
            connect_to,
            effort=options.effort,
        )

    if not models:
        raise UsageError("--triton needs --model: the names of the models to ask")
    return [subject(model_of(address, name)) for name in dict.fromkeys(models)]


def engine_subjects(paths: Sequence[Path], bodies: Sequence[bytes], options: SendOptions) -> list[Subject]:
    """Engines, loaded into this process.

    Args:
        paths: folders that rrr build wrote.
        bodies: encoded images, decoded and resized before the run.
        options: how.

    Raises:
        UsageError: a batch that an engine was not built for.
        ArtifactError: a folder that is no engine, or a damaged one.
        IncompatibleError: one that cannot run here.
    """
    from rrrbuild.engine import load_engine
    from rrrbuild.manifest import MANIFEST

    def subject(path: Path) -> Subject:
        engine = load_engine(path, threads=options.threads)
        manifest = engine.manifest
        if options.batch > manifest.batch.max:
            raise UsageError(f"--batch is {options.batch}: {path} takes at most {manifest.batch.max}")
        size = manifest.preprocess.size
        arrays = images.batches(bodies, (size, size, 3), options.batch)
        effort = options.effort or AUTO
        told = None if manifest.cascade is None else effort
        return Subject(
            manifest.name,
            "engine",
            manifest.target,
            manifest.architecture.members,
            str(path),
            options.batch,
            lambda: EngineClient(partial(engine, effort=effort), arrays, effort=told),
            lambda _: EngineClient(np.shape, arrays),
            engine_sha256=sealed.sha256_of(path / MANIFEST),
            effort=options.effort,
        )

    return [subject(path) for path in paths]
