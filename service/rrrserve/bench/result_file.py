"""A result of `rrr bench --out`, as claims and reports read it: checked as a whole before anything is computed."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rrrnet.errors import ArtifactError
from rrrserve.stamps.verdict_document import Environment

FORMAT, KIND = 1, "rrr-bench"
_MAX_BYTES = 1 << 28
_MAX_HISTOGRAM_CHARACTERS = 1 << 18  # three digits from 1 us to an hour take less, however full it is

# Sums and products of such numbers stay finite.
Count = Annotated[int, Field(ge=0, le=1 << 53)]
Amount = Annotated[float, Field(ge=0, le=1e12)]
Limit = Annotated[float, Field(ge=1e-6, le=1e12)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Round(_Part):
    """One turn: answered requests, their mean latency, how long it took, and their histogram as text."""

    ok: Count
    mean_ms: Amount | None
    wall_seconds: Amount
    histogram: Annotated[str, Field(max_length=_MAX_HISTOGRAM_CHARACTERS)]

    @model_validator(mode="after")
    def _answers_took_time(self) -> "Round":
        if self.ok and not (self.mean_ms and self.wall_seconds):
            raise ValueError(f"{self.ok} requests were answered, so mean_ms and wall_seconds must be above 0")
        return self


class _Subject(_Part):
    model: str
    level: Literal["http", "triton", "engine"]
    target: str | None = None
    members: Count | None = None
    where: str = ""
    batch: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    repository: str | None = None
    engine_sha256: str | None = None
    effort: str | None = None

    def __str__(self) -> str:
        """What tells it from another of the same model and level."""
        effort = "" if self.effort is None else f"effort {self.effort}"
        words = [self.target or "", f"batch {self.batch}", effort, self.where]
        return ", ".join(word for word in words if word)


class BenchRun(_Subject):
    """One load on one model: figures of all rounds together, latencies in milliseconds, rates in answers a second."""

    mode: Literal["closed", "open"]
    concurrency: Count | None = None
    rate_per_second: Amount | None = None
    errors: dict[str, Count]
    rounds: list[Round]
    ok: Count
    throughput: Amount
    mean_ms: Amount | None = None
    p50_ms: Amount | None = None
    p90_ms: Amount | None = None
    p95_ms: Amount | None = None
    p99_ms: Amount | None = None
    p999_ms: Amount | None = None
    max_ms: Amount | None = None

    @property
    def load(self) -> float:
        """Requests under way, or requests sent a second."""
        return float((self.concurrency if self.mode == "closed" else self.rate_per_second) or 0)

    @property
    def load_text(self) -> str:
        """Level and load in words."""
        return f"{self.level} at {self.load:g}{'' if self.mode == 'closed' else '/s'}"

    @property
    def answered(self) -> int:
        """Requests that the rounds hold the latencies of."""
        return sum(entry.ok for entry in self.rounds)

    @property
    def failed(self) -> int:
        """Requests without a usable answer."""
        return sum(self.errors.values())

    @model_validator(mode="after")
    def _has_its_load(self) -> "BenchRun":
        if not self.load:
            name = "concurrency" if self.mode == "closed" else "rate_per_second"
            raise ValueError(f"a run of mode {self.mode} needs {name}, above 0")
        return self


class TriedRate(_Part):
    """One rate that a search tried; `ok` if it kept the limit without an error."""

    rate_per_second: Limit
    p99_ms: Amount | None = None
    errors: Count = 0
    requests: Count
    ok: bool


class HighestRate(_Subject):
    """What the search for the highest rate whose 99th percentile keeps a limit found."""

    p99_ms_limit: Limit
    rate_per_second: Limit | None
    p99_ms: Amount | None = None
    reason: str = ""
    tried: list[TriedRate]


class ClientLimit(_Part):
    """What the load generator could have sent at most."""

    limit_requests_per_second: Amount | None = None
    largest_share_of_limit: Amount | None = None
    bottleneck: bool = False
    warnings: list[str] = []


def _aware(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no time zone")
    return text


class BenchResult(_Part):
    """What claims and reports read of a result (docs/internals/formats.md has all of it)."""

    format: Literal[1]
    kind: Literal["rrr-bench"]
    command: str = "rrr bench"
    started: Annotated[str, AfterValidator(_aware)]
    environment: Environment
    client: ClientLimit = ClientLimit()
    runs: list[BenchRun]
    highest_rate: list[HighestRate] = []


def read_result(path: Path) -> BenchResult:
    """Read and check a result file.

    Raises:
        ArtifactError: it cannot be read, or is none; names the field and the value seen.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ArtifactError(f"{path} is larger than {_MAX_BYTES >> 20} MiB: not a result of rrr bench")
    try:
        return BenchResult.model_validate_json(data)
    except ValidationError as error:
        first: Any = error.errors()[0]
    place = ".".join(str(part) if str(part).isprintable() else repr(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        raise ArtifactError(f"{path} is not JSON ({first['msg']}): expected a result of rrr bench --out")
    if place in ("", "format", "kind"):
        raise ArtifactError(f"{path} is not a result of rrr bench --out (kind {KIND!r}, format {FORMAT})")
    raise ArtifactError(
        f"{path} is not as rrr bench --out writes it: {place}: {first['msg']}, found {first['input']!r:.60}; "
        "measure again"
    )
