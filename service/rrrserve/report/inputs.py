"""The result files that a report takes: bench results, verdicts and predictions, checked before anything is drawn."""

import zipfile
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, model_validator

from rrrnet.errors import ArtifactError, UsageError
from rrrserve.bench.document import Count, Figure, Limit
from rrrserve.stamps.verdict_document import Environment, Verdicts

_MAX_BYTES = 64 * 2**20


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Run(_Part):
    """One load on one model: latencies in milliseconds, rates in answers a second."""

    model: str
    level: str
    target: str | None = None
    members: Count | None = None
    batch: Count = 1
    mode: Literal["closed", "open"]
    concurrency: Count | None = None
    rate_per_second: Limit | None = None
    ok: Count
    errors: dict[str, Count] = {}
    throughput: Figure
    mean_ms: Figure | None = None
    p50_ms: Figure | None = None
    p90_ms: Figure | None = None
    p95_ms: Figure | None = None
    p99_ms: Figure | None = None
    p999_ms: Figure | None = None
    max_ms: Figure | None = None

    @property
    def load(self) -> float:
        """Requests under way, or requests sent a second."""
        return float((self.concurrency if self.mode == "closed" else self.rate_per_second) or 0)

    @model_validator(mode="after")
    def _has_its_load(self) -> "Run":
        if not self.load:
            name = "concurrency" if self.mode == "closed" else "rate_per_second"
            raise ValueError(f"a run of mode {self.mode} needs {name}, above 0")
        return self


class HighestRate(_Part):
    """The most requests a second that kept a limit to the 99th percentile."""

    model: str
    p99_ms_limit: Limit
    rate_per_second: Figure | None = None
    p99_ms: Figure | None = None


class Client(_Part):
    """What the load generator could have sent at most."""

    limit_requests_per_second: FiniteFloat | None = None
    largest_share_of_limit: FiniteFloat | None = None
    bottleneck: bool = False
    warnings: list[str] = []


class Bench(_Part):
    """What `rrr bench --out` writes."""

    format: Literal[1]
    kind: Literal["rrr-bench"]
    command: str
    started: str
    environment: Environment
    client: Client = Client()
    runs: list[Run]
    highest_rate: list[HighestRate] = []


Document = TypeVar("Document", Bench, Verdicts)


def read_bench(path: Path) -> Bench:
    """A bench result.

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is none.
    """
    return _read(path, Bench, "a bench result: rrr bench --out FILE writes one")


def read_verdicts(path: Path) -> Verdicts:
    """The verdicts of a run.

    Raises:
        UsageError: there is no such file.
        ArtifactError: they are none.
    """
    return _read(path, Verdicts, "verdicts: rrr verify --json prints them")


def _read(path: Path, document: type[Document], what: str) -> Document:
    _check_file(path)
    try:
        return document.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first: Any = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        seen = f", found {first['input']!r:.60}" if place else ""
        raise ArtifactError(f"{path} is not {what}; {place or 'JSON'}: {first['msg']}{seen}") from error


def _check_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path} is not a file: give one that a command of rrr wrote")
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stat().st_size > _MAX_BYTES:
        raise ArtifactError(f"{path} has {path.stat().st_size} bytes: allowed are {_MAX_BYTES}")


def read_predictions(
    path: Path, *, members: int, classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """What `rrr evaluate --predictions` wrote: probabilities (N, M, C) and labels (N,).

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is none, or of a network of another shape.
    """
    _check_file(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            probabilities, labels = arrays["probabilities"], arrays["labels"]
    except (ValueError, KeyError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{path} holds no predictions ({error}): rrr evaluate CHECKPOINT|ENGINE --predictions FILE.npz writes them"
        ) from error
    if (
        probabilities.ndim != 3
        or probabilities.shape[1:] != (members, classes)
        or labels.shape != probabilities.shape[:1]
    ):
        raise ArtifactError(
            f"{path} holds probabilities {probabilities.shape} and labels {labels.shape}: this network needs "
            f"(N, {members}, {classes}) and (N,)"
        )
    whole = np.issubdtype(labels.dtype, np.integer) and len(labels) > 0
    if (
        not whole
        or not np.issubdtype(probabilities.dtype, np.floating)
        or not ((labels >= 0) & (labels < classes)).all()
    ):
        raise ArtifactError(f"{path} holds labels that are no classes: allowed are 0 to {classes - 1}, at least one")
    return probabilities.astype(np.float32), labels.astype(np.int64)
