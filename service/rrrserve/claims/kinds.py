"""The kinds of claims: their fields, units and sentences. docs/claims.md is written from this table."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rrrnet.names import is_text, text_of

Effort = Literal["fast", "auto", "full"]
LevelName = Literal["http", "triton", "engine"]
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]
QUANTILES: dict[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
MAX_CONCURRENCY = 1024


def _one_line(name: str) -> str:
    if not is_text(name):
        raise ValueError(f"{name!r} cannot be a name: allowed is a line of text, e.g. {text_of(name)!r}")
    return name


Word = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Bound(BaseModel):
    """What is claimed about a number: at least `low`, at most `high`; None where there is no such limit."""

    model_config = ConfigDict(frozen=True)
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float]:
        """Like {"at_least": 5.0}."""
        limits = {"at_least": self.low, "at_most": self.high}
        return {name: value for name, value in limits.items() if value is not None}

    def text(self, unit: str = "") -> str:
        """Like "at least 5 ms" or "between 5 and 6 ms"."""
        suffix = f" {unit}" if unit else ""
        if self.low is not None and self.high is not None:
            return f"between {self.low:.10g} and {self.high:.10g}{suffix}"
        if self.low is not None:
            return f"at least {self.low:.10g}{suffix}"
        return f"at most {self.high:.10g}{suffix}"


class Claim(BaseModel):
    """What every claim has. A kind adds its fields, and two that end the limits' names with their unit.

    Attributes:
        name: of the claim, unique in the file.
        kind: selects the class.
        model: the model it is about, as `GET /v1/models` calls it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    unit: ClassVar[str] = ""
    limits: ClassVar[tuple[str | None, str | None]] = ("at_least", "at_most")

    name: Word
    kind: str
    model: Word

    @property
    def bound(self) -> Bound:
        """The limits, in `unit`."""
        low, high = (getattr(self, name) if name else None for name in self.limits)
        return Bound(low=low, high=high)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it needs evidence of; the one it is about first."""
        baseline = getattr(self, "baseline", None)
        return (self.model,) if baseline is None else (self.model, baseline)

    @property
    def sentence(self) -> str:
        """The claim for people."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _has_a_limit(self) -> "Claim":
        bound = self.bound
        names = " or ".join(name for name in self.limits if name)
        if bound.low is None and bound.high is None:
            raise ValueError(f"nothing is claimed: give {names}")
        if bound.low is not None and bound.high is not None and bound.low > bound.high:
            raise ValueError(f"the lower limit {bound.low:g} is above the upper limit {bound.high:g}")
        if self.model == getattr(self, "baseline", None):
            raise ValueError(f"model and baseline are both {self.model!r}: a model is not compared with itself")
        return self


class Speedup(Claim):
    """How many times as long the baseline takes as the model."""

    unit = "x"
    kind: Literal["speedup"]
    baseline: Word
    level: LevelName = "http"
    statistic: Statistic = "mean"
    at_least: Positive | None = None
    at_most: Positive | None = None

    @property
    def sentence(self) -> str:
        """The claim for people."""
        return f"{self.model} is {self.bound.text()} times as fast as {self.baseline} ({self.statistic}, {self.level})"


class Latency(Claim):
    """How long an answer takes."""

    unit = "ms"
    limits = ("at_least_ms", "at_most_ms")
    kind: Literal["latency"]
    level: LevelName = "http"
    statistic: Statistic = "mean"
    at_least_ms: Positive | None = None
    at_most_ms: Positive | None = None

    @property
    def sentence(self) -> str:
        """The claim for people."""
        return f"{self.statistic} of {self.model} at the {self.level} level is {self.bound.text('ms')}"


class Throughput(Claim):
    """Good answers a second while the 99th percentile keeps its limit."""

    unit = "1/s"
    limits = ("at_least_per_second", None)
    kind: Literal["throughput"]
    at_least_per_second: Positive | None = None
    p99_ms: Positive
    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)] = 4

    @property
    def sentence(self) -> str:
        """The claim for people."""
        return (
            f"{self.model} gives {self.bound.text()} answers a second with p99 at most {self.p99_ms:g} ms "
            f"({self.concurrency} requests under way, http level)"
        )


class Size(Claim):
    """A count of something, or with a baseline how many times as much the baseline has."""

    kind: Literal["parameters", "macs", "engine_bytes"]
    baseline: Word | None = None
    at_least: Positive | None = None
    at_most: Positive | None = None

    @property
    def sentence(self) -> str:
        """The claim for people."""
        what = {"parameters": "parameters", "macs": "multiply-accumulates", "engine_bytes": "bytes of engine"}[
            self.kind
        ]
        if self.baseline is None:
            return f"{self.model} has {self.bound.text()} {what}"
        return f"{self.baseline} has {self.bound.text()} times as many {what} as {self.model}"


class AccuracyDifference(Claim):
    """Accuracy of the model's engine less that of a baseline's, or of the checkpoint it was built from."""

    unit = "points"
    limits = ("at_least_points", "at_most_points")
    kind: Literal["accuracy_difference"]
    baseline: Word | None = None
    at_least_points: Finite | None = None
    at_most_points: Finite | None = None

    @property
    def sentence(self) -> str:
        """The claim for people."""
        other = self.baseline or "its checkpoint in PyTorch"
        return f"accuracy of {self.model} less that of {other} is {self.bound.text('percentage points')}"


class Agreement(Claim):
    """Share of images that two engines, or an engine and its checkpoint, give the same label."""

    limits = ("at_least", None)
    kind: Literal["agreement"]
    target: Word | None = None
    other_target: Word | None = None
    at_least: Share | None = None

    @property
    def sentence(self) -> str:
        """The claim for people."""
        one = f"{self.model}, {self.target}," if self.target else self.model
        return f"labels of {one} agree with {self.other_target or 'its checkpoint'} on {self.bound.text()} of images"


class Coverage(Claim):
    """Share of images whose right label is in the set that `?coverage=` asks for."""

    limits = ("at_least", None)
    kind: Literal["coverage"]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    effort: Effort = "auto"
    at_least: Share | None = None

    @property
    def sentence(self) -> str:
        """The claim for people."""
        return (
            f"sets of {self.model} for coverage {self.coverage:g} hold the right label of {self.bound.text()} of "
            f"images (effort {self.effort})"
        )


class Calibration(Claim):
    """Expected calibration error of the first label's probability."""

    unit = "points"
    limits = (None, "at_most_points")
    kind: Literal["calibration"]
    effort: Effort = "auto"
    at_most_points: Annotated[float, Field(ge=0, le=100)] | None = None

    @property
    def sentence(self) -> str:
        """The claim for people."""
        limit = self.bound.text("percentage points")
        return f"expected calibration error of {self.model} is {limit} (effort {self.effort})"


AnyClaim = Speedup | Latency | Throughput | Size | AccuracyDifference | Agreement | Coverage | Calibration
Timed = Speedup | Latency | Throughput
Answered = Coverage | Calibration  # judged by answers to labelled images

KINDS: dict[str, type[AnyClaim]] = {
    "speedup": Speedup,
    "latency": Latency,
    "throughput": Throughput,
    "parameters": Size,
    "macs": Size,
    "engine_bytes": Size,
    "accuracy_difference": AccuracyDifference,
    "agreement": Agreement,
    "coverage": Coverage,
    "calibration": Calibration,
}
