"""`rrr predict`: ask a running service what is on images; a table, or JSON lines."""

import json
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from rrrbuild.cascade_runner import EFFORTS
from rrrnet.errors import ArtifactError, CheckFailedError, UsageError
from rrrnet.output import Working, next_step, say
from rrrnet.tables import print_table
from rrrserve.net.tokens import client_headers, client_token
from rrrserve.process.environment import variables

DEFAULT_URL = "http://127.0.0.1:3000"
_SHOWN = 3


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="image files; - reads standard input. With --out: folders, globs, URIs, LIST.txt, - for such a list",
        ),
    ],
    url: Annotated[str | None, typer.Option(help=f"where rrr serve listens (else {DEFAULT_URL})")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a table with a row for each image: .parquet, .csv or .jsonl")
    ] = None,
    engine: Annotated[
        Path | None, typer.Option(metavar="ENGINE", help="with --out: an engine folder answers, and no service")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="with --out: go on after the rows that are there")] = False,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="with --engine: on the machines of a Ray cluster")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="a model (else the default one)")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help=f"labels for each image (else up to {_SHOWN})")] = None,
    members: Annotated[bool, typer.Option("--members", help="each member's own label as well")] = False,
    effort: Annotated[
        str | None, typer.Option(metavar="EFFORT", help="members asked of a cascade: fast, auto or full (else auto)")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(metavar="SHARE", help="a set of labels that holds the right one, such as 0.95")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="deadline for each image")] = 10.0,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="RRR_TOKEN_FILE", help="the token to send (else RRR_TOKEN)")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM certificates to trust (else those of the machine)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Classify images with a running service, or any number of them, into a table, with an engine as well.

    Unusable files are reported; the others' answers still come.
    """
    _check(effort, coverage)
    if out is not None:
        from rrrserve.batch import command

        asked = command.Asked(
            images, out, engine, url, DEFAULT_URL, ray, model, top_k, effort, coverage, resume, as_json
        )
        if members:
            raise UsageError("--members is not for tables: leave it out, or --out")
        command.predict_all(asked, client_headers(variables(), token_file), ca)
        return
    if engine is not None or resume or ray is not None:
        raise UsageError("--engine, --resume and --ray are for tables: add --out FILE.csv, .jsonl or .parquet")
    from rrrserve.client.answers import NoAnswerError, ServiceError
    from rrrserve.client.client import Client

    url = url or DEFAULT_URL
    token = client_token(variables(), token_file)
    failures = 0
    rows: list[tuple[str, Mapping[str, Any]]] = []
    # Lines of JSON are a sign of life themselves.
    working = nullcontext(None) if as_json else Working("asking")
    try:
        with working as asking, Client(url, token=token, timeout=timeout, ca=ca) as client:
            for number, name in enumerate(images):
                if asking is not None:
                    asking.update(f"{number} of {len(images)} images asked", said=False)
                try:
                    answer = client.predict(
                        _read(name), model=model, top_k=top_k, members=members, effort=effort, coverage=coverage
                    ).document
                except (ArtifactError, ServiceError) as error:
                    failures += 1
                    say(f"rrr: {name}: {error}")
                else:
                    if as_json:
                        sys.stdout.write(json.dumps({"file": name, **answer}, ensure_ascii=False) + "\n")
                    rows.append((name, answer))
    except NoAnswerError as error:
        raise CheckFailedError(f"{error}: start the service with rrr serve, or name another --url") from error
    finally:
        if rows and not as_json:  # also when the connection broke midway
            print_table(_table(rows, top_k or _SHOWN))
            for reason in dict.fromkeys(answer["set_reason"] for _, answer in rows if "set_reason" in answer):
                say(f"no set: {reason}")
    if failures:
        raise CheckFailedError(f"{failures} of {len(images)} images got no answer")
    if not as_json:
        given = (("--model", model), ("--token-file", token_file), ("--ca", ca))
        options = [word for option, value in given if value is not None for word in (option, value)]
        next_step("rrr", "bench", "--url", url, *options, "--concurrency", "1,8", "--out", "bench.json")


def _check(effort: str | None, coverage: float | None) -> None:
    """Check what the service would refuse for each image.

    Raises:
        UsageError: one has a value that is not allowed.
    """
    if effort is not None and effort not in EFFORTS:
        raise UsageError(f"--effort is {effort!r}: expected {', '.join(EFFORTS[:-1])} or {EFFORTS[-1]}")
    if coverage is not None and not 0 < coverage < 1:
        raise UsageError(f"--coverage is {coverage}: expected a number between 0 and 1, such as 0.95")


def _read(name: str) -> bytes:
    """The bytes of a file, or of standard input for `-`."""
    if name == "-":
        data = sys.stdin.buffer.read()
    else:
        try:
            if not stat.S_ISREG(Path(name).stat().st_mode):  # a FIFO would wait for ever
                raise ArtifactError("not a file; folders take --out FILE")
            data = Path(name).read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ArtifactError(f"cannot be read: {reason}") from error
    if not data:
        raise ArtifactError("0 bytes")
    return data


def _table(rows: Sequence[tuple[str, Mapping[str, Any]]], shown: int) -> Table:
    """A row for each answer; a column that tells nothing in any of them is left out."""
    cells = [
        {
            "image": escape(name),
            "labels": escape(", ".join(_labelled(answer["predictions"][:shown]))),
            "agreement": f"{answer['uncertainty']['agreement']:.2f}",
            "entropy": f"{answer['uncertainty']['entropy']:.2f}",
            "ms": f"{answer['timing_ms']['total']:.1f}",
            "used": _used(answer),
            "set": escape(_set(answer)),
            "note": ", ".join(word for word in ("partial", "unsure") if answer.get(word)),
            "members": escape(", ".join(_labelled(answer.get("members", [])))),
        }
        for name, answer in rows
    ]
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    table = Table(*(Column(name, no_wrap=name == "image") for name in names))
    for row in cells:
        table.add_row(*(row[name] for name in names))
    return table


def _used(answer: Mapping[str, Any]) -> str:
    """Members used and the effort, unless all were asked and answered, or an older service does not tell."""
    effort, used, members = answer.get("effort"), answer.get("members_used"), answer["model"]["members"]
    return "" if used is None or (effort, used) == ("full", members) else f"{used} of {members} ({effort})"


def _set(answer: Mapping[str, Any]) -> str:
    if "set" in answer:
        return ", ".join(_labelled(answer["set"])) or "empty"
    return "none" if "set_reason" in answer else ""


def _labelled(predictions: list[dict[str, Any]]) -> Iterator[str]:
    for item in predictions:
        yield f"{item['label']} {item['probability']:.1%}"
