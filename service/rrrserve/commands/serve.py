"""`rrr serve`: a repository behind HTTP, with its own Triton unless one is given."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rrrnet import tables
from rrrnet.output import LINE_EVERY_SECONDS, messages, next_step, say
from rrrserve.process import logs
from rrrserve.process.restarts import DEFAULT_RESTARTS

if TYPE_CHECKING:
    from rrrserve.config.service_config import ServiceConfig


def serve(
    repository: Annotated[
        Path, typer.Argument(envvar="RRR_REPOSITORY", help="a repository made by rrr repository")
    ] = Path("artifacts/repository"),
    port: Annotated[int, typer.Option(help="TCP port, 1024 to 65535; 0 takes any free one")] = 3000,
    host: Annotated[str, typer.Option(help="IP address to listen at; 0.0.0.0 for all")] = "127.0.0.1",
    grpc_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="TCP port of KServe v2's gRPC, 0 takes any free one (else there is none)"),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="TCP port for the metrics alone, in plain HTTP, without a token; 0: any free one"
        ),
    ] = None,
    triton_url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="RRR_TRITON_URL",
            help="gRPC of a Triton that runs already; several times, or dns:///NAME:PORT: of several, which take turns",
        ),
    ] = None,
    default: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", envvar="RRR_DEFAULT_MODEL", help="the model that /v1/predict asks (else the first)"
        ),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODEL:WEIGHT,...",
            envvar="RRR_ROUTE",
            help="divide requests to NAME among models; default is what /v1/predict asks; may be given several times",
        ),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            envvar="RRR_SHADOW",
            help="ask this model too about what /v1/predict answered, between requests, and compare in metrics",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="HTTP worker processes", show_default="2, on one core 1")
    ] = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="IMAGES",
            envvar="RRR_MAX_IN_FLIGHT",
            help="images being worked on at the same time (else twice the largest batch, at least 64)",
        ),
    ] = None,
    start_timeout: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="how long loading the models may take")
    ] = 120,
    grace: Annotated[
        int, typer.Option(min=0, metavar="SECONDS", help="how long requests in flight may take when stopping")
    ] = 30,
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            max=600,
            metavar="SECONDS",
            help="how long requests are still taken when stopping, while /readyz is 503 already",
        ),
    ] = 1.0,
    restarts: Annotated[
        int,
        typer.Option(min=0, max=1000, metavar="N", help="how often in two minutes a part that dies is started again"),
    ] = DEFAULT_RESTARTS,
    shed: Annotated[
        bool,
        typer.Option(
            "--shed/--no-shed",
            envvar="RRR_SHED",
            help="under load let a cascade's first members answer alone before requests are refused",
        ),
    ] = True,
    quorum: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            envvar="RRR_QUORUM",
            help="least members in an answer when the deadline comes before all have answered",
            show_default="half, or a cascade's first",
        ),
    ] = None,
    abstain_above: Annotated[
        float | None,
        typer.Option(metavar="NATS", envvar="RRR_ABSTAIN_ABOVE", help="answers of higher entropy are marked unsure"),
    ] = None,
    keep_unsure: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="RRR_KEEP_UNSURE", help="keep unsure images there, 1000 at most"),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="RRR_TOKEN_FILE",
            help="bearer tokens, one a line; clients must send one of them (else RRR_TOKEN holds one)",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="RRR_TLS_CERT", help="PEM certificate chain: serve HTTPS")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="RRR_TLS_KEY", help="PEM private key of --tls-cert")
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            envvar="RRR_CORS",
            help="let pages of this origin ask, https://HOST or * for any; may be given several times",
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="/PATH", envvar="RRR_ROOT_PATH", help="what a proxy puts before the paths")
    ] = "",
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="the page for people at /; without it Swagger UI is there")
    ] = True,
    log_format: Annotated[
        str, typer.Option(metavar="text|json", envvar="RRR_LOG_FORMAT", help="one line an event, either way")
    ] = "text",
    access_log: Annotated[
        bool, typer.Option("--access-log", envvar="RRR_ACCESS_LOG", help="log each request (never its content)")
    ] = False,
) -> None:
    """Serve a repository over HTTP (BentoML in front of Triton); SIGTERM or Ctrl-C stops it cleanly."""
    # Until the supervisor's own handlers are there: nothing runs yet that must be ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    from rrrserve.config.service_config import ServiceConfig, default_workers
    from rrrserve.net.listener import address_of, check_apart, listen, reserve
    from rrrserve.net.tls import files_of
    from rrrserve.net.tokens import digests_of, tokens_of
    from rrrserve.process.environment import variables
    from rrrserve.process.hardening import harden
    from rrrserve.process.scratch import temporary_folder
    from rrrserve.supervise.front_door import failures_in_log, warn_of_what_is_open

    harden()
    logs.configure(log_format)
    with failures_in_log(log_format):
        config = ServiceConfig.from_environment(
            variables(),
            repository=repository,
            triton_url=triton_url,
            default_model=default,
            route=route or (),
            shadow=shadow,
            workers=workers or default_workers(),
            max_in_flight=max_in_flight,
            shed=shed,
            quorum=quorum,
            abstain_above=abstain_above,
            keep_unsure=keep_unsure,
            start_timeout_seconds=start_timeout,
            grace_seconds=grace,
            drain_seconds=drain,
            most_restarts=restarts,
            token_digests=digests_of(tokens_of(variables(), token_file)),
            tls=files_of(tls_cert, tls_key),
            cors=cors or (),
            root_path=root_path,
            log_format=log_format,
            access_log=access_log,
            page=page,
        )
        check_apart({"--port": port, "--grpc-port": grpc_port, "--metrics-port": metrics_port})
        temporary_folder()
        with (
            listen(host, port) as listener,
            nullcontext() if metrics_port is None else listen(host, metrics_port, "--metrics-port") as metrics,
            nullcontext() if grpc_port is None else reserve(host, grpc_port) as held,
        ):
            if held is not None:
                config = config.model_copy(update={"grpc_address": address_of(held)})
            warn_of_what_is_open(host, config, token_file)
            _serve(config, listener, metrics, token_file)


def _serve(
    config: "ServiceConfig", listener: socket.socket, metrics: socket.socket | None, token_file: Path | None
) -> None:
    from rrrbuild.repository_document import Repository, read_repository
    from rrrserve.config.routes import DEFAULT
    from rrrserve.net.listener import url_of
    from rrrserve.net.targets import in_words
    from rrrserve.stamps.travelling import served_claims
    from rrrserve.supervise.supervisor import Supervisor
    from rrrserve.versions.catalogue import asked_by_default

    repository: Repository = read_repository(config.repository)
    chosen = asked_by_default(repository, config)
    unnamed = next((list(route.weights) for route in config.routes if route.name == DEFAULT), [chosen.name])
    metrics_url = None if metrics is None else f"{url_of(metrics)}/metrics"
    own, workers = "" if config.triton_url else "Triton and ", config.workers
    in_json = config.log_format == "json"
    told: Callable[[str], None] = logs.tell if in_json else say
    told(f"starting {own}{workers} HTTP worker{'s' * (workers > 1)} for {config.repository}")

    async def main() -> None:
        supervisor = Supervisor(repository, listener, config, metrics)
        waiting = asyncio.create_task(_say_that_it_starts(told))

        def announce() -> None:
            waiting.cancel()
            if in_json:
                others = {"grpc": config.grpc_address, "metrics": metrics_url}
                told_too = {name: address for name, address in others.items() if address}
                logs.tell("ready", url=supervisor.url, models=[model.name for model in repository.models], **told_too)
            else:
                _announce(supervisor.url, repository, unnamed, _triton_line(supervisor))

        try:
            await supervisor.run(announce)
        finally:
            waiting.cancel()

    def _triton_line(supervisor: Supervisor) -> str:
        if supervisor.triton is None:
            return in_words(config.triton_url or "")
        return f"Triton at {supervisor.triton.url}, its metrics at {supervisor.triton.metrics_url}"

    def _announce(url: str, repository: Repository, unnamed: Collection[str], triton: str) -> None:
        table = Table("model", "target", "backend", "members", "image", "route")
        for model in repository.models:
            path = "/v1/predict" if model.name in unnamed else f"/v1/models/{model.name}/predict"
            size = f"{model.image_size} x {model.image_size}"
            table.add_row(escape(model.name), model.target, model.backend, str(model.members), size, path)
        tables.print_table(table, to=messages)
        for model in repository.models:
            for claim in served_claims(repository, model):
                say(f"{model.name}: {claim.line()}")
        say(triton)
        say(f"KServe v2 at {url}/v2{f', its gRPC at {config.grpc_address}' if config.grpc_address else ''}")
        if metrics_url:
            say(f"metrics at {metrics_url}, without a token")
        if config.page:
            say(f"page: {url}/")
        for route in config.routes:
            say(f"route {route.name}: {route.told()}")
        say(f"ready: {url}    stop: Ctrl-C")
        next_step(*_asking(url, config, token_file), to=messages)

    asyncio.run(main())
    told("stopped")


def _asking(url: str, config: "ServiceConfig", token_file: Path | None) -> list[object]:
    """Words of the command that asks it: curl, or rrr predict, which keeps a token out of the list of processes."""
    certificate = [] if config.tls is None else [config.tls.certificate]
    if config.token_digests:
        token = [] if token_file is None else ["--token-file", token_file]
        return ["rrr", "predict", "IMAGE", "--url", url, *token, *(["--ca", *certificate] if certificate else [])]
    return ["curl", *(["--cacert", *certificate] if certificate else []), "-T", "IMAGE", f"{url}/v1/predict"]


async def _say_that_it_starts(told: Callable[[str], None]) -> None:
    """A line every 30 s, until cancelled: large models take minutes to load."""
    seconds = 0.0
    while True:
        await asyncio.sleep(LINE_EVERY_SECONDS)
        seconds += LINE_EVERY_SECONDS
        told(f"starting ... {seconds:.0f} s")
