"""Measure candidates behind the real `rrr serve`, and write the chosen one into its repository.

Candidates take turns in rounds, each with a service of its own, started anew: whatever else the machine does meets all
of them alike, and only one holds memory at a time.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rrrbuild.repository_document import DOCUMENT, Repository, ServedModel, read_repository, write_document
from rrrbuild.triton_config import CONFIG, read_config, write_config
from rrrbuild.triton_folder import keep_bytecode_out
from rrrnet import sealed
from rrrnet.errors import CheckFailedError, IncompatibleError
from rrrserve.bench.closed_loop import Result, closed_loop
from rrrserve.net.listener import listen, url_of
from rrrserve.process import children
from rrrserve.process.environment import variables
from rrrserve.process.scratch import PrivateFolder
from rrrserve.tune.choose import Candidate, Figures, with_settings

TUNING = "tuning.json"
_START_SECONDS = 300
_GRACE_SECONDS = 5
_PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.05
_WARM_UP_SHARE = 0.25  # of the measured time, at each concurrency
# These would lead the service away from the repository and the Triton under test, or the measurement away from it.
_OTHERS = (
    *("RRR_REPOSITORY", "RRR_TRITON_URL", "RRR_TRITON_METRICS_URL", "RRR_DEFAULT_MODEL"),
    *("RRR_TOKEN", "RRR_TOKEN_FILE", "RRR_TLS_CERT", "RRR_TLS_KEY", "RRR_LOG_FORMAT"),
)


@dataclass(frozen=True)
class TunePlan:
    """How to measure.

    Attributes:
        concurrency: numbers of requests under way.
        rounds: turns of each candidate.
        seconds: for each concurrency in each turn.
        image: encoded image that every request sends.
    """

    concurrency: tuple[int, ...]
    rounds: int
    seconds: float
    image: bytes


async def measure(
    repository: Repository,
    model: ServedModel,
    candidates: Sequence[Candidate],
    plan: TunePlan,
    report: Callable[[str], None],
) -> tuple[list[Figures], dict[Candidate, str]]:
    """Measure every candidate on a copy of the model; `repository` is only read.

    Args:
        repository: holds the model.
        model: to tune; it is measured without the repository's other models.
        candidates: its settings to try.
        plan: how.
        report: told the candidate whose turn begins.

    Returns:
        A row for each candidate and concurrency, and why candidates are left out that did not start or failed
        requests.

    Raises:
        CheckFailedError: no candidate could be measured.
        IncompatibleError: this machine cannot serve the model.
    """
    config = read_config(repository.path / model.name / CONFIG)
    found: dict[tuple[Candidate, int], list[Result]] = {}
    failed: dict[Candidate, str] = {}
    private = PrivateFolder()
    folder = private.path
    try:
        copy = folder / "repository"
        copy.mkdir()
        _link_tree(repository.path / model.name, copy / model.name)
        for index in range(plan.rounds):
            for candidate in candidates if index % 2 == 0 else reversed(candidates):
                if candidate in failed:
                    continue
                report(str(candidate))
                _write_candidate(copy, model, with_settings(config, model.backend, candidate))
                try:
                    async with _serving(copy, folder / "serve.log") as url:
                        for concurrency in plan.concurrency:
                            result = await _one_level(f"{url}/v1/models/{model.name}/predict", concurrency, plan)
                            found.setdefault((candidate, concurrency), []).append(result)
                except CheckFailedError as error:
                    failed[candidate] = str(error)
    finally:
        private.remove()
    if len(failed) == len(candidates):
        reasons = "; ".join(f"{candidate}: {reason}" for candidate, reason in failed.items())
        raise CheckFailedError(f"no candidate could be measured, and nothing was changed: {reasons}")
    rows = [_figures(*key, results) for key, results in found.items() if key[0] not in failed]
    return sorted(rows, key=lambda row: (candidates.index(row.candidate), row.concurrency)), failed


def _figures(candidate: Candidate, concurrency: int, results: Sequence[Result]) -> Figures:
    return Figures(
        candidate,
        concurrency,
        tuple(result.percentile_ms(50) for result in results),
        tuple(result.percentile_ms(99) for result in results),
        tuple(result.throughput for result in results),
    )


async def _one_level(url: str, concurrency: int, plan: TunePlan) -> Result:
    await closed_loop(url, [plan.image], concurrency, seconds=_WARM_UP_SHARE * plan.seconds)
    result = await closed_loop(url, [plan.image], concurrency, seconds=plan.seconds)
    if result.errors:
        counts = ", ".join(f"{count} x {name}" for name, count in result.errors.items())
        raise CheckFailedError(f"requests failed at concurrency {concurrency}: {counts}")
    return result


def _write_candidate(copy: Path, model: ServedModel, config: Any) -> None:
    write_config(config, copy / model.name / CONFIG)
    for blocker in copy.glob("*/*/__pycache__"):
        blocker.unlink()
    write_document(copy, (model,))
    keep_bytecode_out(copy)


@asynccontextmanager
async def _serving(repository: Path, log: Path) -> AsyncIterator[str]:
    """`rrr serve` as a child that cannot outlive this process; gives its URL once /readyz says yes.

    Raises:
        CheckFailedError: it ended or is not ready in time.
        IncompatibleError: it says that this machine cannot serve the repository.
    """
    with listen("127.0.0.1", 0) as probe:
        url = url_of(probe)
    command = [sys.executable, "-c", "from rrrserve.cli import main; main()", "serve", str(repository)]
    command += ["--drain", "0", "--restarts", "0"]  # a candidate that dies has failed
    command += ["--port", url.rpartition(":")[2], "--grace", str(_GRACE_SECONDS), "--start-timeout"]
    environment = {name: value for name, value in variables().items() if name not in _OTHERS}
    with log.open("wb") as file:
        process = await children.spawn(
            [*command, str(_START_SECONDS)], environment={**environment, "COLUMNS": "1000"}, output=file.fileno()
        )
    try:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            while not await _ready(client, url):
                if process.returncode is not None:
                    reason = _last_words(log)
                    if process.returncode == IncompatibleError.exit_code:
                        raise IncompatibleError(reason)
                    raise CheckFailedError(f"the service did not start: {reason}")
                await asyncio.sleep(_POLL_SECONDS)
        yield url
    finally:
        await children.terminate(process, patience_seconds=_PATIENCE_SECONDS)


async def _ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    said = [line.removeprefix("rrr: ") for line in lines if line.startswith("rrr: ")]
    return (said or lines)[-1]


def apply(repository: Repository, model: ServedModel, chosen: Candidate, seal: str, document: dict[str, Any]) -> None:
    """Write the chosen settings and `NAME/tuning.json`, and seal anew; a failure leaves the repository as it was.

    Args:
        repository: to change, in one step.
        model: whose settings.
        chosen: the settings.
        seal: SHA-256 of `repository.json` before the measurement.
        document: what tuning.json is to hold.

    Raises:
        CheckFailedError: the repository was written anew while candidates were measured.
    """
    with sealed.staged(repository.path, document=DOCUMENT) as folder:
        for entry in repository.models:
            for name in (entry.name, *entry.steps):
                _link_tree(repository.path / name, folder / name)
        config = read_config(repository.path / model.name / CONFIG)
        write_config(with_settings(config, model.backend, chosen), folder / model.name / CONFIG)
        (folder / model.name / TUNING).unlink(missing_ok=True)
        sealed.seal(folder / model.name, TUNING, document)
        write_document(folder, repository.models)
        keep_bytecode_out(folder)
        if sealed.sha256_of(repository.path / DOCUMENT) != seal:
            raise CheckFailedError(
                f"{repository.path} was written anew meanwhile, so nothing was changed: run it again"
            )
    read_repository(repository.path)


def _link_tree(source: Path, target: Path) -> None:
    """Copy a model: large files as hard links where the disk allows them, those that are rewritten as files."""
    shutil.copytree(source, target, copy_function=_link_or_copy, ignore=shutil.ignore_patterns("__pycache__"))


def _link_or_copy(source: str, target: str) -> None:
    if Path(source).name != CONFIG:
        try:
            os.link(source, target)
        except OSError:
            pass  # another disk, or one without links
        else:
            return
    shutil.copyfile(source, target)
