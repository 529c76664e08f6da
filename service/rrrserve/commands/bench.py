"""`rrr bench`: latency and throughput of engines, of Triton and of the HTTP service, under a load of one's choice."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rrrnet import output, tables
from rrrnet.errors import CheckFailedError, UsageError
from rrrnet.files import check_writable, write_atomically
from rrrserve.commands.flags import Authorities, TokenFile
from rrrserve.net.addresses import check_address
from rrrserve.net.tls import client_trust
from rrrserve.net.tokens import client_headers
from rrrserve.process.environment import variables

if TYPE_CHECKING:
    from rrrserve.bench.clients.subjects import SendOptions, Subject
    from rrrserve.bench.plan import BenchPlan

_DEFAULT_URL = "http://127.0.0.1:3000"
_DEFAULT_CONCURRENCY = "1,4,16"
_PLOTS = (".png", ".svg")


def bench(
    url: Annotated[
        str | None,
        typer.Option(help="A running rrr serve.", show_default="port 3000 of this machine where no level is named"),
    ] = None,
    triton: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC of a running Triton.")] = None,
    engine: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="An engine, loaded into this process; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="May be repeated; they take turns.", show_default="all that --url has"),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Closed loop: requests under way.",
            show_default=f"{_DEFAULT_CONCURRENCY} where no load is named",
        ),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="R,R,...", help="Open loop: requests a second, whatever comes back.")
    ] = None,
    arrivals: Annotated[str, typer.Option(help="poisson or constant: the gaps of an open loop.")] = "poisson",
    p99_ms: Annotated[
        float | None, typer.Option("--p99-ms", min=0.001, help="Find the highest rate whose p99 is within this.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.05, max=86400, help="Of each turn.", show_default="2, or none with --requests"),
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Of each turn, at most.")] = None,
    warm_up: Annotated[
        float, typer.Option(min=0.0, max=3600, metavar="SECONDS", help="Before each turn, not counted.")
    ] = 0.5,
    rounds: Annotated[int, typer.Option(min=1, max=10000, help="Turns of each model at each load.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Images in a request (not over HTTP).")] = 1,
    image: Annotated[list[Path] | None, typer.Option(help="An image to send; may be repeated.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Images to send.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A data set, as rrr train takes it, to send images of.")
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(metavar="EFFORT", help="Members asked of a cascade: fast, auto or full.", show_default="auto"),
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="S,S,...", help="Of generated images, pixels a side.")] = "64,224,480",
    formats: Annotated[str, typer.Option(metavar="F,F,...", help="Of generated images.")] = "jpeg,png,webp",
    seed: Annotated[int, typer.Option(min=0, help="Of arrival times and generated images.")] = 0,
    keep_alive: Annotated[bool, typer.Option("--keep-alive/--no-keep-alive", help="Use connections again.")] = True,
    header: Annotated[
        list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="A further HTTP header; may be repeated.")
    ] = None,
    token_file: TokenFile = None,
    ca: Authorities = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=3600, metavar="SECONDS", help="Without an answer a request has failed.")
    ] = 10.0,
    max_in_flight: Annotated[
        int, typer.Option(min=1, max=20000, help="Of an open loop; what is due beyond is counted, not sent.")
    ] = 1000,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads of an engine.", show_default="the runtime's choice")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Keep the result.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="A row for each model and load.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png|svg", help="Percentiles by load, and tails.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Put load on models, in turns, and report throughput and percentiles of latency."""
    from rrrbuild.engine import check_effort
    from rrrserve.bench import runner
    from rrrserve.bench.clients.subjects import SendOptions
    from rrrserve.bench.plan import BenchPlan, Load

    if effort is not None:
        check_effort(effort)
    writers = _writers(out, csv, plot)
    closed = [Load(concurrency=int(value)) for value in _numbers(concurrency, "--concurrency", whole=True)]
    opened = [Load(rate_per_second=value, arrivals=arrivals) for value in _numbers(rate, "--rate", whole=False)]
    if not closed and not opened and p99_ms is None:
        closed = [Load(concurrency=int(value)) for value in _DEFAULT_CONCURRENCY.split(",")]
    plan = BenchPlan(
        loads=(*closed, *opened),
        rounds=rounds,
        seconds=2.0 if seconds is None and requests is None else seconds,
        requests=requests,
        warm_up_seconds=warm_up,
        seed=seed,
        max_in_flight=max_in_flight,
        p99_ms=p99_ms,
        arrivals=arrivals,
    )
    options = SendOptions(
        timeout,
        keep_alive,
        client_headers(variables(), token_file) | _headers(header or []),
        batch,
        threads,
        client_trust(ca),
        effort,
    )
    given = bool(image or images or data)
    bodies = _bodies(image or [], images, data, engine or [], sizes, formats, seed)
    if url is None and triton is None and not engine:
        url = _DEFAULT_URL
    subjects = _subjects(url, triton, engine or [], model or [], bodies, options)
    _say_how_long(plan, len(subjects))
    # Each drawing takes the interpreter away from the load for 1 ms: one a second leaves p99 alone.
    with output.progress_bar(refresh_per_second=1) as bar:
        task = bar.add_task("measuring", total=None, text="")
        document = runner.run(
            subjects,
            plan,
            generated_images=not given,
            report=lambda text, done, total: bar.update(task, completed=done, total=total or None, text=escape(text)),
        )
        bar.update(task, text="")
    if url is not None:
        _forget_what_was_reloaded(document, url, options)
    _show(document, as_json=as_json)
    for path, content in writers.items():
        write_atomically(path, content(document))
        output.say(f"written: {path}")
    if document["interrupted"]:
        output.say("interrupted: these are the figures until then")
        raise typer.Exit(130)
    _check(document)
    if not as_json:
        subject = (engine or [Path(subjects[0].model)])[0]
        measured = [] if out is None else ["--bench", out]
        output.next_step("rrr", "report", subject, *measured, "--out", "report.html")


def _numbers(text: str | None, option: str, *, whole: bool) -> list[float]:
    """Distinct positive numbers, ascending.

    Raises:
        UsageError: something else stands there.
    """
    if text is None:
        return []
    try:
        values = {(int if whole else float)(word) for word in text.split(",")}
    except ValueError:
        values = set()
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        kind = "whole numbers" if whole else "numbers"
        raise UsageError(f"{option} is {text!r}: expected {kind} above 0, with commas between them")
    return sorted(values)


def _headers(lines: list[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, separator, value = line.partition(":")
        if not separator or not name.strip() or not line.isascii() or not line.isprintable():
            raise UsageError(f"--header is {line!r}: expected 'NAME: VALUE' in ASCII")
        headers[name.strip().title()] = value.strip()
    return headers


def _bodies(
    image: list[Path], folder: Path | None, data: Path | None, engines: list[Path], sizes: str, formats: str, seed: int
) -> list[bytes]:
    from rrrserve.bench.clients import images

    if data is not None:
        from rrrnet.checkpoint import SPLIT
        from rrrnet.data.dataset import read_split

        if image or folder is not None:
            raise UsageError("--data and --image or --images are both given: leave one of them out")
        splits = [path / SPLIT for path in engines if (path / SPLIT).is_file()]
        seen = {file for split in splits for file, part in read_split(split).items() if part == "train"}
        return images.from_data(data, seed=seed, without=seen)
    if image or folder is not None:
        return images.from_files(image, folder)
    numbers = [int(size) for size in _numbers(sizes, "--sizes", whole=True)]
    return images.generated(numbers, [word.strip().upper() for word in formats.split(",")], seed=seed)


def _subjects(
    url: str | None,
    triton: str | None,
    engines: list[Path],
    models: list[str],
    bodies: list[bytes],
    options: "SendOptions",
) -> "list[Subject]":
    """What is to be measured, level by level."""
    from rrrserve.bench.clients import subjects

    if models and url is None and triton is None:
        raise UsageError("--model names a model of --url or --triton: an engine is named by its folder")
    found = []
    if url is not None:
        found += subjects.http_subjects(url, models, bodies, options)
    if triton is not None:
        check_address(triton, "--triton")
        found += subjects.triton_subjects(triton, models, bodies, options)
    if engines:
        found += subjects.engine_subjects(engines, bodies, options)
    return found


def _forget_what_was_reloaded(document: dict[str, Any], url: str, options: "SendOptions") -> None:
    """Leave the repository of HTTP runs open where the service serves another one by now, and warn."""
    from rrrserve.bench.clients.subjects import repository_now

    now = repository_now(url, options)
    parts = [*document["runs"], *document.get("highest_rate", [])]
    changed = [part for part in parts if part["repository"] not in (None, now)]
    for part in changed:
        part["repository"] = None
    if changed:
        document["client"]["warnings"].append(
            f"{url} does not serve the repository any more that it served in the beginning ({now or 'it tells none'} "
            "now): figures may be of both, and claims judged by them cannot be stamped"
        )


def _writers(out: Path | None, csv: Path | None, plot: Path | None) -> dict[Path, Callable[[dict[str, Any]], bytes]]:
    """What makes each file's content; all is checked before the load begins."""
    from rrrserve.bench.tables import to_csv

    writers: dict[Path, Callable[[dict[str, Any]], bytes]] = {}
    if out is not None:
        check_writable(out, option="--out")
        writers[out] = lambda document: (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
    if csv is not None:
        check_writable(csv, option="--csv")
        writers[csv] = lambda document: to_csv(document).encode()
    if plot is not None:
        from rrrbuild.machine import require

        check_writable(plot, option="--plot")
        if plot.suffix not in _PLOTS:
            raise UsageError(f"--plot is {plot}: expected a name that ends in {' or '.join(_PLOTS)}")
        require("matplotlib", "report")
        from rrrserve.bench.plot import draw

        writers[plot] = lambda document: draw(document, plot.suffix[1:])
    return writers


def _say_how_long(plan: "BenchPlan", subjects: int) -> None:
    if plan.loads and plan.seconds is not None:
        turns = plan.rounds * len(plan.loads) * subjects
        estimate_seconds = turns * (plan.seconds + plan.warm_up_seconds) + 2
        output.say(f"{turns} turns: about {estimate_seconds:.0f} s")


def _show(document: dict[str, Any], *, as_json: bool) -> None:
    from rrrserve.bench.figures import load_text
    from rrrserve.bench.result import early_text
    from rrrserve.bench.tables import rates_table, runs_table

    if as_json:
        output.print_json(document)
    else:
        if document["runs"]:
            tables.print_table(runs_table(document))
        if "highest_rate" in document:
            tables.print_table(rates_table(document))
        client = document["client"]
        if client["limit_requests_per_second"]:
            output.print_line(
                f"The client can do {client['limit_requests_per_second']:.0f} requests a second; it did "
                f"{client['largest_share_of_limit']:.1%} of that at most."
            )
        for run in document["runs"]:
            if (text := early_text(run["answered_by"])) is not None:
                output.print_line(f"{run['model']} ({run['level']}), {load_text(run)}: {text}")
    for warning in document["client"]["warnings"]:
        output.say(f"warning: {warning}")


def _check(document: dict[str, Any]) -> None:
    """Raise CheckFailedError where a load was not answered at all, or no rate keeps the limit."""
    from rrrserve.bench.figures import told

    for run in document["runs"]:
        if not run["ok"]:
            raise CheckFailedError(
                f"{run['model']} at {run['where']} answered no request: {told(run['errors']) or 'none was due'}"
            )
    for found in document.get("highest_rate", []):
        if found["rate_per_second"] is None:
            raise CheckFailedError(
                f"{found['model']} at {found['where']} keeps p99 within {found['p99_ms_limit']:g} ms at no rate: "
                f"{found['reason']}"
            )
