"""`rrr verify`: judge claims with numbers by what the running system, Prometheus or a bench result shows."""

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrrbuild.repository_document import DEFAULT_REPOSITORY
from rrrnet import output, tables
from rrrnet.errors import ArtifactError, CheckFailedError, UsageError
from rrrnet.files import check_writable, write_atomically
from rrrserve.commands.flags import Authorities, TokenFile
from rrrserve.net.tls import client_trust
from rrrserve.net.tokens import client_headers
from rrrserve.process.environment import variables

if TYPE_CHECKING:
    from rrrserve.claims.claims_file import Claims
    from rrrserve.judge.source import Source

DEFAULT_CLAIMS = Path("benchmarks/claims.yaml")
DEFAULT_ENGINES = Path("artifacts/engines")


def verify(
    claims: Annotated[Path, typer.Option(metavar="FILE", help="Claims in YAML.")] = DEFAULT_CLAIMS,
    scrape: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A service to scrape; may be repeated.")
    ] = None,
    prometheus: Annotated[str | None, typer.Option(metavar="URL", help="A Prometheus server to ask instead.")] = None,
    window: Annotated[str, typer.Option("--range", metavar="5m", help="How far back to ask Prometheus.")] = "5m",
    bench: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A result of rrr bench --out to read instead.")
    ] = None,
    drive: Annotated[
        bool, typer.Option("--drive", help="Send the load too, until every claim is decided or the time is up.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="How long to scrape or drive, at most.")] = 60.0,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1024, help="Requests under way, of the load or of the bench's runs.")
    ] = 1,
    image: Annotated[
        Path | None, typer.Option(help="What --drive sends.", show_default="a JPEG of the model's size")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Labelled images, for claims about answers and for --drive to send.",
            show_default="for claims, those that the model was trained with",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="test or all: which images claims about answers take.")] = "test",
    effort: Annotated[
        str | None,
        typer.Option(metavar="EFFORT", help="What --drive asks for: fast, auto or full.", show_default="auto"),
    ] = None,
    token_file: TokenFile = None,
    ca: Authorities = None,
    repository: Annotated[
        Path, typer.Option(metavar="REPO", help="For claims about parameters, MACs, bytes, accuracy and agreement.")
    ] = DEFAULT_REPOSITORY,
    engines: Annotated[
        Path, typer.Option(metavar="DIR", help="Where engines of other targets lie, as DIR/MODEL/TARGET.")
    ] = DEFAULT_ENGINES,
    allow_resets: Annotated[
        bool,
        typer.Option("--allow-resets", help="Leave out the blocks of time in which a service was restarted or away."),
    ] = False,
    allow_undecided: Annotated[
        bool, typer.Option("--allow-undecided", help="Exit with 0 if no claim failed, though some are undecided.")
    ] = False,
    stamp: Annotated[
        bool, typer.Option("--stamp", help="Write the verdicts beside the models of --repository and their engines.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON to a file too.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write Markdown.")] = None,
) -> None:
    """Accept or reject claims with numbers, or say that the evidence does not decide them."""
    from rrrbuild.engine import check_effort
    from rrrbuild.repository_document import read_repository
    from rrrserve.claims.claims_file import read_claims
    from rrrserve.evidence.measured import check_measured
    from rrrserve.judge import formats
    from rrrserve.judge.labelled import split_name
    from rrrserve.judge.source import Source
    from rrrserve.stamps.stamp import check_stampable, write_stamps

    if not math.isfinite(seconds):
        raise UsageError("--seconds must be a finite number")
    if effort is not None:
        check_effort(effort)
    for option, path in (("--out", out), ("--junit", junit), ("--markdown", markdown)):
        if path is not None:
            check_writable(path, option=option)
    read = read_claims(claims)
    source = Source(
        scrape=tuple(scrape or ()),
        prometheus=prometheus,
        bench=bench,
        range_text=window,
        seconds=seconds,
        drive=drive,
        concurrency=concurrency,
        image=_picture(image),
        allow_resets=allow_resets,
        repository=repository,
        engines=engines,
        headers=client_headers(variables(), token_file),
        image_path=image,
        ca_path=ca,
        trust=client_trust(ca),
        data=data,
        split=split_name(split),
        effort=effort,
        stamped=read_repository(repository) if stamp else None,
    )
    source.check(read.claims)
    if source.stamped is not None:  # what is wrong shows now, not after minutes of load
        check_stampable(source.stamped, {model for claim in read.claims for model in claim.models})
    document = _judged(read, source)
    texts = ((out, _json(document)), (junit, formats.junit(document)), (markdown, formats.markdown(document)))
    for path, text in texts:
        if path is not None:
            write_atomically(path, text.encode())
    if as_json:
        output.print_json(document)
    else:
        tables.print_table(formats.table(document))
        for line in formats.reasons(document):
            output.print_line(line)
    for line in formats.early_answers(document, generated=drive and image is None and data is None):
        output.say(line)
    if stamp:
        check_measured(document, read_repository(repository))
        for path in write_stamps(document, repository):
            output.say(f"stamped: {path}")
    if not as_json:
        output.next_step(*_next(document, source, out))
    _end(document, allow_undecided=allow_undecided)


def _next(document: dict[str, Any], source: "Source", out: Path | None) -> list[object]:
    """Words of the command that decides what is undecided: the service, or more seconds; else of a model's page."""
    found = {verdict["verdict"] for verdict in document["verdicts"]}
    if "undecided" in found and "fail" not in found and source.scrape:
        if "target_down" in {verdict["reason"] for verdict in document["verdicts"]}:
            return ["rrr", "serve", source.repository]
        return ["rrr", *_without(sys.argv[1:], "--seconds"), "--seconds", f"{min(4 * source.seconds, 86400):g}"]
    model = next((name for verdict in document["verdicts"] for name in verdict["models"]), source.repository)
    return ["rrr", "report", model, *([] if out is None else ["--verdicts", out]), "--out", "report.html"]


def _without(words: list[str], option: str) -> list[str]:
    """A command line without an option and its value, given as one word or as two."""
    others = [word for word in words if not word.startswith(f"{option}=")]
    return [word for before, word in zip(["", *others], others, strict=False) if option not in (before, word)]


def _judged(claims: "Claims", source: "Source") -> dict[str, Any]:
    """The document of verdicts, with progress on standard error; Ctrl-C and SIGTERM end with exit code 130."""
    from rrrserve.judge.run import verify as judge

    if not (source.scrape or source.prometheus):  # files are read at once
        return _run(judge(claims, source, lambda *_: None))
    with output.progress_bar() as bar:
        task = bar.add_task("driving" if source.drive else "verifying", total=round(source.seconds), text="")
        return _run(judge(claims, source, lambda passed, text: bar.update(task, completed=int(passed), text=text)))


def _run(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    from rrrserve.process.interrupts import unless_interrupted

    try:
        return asyncio.run(unless_interrupted(work))
    except asyncio.CancelledError:
        output.say("stopped: no claim was judged")
        raise typer.Exit(130) from None


def _picture(path: Path | None) -> bytes | None:
    """The bytes of an image file."""
    if path is None:
        return None
    if not path.is_file():
        raise ArtifactError(f"--image {path} is not a file: give an image")
    return path.read_bytes()


def _json(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _end(document: dict[str, Any], *, allow_undecided: bool) -> None:
    """Raise unless every claim holds.

    Raises:
        CheckFailedError: a claim failed, or is undecided.
    """
    from rrrserve.judge.formats import counts_text

    counts = Counter(verdict["verdict"] for verdict in document["verdicts"])
    if counts["fail"] or (counts["undecided"] and not allow_undecided):
        names = ", ".join(verdict["name"] for verdict in document["verdicts"] if verdict["verdict"] != "pass")
        raise CheckFailedError(f"{counts_text(document['verdicts'])}: {names}")
