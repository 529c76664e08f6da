"""From sources to a finished table: what `rrr predict --out` does, whoever answers."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer

from rrrbuild.cascade_runner import FULL
from rrrbuild.confidence.record import Confidence
from rrrnet import output, tables
from rrrnet.commands.score_tables import answer_lines, class_lines, scores_table
from rrrnet.errors import ArtifactError, CheckFailedError, RRRError, UsageError
from rrrnet.files import check_writable
from rrrnet.stopping import stop_requested
from rrrserve.batch.answers import Answered, Wanted
from rrrserve.batch.listing import File, Listing
from rrrserve.batch.scores import Scores
from rrrserve.batch.table import Table


@dataclass(frozen=True)
class Answerer:
    """Who answers.

    Attributes:
        answers: files to what became of them, some at a time, in any order.
        name: of the model.
        who: what a table that is gone on with must have in common, by name.
        labels: of the model.
        members: M of the scores.
        confidence: what the engine's answers are worth; None of a service, whose answers are calibrated already.
        effort: by which scores are judged.
        next_step: the words of the command that comes next.
    """

    answers: Callable[[Iterable[File]], Generator[list[Answered]]]
    name: str
    who: Mapping[str, str]
    labels: tuple[str, ...]
    members: int
    confidence: Confidence | None = None
    effort: str = FULL
    next_step: tuple[object, ...] = ()


@dataclass
class _Count:
    """How far a run is."""

    started: float = field(default_factory=time.monotonic)
    images: int = 0
    documents: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def rate(self) -> float:
        return (self.images + self.documents) / max(time.monotonic() - self.started, 1e-9)


def check_out(table: Table, *, resume: bool) -> None:
    """Refuse, before anything is loaded, to write over what is there.

    Raises:
        UsageError: the table exists, or cannot be written.
    """
    check_writable(table.out, option="--out")
    for path in dict.fromkeys((table.out, table.growing)):
        if path.exists() and not resume:
            raise UsageError(
                f"{path} exists: --resume goes on after its last row; to begin anew remove it or name another --out"
            )


def run(
    sources: Sequence[str], answerer: Answerer, table: Table, wanted: Wanted, *, resume: bool, as_json: bool
) -> None:
    """Give every file its row.

    Args:
        sources: as `Listing.add` takes them.
        answerer: who answers.
        table: where the rows go, see `check_out`.
        wanted: what is asked.
        resume: go on after the rows that are there.
        as_json: the summary is one JSON document on standard output.

    Raises:
        CheckFailedError: no image was answered, or a file got no row.
        typer.Exit: 130, it was stopped.
    """
    if table.growing != table.out and table.out.exists():
        output.say(f"{table.out} is complete already: nothing to go on with")
        return
    files = Listing(answerer.labels)
    scores = Scores(
        table.out,
        {**answerer.who, "effort": wanted.effort},
        answerer.labels,
        answerer.members,
    )
    count = _Count()
    with stop_requested("stopping after these images (again: at once)") as requested, output.progress_bar() as bar:
        task = bar.add_task("listing files", total=None, text="")
        for found in files.add(sources):
            bar.update(task, text=f"{found} so far")
            requested.check()
        rows_before, labelled_before = _go_on(files, table) if resume else (0, 0)
        scores.begin(labelled_before)
        bar.remove_task(task)
        if rows_before:
            output.say(f"going on after {rows_before} rows in {table.growing}: {len(files)} files to go")
        # Of stopped runs as well: a csv has its header, whatever comes.
        table.append([])
        task = bar.add_task(answerer.name, total=len(files), text="")
        requested.running = True
        count.started = time.monotonic()
        with closing(answerer.answers(files)) as answers, _telling_how_to_go_on(table):
            for answered in answers:
                # An answer may come twice from a cluster that lost a machine.
                new = [item for item in answered if files.take(item.path)]
                scores.append(new)
                table.append(item.row for item in new if item.row is not None)
                _add(count, new)
                bar.update(task, advance=len(new), text=f"{count.rate():.1f} images/s")
                if requested.stop:
                    break
    seconds = time.monotonic() - count.started
    for sentence in _sentences(files, count, seconds):
        output.say(sentence)
    if requested.stop and len(files):
        output.say(f"stopped: {table.growing} has {rows_before + count.images} whole rows, {len(files)} files to go")
        output.next_step("rrr", *(word for word in sys.argv[1:] if word != "--resume"), "--resume", to=output.messages)
        raise typer.Exit(130)
    if len(files):
        raise CheckFailedError(f"{len(files)} files got no row: the same command with --resume asks about them again")
    table.finish()
    figures = scores.figures(answerer.labels, answerer.confidence, answerer.effort)
    scores.remove()
    _tell(figures, answerer, table, count, rows_before, seconds, as_json=as_json)
    if not rows_before + count.images:
        raise ArtifactError(f"{' '.join(sources)}: no pictures were found, so that {table.out} has no rows")
    if count.images and count.images == count.errors.total():
        raise CheckFailedError(f"none of {count.images} images got an answer: the rows have the reasons")


@contextmanager
def _telling_how_to_go_on(table: Table) -> Iterator[None]:
    try:
        yield
    except RRRError:
        output.say(f"the rows so far are in {table.growing}: the same command with --resume goes on after them")
        raise


def _go_on(files: Listing, table: Table) -> tuple[int, int]:
    """Take the files that have rows from the list; how many rows there are, and how many with a label and an answer."""
    rows = labelled = 0
    for row in table.whole_rows():
        files.take(row["path"])
        rows += 1
        labelled += bool(row["truth"]) and not row["error"]
    return rows, labelled


def _add(count: _Count, answered: Sequence[Answered]) -> None:
    for item in answered:
        if item.row is None:
            count.documents += 1
            continue
        count.images += 1
        if reason := item.row["error"]:
            # What stands before "(code)" tells of this very file.
            count.errors[reason.rpartition("(")[2].rstrip(")") or reason] += 1


def _sentences(files: Listing, count: _Count, seconds: float) -> Iterator[str]:
    answered = count.images - count.errors.total()
    yield f"{answered} images answered in {seconds:.1f} s: {answered / max(seconds, 1e-9):.1f} images/s"
    if count.errors:
        kinds = ", ".join(f"{number} {code}" for code, number in count.errors.most_common())
        yield f"{count.errors.total()} got no answer, and a row with the reason: {kinds}"
    yield from files.passed_over()
    if count.documents:
        yield f"no rows: {count.documents} files that are no pictures"


def _tell(
    figures: dict[str, Any] | None,
    answerer: Answerer,
    table: Table,
    count: _Count,
    rows_before: int,
    seconds: float,
    *,
    as_json: bool,
) -> None:
    if as_json:
        output.print_json(
            {
                "out": str(table.out),
                "model": answerer.name,
                "rows": rows_before + count.images,
                "rows_before": rows_before,
                "images": count.images,
                "errors": dict(count.errors),
                "not_pictures": count.documents,
                "seconds": seconds,
                "scores": figures,
            }
        )
        return
    if figures is not None:
        every = f", every {figures['every']}th" if figures["every"] > 1 else ""
        tables.print_table(scores_table(f"{answerer.name}: {figures['images']} labelled images{every}", figures))
        output.print_line("\n".join([*answer_lines(figures), *class_lines(figures)]))
    output.print_line(f"written: {table.out} ({rows_before + count.images} rows)")
    output.next_step(*answerer.next_step)
