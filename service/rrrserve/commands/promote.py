"""`rrr promote`: a model gets more and more of a route's traffic while claims pass, and none when one fails."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rrrnet import output
from rrrnet.errors import CheckFailedError, RRRError, UsageError
from rrrserve.commands.verify import DEFAULT_ENGINES
from rrrserve.net.tls import client_trust
from rrrserve.net.tokens import client_headers
from rrrserve.process.environment import variables

if TYPE_CHECKING:
    from rrrserve.claims.claims_file import Claims
    from rrrserve.config.routes import Route
    from rrrserve.judge.promotion import Look
    from rrrserve.judge.source import Source
    from rrrserve.versions.routing import RoutesControl
    from rrrserve.versions.running_services import RunningService

_LEAST_SECONDS, _ALL = 1.0, 100.0


def promote(
    claims: Annotated[Path, typer.Option(metavar="FILE", help="Claims in YAML, about time or artifacts.")],
    repository: Annotated[
        Path | None, typer.Argument(help="the repository that the service was started with", show_default="any")
    ] = None,
    url: Annotated[str | None, typer.Option(help="where the service listens", show_default="any")] = None,
    pid: Annotated[int | None, typer.Option(help="process of rrr serve", show_default="any")] = None,
    route: Annotated[str, typer.Option(metavar="NAME", help="one that rrr serve --route gave")] = "default",
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="whose share is moved", show_default="the route's last")
    ] = None,
    steps: Annotated[
        str, typer.Option(metavar="PERCENT,...", help="shares, ascending; the claims must pass at all but the last")
    ] = "10,25,50,100",
    every: Annotated[
        str,
        typer.Option(metavar="5m", help="how long a step is held before it is judged; undecided, up to 15 times that"),
    ] = "5m",
    prometheus: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Ask this Prometheus for the evidence.", show_default="the service is scraped"
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="RRR_TOKEN_FILE", help="The service's token (else RRR_TOKEN).")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM certificates to trust for https (else those of the machine)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Move a model's share of a running service's route up in steps, each only once claims pass on the live traffic.

    Where a claim fails the share goes to nothing, and the exit code is 1. Ctrl-C leaves it as it is.
    """
    from rrrserve.claims.claims_file import read_claims
    from rrrserve.evidence.prometheus import duration_seconds
    from rrrserve.judge.promotion import check_claims
    from rrrserve.judge.source import Source
    from rrrserve.versions.routing import RoutesControl, read_routes
    from rrrserve.versions.running_services import chosen, running_services

    wanted, every_seconds = _percentages(steps), duration_seconds(every, option="--every")
    if every_seconds < _LEAST_SECONDS:
        raise UsageError(f"--every is {every!r}: allowed is {_LEAST_SECONDS:g}s or more")
    read = read_claims(claims)
    service = chosen(running_services(), repository, url, pid)
    control = RoutesControl(Path(service.folder))
    with control.held():
        found = read_routes(Path(service.folder)).routes.get(route)
        if found is None:
            raise UsageError(
                f"the service at {service.url} has no route {route}: start it with rrr serve {service.repository} "
                f"--route {route}=MODEL:90,OTHER:10"
            )
        name = model or list(found.weights)[-1]
        if name not in found.weights:
            raise UsageError(f"--model is {name!r}: {route} divides its requests among {', '.join(found.weights)}")
        check_claims(read.claims, found, name)
        source = Source(
            scrape=() if prometheus else (service.url,),
            prometheus=prometheus,
            bench=None,
            range_text=every,
            seconds=every_seconds,
            drive=False,
            concurrency=1,
            image=None,
            allow_resets=False,
            repository=Path(service.repository),
            engines=DEFAULT_ENGINES,
            headers=client_headers(variables(), token_file),
            ca_path=ca,
            trust=client_trust(ca),
        )
        source.check(read.claims)
        _Run(service, control, found, name, read, source, quiet=as_json).promote(wanted, every_seconds)


class _Run:
    """One promotion; see `rrrserve.judge.promotion`."""

    def __init__(
        self,
        service: "RunningService",
        control: "RoutesControl",
        route: "Route",
        model: str,
        claims: "Claims",
        source: "Source",
        *,
        quiet: bool,
    ) -> None:
        from rrrserve.judge.promotion import Promotion

        self._service, self._control, self._route, self._model = service, control, route, model
        self._claims, self._source, self._quiet = claims, source, quiet
        self._done = Promotion(round(100 * route.shares[model], 6))

    def promote(self, steps: Sequence[float], every_seconds: float) -> None:
        """Move the share, and tell how it ended.

        Raises:
            CheckFailedError: the model did not get all of the route.
            RRRError: something else went wrong; the message tells what the model has.
        """
        from rrrserve.judge.promotion import places, promote
        from rrrserve.process.interrupts import unless_interrupted

        held = places(self._route.shares[self._model], steps)
        work = promote(
            *(self._done, self._route, self._model, held, every_seconds),
            change=self._change,
            judge=self._judge,
            tell=self._tell,
        )
        try:
            with output.Working(escape(f"holding {self._model}: each step {every_seconds:g} s")):
                asyncio.run(unless_interrupted(work))
        except asyncio.CancelledError:
            self._print_json()
            output.say(f"stopped: {self._standing()}")
            raise typer.Exit(130) from None
        except RRRError as error:
            raise type(error)(f"{error}; {self._standing()}") from error
        self._print_json()
        self._end()

    async def _change(self, route: "Route") -> None:
        self._check_running()
        await self._control.change(route)

    async def _judge(self, wait_seconds: float, held_seconds: float, alpha_share: float) -> dict[str, Any]:
        from rrrserve.claims.levels import duration
        from rrrserve.judge.run import verify

        self._check_running()
        confidence = 1 - (1 - self._claims.confidence) * alpha_share
        source = replace(self._source, seconds=wait_seconds, range_text=duration(held_seconds))
        if source.prometheus is not None:
            await asyncio.sleep(wait_seconds)
        return await verify(replace(self._claims, confidence=confidence), source, lambda *_: None)

    def _check_running(self) -> None:
        from rrrserve.versions.running_services import running_services

        if self._service not in running_services():
            raise CheckFailedError(f"the service at {self._service.url} has ended, and its weights with it")

    def _tell(self, what: "Look | Route") -> None:
        """A line for each change of the weights, and for each verdict."""
        from rrrserve.config.routes import Route

        if isinstance(what, Route):
            lines = [f"{what.name}: {what.told()}"]
        else:
            lines = [
                f"  {item['verdict']}: {item['name']}: {item['explanation']}" for item in what.document["verdicts"]
            ]
        for line in lines:
            output.print_line(line, to=output.messages if self._quiet else output.console)

    def _standing(self) -> str:
        return f"{self._model} has {self._done.percent:g} % of {self._route.name}"

    def _print_json(self) -> None:
        if self._quiet:
            head = {"service": self._service.url, "route": self._route.name, "model": self._model}
            output.print_json(head | self._done.to_json())

    def _end(self) -> None:
        from rrrserve.judge.promotion import PROMOTED

        done = self._done
        if done.outcome != PROMOTED:
            last = done.looks[-1].document["verdicts"]
            reasons = ", ".join(f"{item['name']}: {item['reason']}" for item in last if item["verdict"] != "pass")
            raise CheckFailedError(f"{done.outcome.replace('_', ' ')}: {self._standing()} now ({reasons})")
        if not self._quiet:
            output.print_line(f"{done.outcome}: {self._standing()}, until the service ends")
            kept = self._route.with_share(self._model, done.percent / 100)
            output.next_step("rrr", "serve", self._service.repository, "--route", kept.text())


def _percentages(text: str) -> list[float]:
    """Like 10,25,50,100.

    Raises:
        UsageError: not two or more that ascend to 100.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) < 2 or found[0] <= 0 or found != sorted(set(found)) or found[-1] != _ALL:
        raise UsageError(
            f"--steps is {text!r}: expected percentages that ascend to 100, two or more, as in 10,25,50,100"
        )
    return found
