"""Evidence from a result of `rrr bench`: the rounds of models that took turns are blocks side by side."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from rrrnet.errors import ArtifactError
from rrrserve.claims.blocks import Array, Blocks
from rrrserve.claims.claims_file import nearest
from rrrserve.claims.intervals import MIN_BLOCKS, Interval
from rrrserve.claims.kinds import Throughput, Timed
from rrrserve.claims.measured import Measured
from rrrserve.claims.reasons import UndecidableError
from rrrserve.claims.verdict_document import Environment
from rrrserve.claims.verdicts import Verdict, judge

FORMAT, KIND = 1, "rrr-bench"
_MAX_BYTES = 1 << 28
_MICROSECOND = 1e-6
_CELL, _MARGIN = 1.001, 4.0  # three digits; how far beyond the recorded values an interval may reach
_REMEDY = "measure again with more --rounds"


class BenchEvidence:
    """The runs of a result file.

    Attributes:
        path: of the file.
        remedy: what to do about an interval that is too wide.
        saturated: a closed loop always asks for more.
    """

    remedy = _REMEDY
    saturated = True

    def __init__(self, path: Path, concurrency: int) -> None:
        """Args: `concurrency` selects the runs that claims on latency are judged by.

        Raises:
            ArtifactError: not a result of `rrr bench`.
        """
        self.path = path
        self._used: dict[str, Measured] = {}
        self._concurrency = concurrency
        self._document = _read(path)

    def blocks(self, models: Sequence[str], level: str, concurrency: int | None) -> tuple[list[Blocks], dict[str, Any]]:
        """See `evaluate.Evidence`."""
        wanted = concurrency or self._concurrency
        runs = [self._run(model, level, wanted) for model in models]
        rounds = {len(run["rounds"]) for run in runs}
        if len(rounds) != 1:
            raise UndecidableError("bad_metrics", f"{self.path}: the models have unequal numbers of rounds: {rounds}")
        if rounds.pop() < MIN_BLOCKS:
            raise UndecidableError(
                "too_few_blocks",
                f"{self.path} has {len(runs[0]['rounds'])} rounds: an interval needs at least {MIN_BLOCKS}; {_REMEDY}",
            )
        errors = {model: run["errors"] for model, run in zip(models, runs, strict=True) if run["errors"]}
        try:
            found = [_blocks(run["rounds"]) for run in runs]
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise ArtifactError(f"{self.path}: the rounds are not as rrr bench writes them ({error!r})") from error
        return found, {"concurrency": wanted} | ({"errors": errors} if errors else {})

    @property
    def measured(self) -> list[Measured]:
        """What the runs that verdicts were asked of are about, as the file tells."""
        return list(self._used.values())

    def when_and_where(self) -> tuple[str, dict[str, Any]]:
        """When the measurement began, and the machine and versions it was made with.

        Raises:
            ArtifactError: the file does not tell.
        """
        try:
            started = str(self._document["started"])
            environment: dict[str, Any] = self._document["environment"]
            Environment.model_validate(environment)
            if datetime.fromisoformat(started).tzinfo is None:
                raise ValueError("no time zone")
        except (KeyError, ValueError) as error:
            raise ArtifactError(
                f"{self.path} does not tell when and where it was measured (started, environment): write it again with "
                "rrr bench --out"
            ) from error
        return started, environment

    def queries(self, queries: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002  one signature for every source
        """The command that measured it."""
        return (str(self._document.get("command", "rrr bench")),)

    def window(self) -> str:
        """Of no use without PromQL."""
        return ""

    def direct(self, claim: Timed) -> Verdict | None:
        """A throughput claim, judged by the search for the highest rate, if there was one for this limit of p99."""
        if not isinstance(claim, Throughput):
            return None
        for found in self._document.get("highest_rate", []):
            if found["model"] == claim.model and math.isclose(found["p99_ms_limit"], claim.p99_ms, rel_tol=1e-9):
                self._use(found)
                return self._searched(claim, found)
        return None

    def _searched(self, claim: Throughput, found: dict[str, Any]) -> Verdict:
        """The highest rate lies between the best that kept the limit and the lowest above it that did not."""
        best = float(found["rate_per_second"] or 0.0)
        missed = [float(trial["rate_per_second"]) for trial in found["tried"] if not trial["ok"]]
        above = min((rate for rate in missed if rate > best), default=None)
        interval = Interval(best, best, best if above is None else above)
        verdict, reason, text = judge(interval, claim.bound, claim.unit, remedy="search more finely")
        if above is None and verdict != "pass":
            raise UndecidableError("not_saturated", f"{text}; no rate that misses p99 {claim.p99_ms:g} ms was tried")
        return Verdict(claim, verdict, reason, text, interval, {}, {"highest_rate": found}, self.queries(()))

    def _use(self, part: Mapping[str, Any]) -> None:
        """Remember what a run, or a search, is about."""
        where, model, repository = str(part.get("where")), str(part["model"]), part.get("repository")
        digests = () if repository is None else (str(repository),)
        engine_sha256 = part.get("engine_sha256")
        item = Measured(where, digests, model, None if engine_sha256 is None else str(engine_sha256))
        self._used[repr(item)] = item

    def _run(self, model: str, level: str, concurrency: int) -> dict[str, Any]:
        runs: list[dict[str, Any]] = [run for run in self._document["runs"] if run["model"] == model]
        if not runs:
            seen = sorted({run["model"] for run in self._document["runs"]})
            raise UndecidableError(
                "unknown_model",
                f"{self.path} has runs of {', '.join(seen)}, and not of {model!r}.{nearest(model, seen)}",
            )
        fitting = [run for run in runs if run["level"] == level and run["mode"] == "closed"]
        for run in fitting:
            if run["concurrency"] == concurrency:
                self._use(run)
                return run
        seen = sorted({f"{run['level']} at {run.get('concurrency') or run.get('rate_per_second')}" for run in runs})
        raise UndecidableError(
            "no_evidence",
            f"{self.path} has no run of {model} at level {level} with {concurrency} under way, but {', '.join(seen)}; "
            "--concurrency selects another",
        )


def _read(path: Path) -> dict[str, Any]:
    document: Any
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ArtifactError(f"{path} is larger than {_MAX_BYTES >> 20} MiB: not a result of rrr bench")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON ({error}): expected a result of rrr bench --out") from error
    if not isinstance(document, dict) or (document.get("kind"), document.get("format")) != (KIND, FORMAT):
        raise ArtifactError(f"{path} is not a result of rrr bench --out (kind {KIND!r}, format {FORMAT})")
    if not isinstance(document.get("runs"), list):
        raise ArtifactError(f"{path} has no runs: write it again with rrr bench --out")
    found: dict[str, Any] = document
    return found


def _blocks(rounds: Sequence[dict[str, Any]]) -> Blocks:
    cells = [_cells(HdrHistogram.decode(entry["histogram"])) for entry in rounds]
    edges = np.concatenate([found[side] for found in cells for side in (0, 1)])
    edges = edges[edges > 0]
    # An interval may end between two recorded cells or beyond the last, where the histogram is as fine.
    steps = math.ceil(math.log(_MARGIN**2 * edges.max() / edges.min()) / math.log(_CELL))
    grid = edges.min() / _MARGIN * _CELL ** np.arange(steps)
    bounds: Array = np.concatenate([np.unique(np.concatenate([edges, grid])), [np.inf]])
    buckets = np.zeros((len(rounds), len(bounds)))
    for row, (_, uppers, counts) in zip(buckets, cells, strict=True):
        row[np.searchsorted(bounds, uppers)] += counts
    counts = np.array([float(entry["ok"]) for entry in rounds])
    means_ms = np.array([float(entry["mean_ms"] or 0.0) for entry in rounds])
    seconds = np.array([float(entry["wall_seconds"]) for entry in rounds])
    return Blocks(seconds, counts, counts * means_ms / 1000, bounds, buckets)


def _cells(histogram: Any) -> tuple[Array, Array, Array]:
    """Lower and upper ends in seconds, and counts, of the cells that are not empty; their values were rounded."""
    counts = np.array(histogram.counts[: histogram.counts_len], dtype=np.float64)
    filled = np.flatnonzero(counts)
    values = [histogram.get_value_from_index(int(index)) for index in filled]
    lowers = np.array([histogram.get_lowest_equivalent_value(value) for value in values], dtype=np.float64)
    uppers = np.array([histogram.get_highest_equivalent_value(value) for value in values], dtype=np.float64)
    return (lowers - 0.5) * _MICROSECOND, (uppers + 0.5) * _MICROSECOND, counts[filled]
