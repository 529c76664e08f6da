"""Evidence from a result of `rrr bench`: the rounds of models that took turns are blocks side by side."""

import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram

from rrrnet.errors import ArtifactError
from rrrserve.bench.result_file import BenchResult, BenchRun, HighestRate, Round, read_result
from rrrserve.claims.claims_file import nearest
from rrrserve.claims.kinds import QUANTILES, Throughput, Timed
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.blocks import Array, Blocks
from rrrserve.evidence.measured import Measured
from rrrserve.judge.drive import MOST_FAILURES
from rrrserve.judge.intervals import MIN_BEYOND, MIN_BLOCKS
from rrrserve.judge.verdicts import FAIL, PASS, Interval, Verdict, judge

_MICROSECOND = 1e-6
_CELL, _MARGIN = 1.001, 4.0  # three digits; how far beyond the recorded values an interval may reach
_REMEDY = "measure again with more --rounds"
_P99_REQUESTS = math.ceil(MIN_BEYOND / (1 - QUANTILES["p99"]) - 1e-9)
# All that its decoder raises for text that is no histogram.
_NO_HISTOGRAM = (
    *(ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError, zlib.error),
    *(HdrCookieException, HdrHistogramSettingsException, HdrLengthException),
)


class BenchEvidence:
    """The runs of a result file.

    Attributes:
        path: of the file.
        remedy: what to do about an interval that is too wide.
        saturated: a closed loop always asks for more.
        measured: what the runs that verdicts were asked of are about, as the file tells.
    """

    remedy = _REMEDY
    saturated = True

    def __init__(self, path: Path, concurrency: int) -> None:
        """Args: `concurrency` selects the runs that claims on latency are judged by.

        Raises:
            ArtifactError: not a result of `rrr bench`.
        """
        self.path = path
        self.measured: list[Measured] = []
        self._concurrency = concurrency
        self._result: BenchResult = read_result(path)

    def blocks(self, models: Sequence[str], level: str, concurrency: int | None) -> tuple[list[Blocks], dict[str, Any]]:
        """See `evaluate.Evidence`."""
        wanted = concurrency or self._concurrency
        runs = [self._run(model, level, wanted) for model in models]
        self._check_comparable(runs)
        for run in runs:
            self._check_answered(run)
        if len(runs[0].rounds) < MIN_BLOCKS:
            raise UndecidableError(
                "too_few_blocks",
                f"{self.path} has {len(runs[0].rounds)} rounds: an interval needs at least {MIN_BLOCKS}; {_REMEDY}",
            )
        errors = {run.model: run.errors for run in runs if run.errors}
        try:
            found = [_blocks(run.rounds) for run in runs]
        except _NO_HISTOGRAM as error:
            raise ArtifactError(f"{self.path}: the rounds are not as rrr bench writes them ({error!r})") from error
        return found, {"concurrency": wanted} | ({"errors": errors} if errors else {})

    def when_and_where(self) -> tuple[str, dict[str, Any]]:
        """When the measurement began, and the machine and versions it was made with."""
        return self._result.started, self._result.environment.model_dump()

    def queries(self, claim: Timed, promql: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002  one signature for all
        """The command that measured it."""
        return (self._result.command,)

    def window(self) -> None:
        """There is nothing to ask by PromQL."""
        return

    def direct(self, claim: Timed) -> Verdict | None:
        """A throughput claim, judged by the search for the highest rate, if there was one for this limit of p99."""
        if not isinstance(claim, Throughput):
            return None
        found = [
            search
            for search in self._result.highest_rate
            if (search.model, search.level) == (claim.model, "http")
            and math.isclose(search.p99_ms_limit, claim.p99_ms, rel_tol=1e-9)
        ]
        if len(found) > 1:
            raise self._ambiguous(f"searches for the highest rate of {claim.model} at level http", found)
        if not found:
            return None
        self._use(found[0])
        return self._searched(claim, found[0])

    def _searched(self, claim: Throughput, found: HighestRate) -> Verdict:
        """The highest rate lies between the best that kept the limit and the lowest above it that did not."""
        best = found.rate_per_second or 0.0
        missed = [trial.rate_per_second for trial in found.tried if not trial.ok]
        above = min((rate for rate in missed if rate > best), default=None)
        interval = Interval(best, best, best if above is None else above)
        verdict, reason, text = judge(interval, claim.bound, claim.unit, remedy="search more finely")
        if above is None and verdict != PASS:
            raise UndecidableError("not_saturated", f"{text}; no rate that misses p99 {claim.p99_ms:g} ms was tried")
        requests = {}  # of the trials that decide, by rate
        if best and verdict != FAIL:
            requests[best] = _most_requests(found, best, ok=True)
        if above is not None and verdict != PASS:
            requests[above] = _most_requests(found, above, ok=False)
        samples = {claim.model: sum(requests.values())}
        rate, fewest = min(requests.items(), key=lambda item: item[1])
        if fewest < _P99_REQUESTS:
            raise UndecidableError(
                "too_few_samples",
                f"{text}; but the trial of {rate:g}/s had {fewest} requests and p99 needs {_P99_REQUESTS}: search with "
                f"rrr bench --p99-ms {claim.p99_ms:g} --seconds {math.ceil(1.1 * _P99_REQUESTS / rate)}",
                samples=samples,
            )
        evidence = {"highest_rate": found.model_dump()}
        return Verdict(claim, verdict, reason, text, interval, samples, evidence, self.queries(claim, ()))

    def _use(self, part: BenchRun | HighestRate) -> None:
        """Remember what a run, or a search, is about."""
        digests = () if part.repository is None else (part.repository,)
        item = Measured(part.where, digests, part.model, part.engine_sha256)
        if item not in self.measured:
            self.measured.append(item)

    def _run(self, model: str, level: str, concurrency: int) -> BenchRun:
        """The one run of a model at a level and load."""
        runs = [run for run in self._result.runs if run.model == model]
        if not runs:
            raise self._unknown(model)
        wanted = (level, "closed", concurrency)
        fitting = [run for run in runs if (run.level, run.mode, run.concurrency) == wanted]
        if len(fitting) > 1:
            raise self._ambiguous(f"runs of {model} at level {level} with {concurrency} under way", fitting)
        if fitting:
            self._use(fitting[0])
            return fitting[0]
        seen = [*sorted({run.load_text for run in runs}), *self._searches(model)]
        raise UndecidableError(
            "no_evidence",
            f"{self.path} has no run of {model} at level {level} with {concurrency} under way, but {', '.join(seen)}; "
            "--concurrency selects another",
        )

    def _unknown(self, model: str) -> UndecidableError:
        seen = sorted({run.model for run in self._result.runs})
        if seen:
            return UndecidableError(
                "unknown_model",
                f"{self.path} has runs of {', '.join(seen)}, and not of {model!r}.{nearest(model, seen)}",
            )
        searches = ", ".join(self._searches(None))
        return UndecidableError(
            "no_evidence",
            f"{self.path} has no runs{f', only {searches}' if searches else ''}: "
            f"rrr bench --concurrency N --rounds {MIN_BLOCKS} --out FILE measures some",
        )

    def _searches(self, model: str | None) -> Iterator[str]:
        """The searches for the highest rate in words; of one model, or of all."""
        for search in self._result.highest_rate:
            if model in (None, search.model):
                where = f"{search.model} at level {search.level} within p99 {search.p99_ms_limit:g} ms"
                yield f"the highest rate of {where}"

    def _ambiguous(self, what: str, found: Sequence[BenchRun] | Sequence[HighestRate]) -> UndecidableError:
        shown = "; ".join(str(item) for item in found)
        return UndecidableError(
            "no_evidence",
            f"{self.path} has {len(found)} {what} ({shown}): a claim is about one, so measure that one without the "
            "others",
        )

    def _check_comparable(self, runs: Sequence[BenchRun]) -> None:
        """Check that runs of different models are of one kind.

        Raises:
            UndecidableError: they have other batch sizes, or other numbers of rounds.
        """
        if len({run.batch for run in runs}) != 1:
            sizes = " and ".join(f"{run.model} with batch {run.batch}" for run in runs)
            raise UndecidableError("no_evidence", f"{self.path} has {sizes}: only equal batches are compared")
        rounds = {len(run.rounds) for run in runs}
        if len(rounds) != 1:
            raise UndecidableError("bad_metrics", f"{self.path}: the models have unequal numbers of rounds: {rounds}")

    def _check_answered(self, run: BenchRun) -> None:
        """Check that enough requests were answered for their latencies to tell anything.

        Raises:
            UndecidableError: none was, or most failed.
        """
        counts = ", ".join(f"{count} x {kind}" for kind, count in run.errors.items())
        samples = {run.model: run.answered}
        if not run.answered:
            raise UndecidableError(
                "no_traffic",
                f"{self.path}: no request of {run.model} ({run.load_text}) was answered: {counts or 'none was sent'}",
                samples=samples,
            )
        total = run.answered + run.failed
        if run.failed > MOST_FAILURES * total:
            raise UndecidableError(
                "requests_failed",
                f"{self.path}: {run.failed} of {total} requests to {run.model} ({run.load_text}) failed: {counts}",
                samples=samples,
            )


def _most_requests(found: HighestRate, rate_per_second: float, *, ok: bool) -> int:
    """Requests of the longest trial of a rate that ended so."""
    fitting = [trial for trial in found.tried if (trial.rate_per_second, trial.ok) == (rate_per_second, ok)]
    return max((trial.requests for trial in fitting), default=0)


def _blocks(rounds: Sequence[Round]) -> Blocks:
    cells = [_cells(entry) for entry in rounds]
    edges = np.concatenate([found[side] for found in cells for side in (0, 1)])
    edges = edges[edges > 0]
    # An interval may end between two recorded cells or beyond the last, where the histogram is as fine.
    steps = math.ceil(math.log(_MARGIN**2 * edges.max() / edges.min()) / math.log(_CELL))
    grid = edges.min() / _MARGIN * _CELL ** np.arange(steps)
    bounds: Array = np.concatenate([np.unique(np.concatenate([edges, grid])), [np.inf]])
    buckets = np.zeros((len(rounds), len(bounds)))
    for row, (_, uppers, counts) in zip(buckets, cells, strict=True):
        row[np.searchsorted(bounds, uppers)] += counts
    counts = np.array([float(entry.ok) for entry in rounds])
    means_ms = np.array([entry.mean_ms or 0.0 for entry in rounds])
    seconds = np.array([entry.wall_seconds for entry in rounds])
    return Blocks(seconds, counts, counts * means_ms / 1000, bounds, buckets)


def _cells(entry: Round) -> tuple[Array, Array, Array]:
    """Lower and upper ends in seconds, and counts, of the cells that are not empty; their values were rounded."""
    histogram: Any = HdrHistogram.decode(entry.histogram)
    if histogram.get_total_count() != entry.ok:
        raise ValueError(f"a histogram of {histogram.get_total_count()} requests where ok is {entry.ok}")
    counts = np.array(histogram.counts[: histogram.counts_len], dtype=np.float64)
    filled = np.flatnonzero(counts)
    values = [histogram.get_value_from_index(int(index)) for index in filled]
    lowers = np.array([histogram.get_lowest_equivalent_value(value) for value in values], dtype=np.float64)
    uppers = np.array([histogram.get_highest_equivalent_value(value) for value in values], dtype=np.float64)
    return (lowers - 0.5) * _MICROSECOND, (uppers + 0.5) * _MICROSECOND, counts[filled]
