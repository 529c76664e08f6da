"""What `rrr verify` found, as JSON holds it: the verdicts of a run, and those that a stamp keeps (docs/report.md)."""

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, FiniteFloat, model_validator


class _Part(BaseModel):
    """Keys that this version does not know are kept: a stamp is merged by whichever version comes later."""

    model_config = ConfigDict(extra="allow", frozen=True)


class WrittenVerdict(_Part):
    """One claim and what became of it.

    Attributes:
        name: the claim's name.
        kind: "speedup", "latency", ...
        sentence: the claim for people.
        verdict: "pass", "fail" or "undecided".
        reason: a word for why it is undecided or failed.
        explanation: a sentence for people.
        estimate: what was measured, in `unit`.
        interval: confidence interval of the estimate.
        bound: what is claimed, like {"at_least": 5.0}.
        unit: "x", "ms", "1/s", "bytes", "points" or "".
        models: those the claim names.
        samples: how many, by model.
        queries: what reproduces the estimate.
    """

    name: str
    kind: str
    sentence: str
    verdict: Literal["pass", "fail", "undecided"]
    reason: str | None = None
    explanation: str | None = None
    estimate: FiniteFloat | None = None
    interval: tuple[FiniteFloat, FiniteFloat] | None = None
    bound: dict[str, FiniteFloat] = {}
    unit: str = ""
    models: list[str]
    samples: dict[str, int] = {}
    queries: list[str] = []


class Environment(_Part):
    """Where it was measured (rrrserve.stamps.environment)."""

    machine: dict[str, Any]
    versions: dict[str, str | None]


class Verdicts(_Part):
    """A run of `rrr verify`."""

    format: Literal[1]
    kind: Literal["rrr-verdicts"]
    claims: dict[str, Any]
    confidence: FiniteFloat
    started: AwareDatetime
    source: dict[str, Any]
    environment: Environment
    verdicts: list[WrittenVerdict]


class Artifact(_Part):
    """A served model when a claim about it was verified.

    Attributes:
        target: the engine's target.
        engine_sha256: of the engine's manifest, which holds the digests of the engine's files.
        files: SHA-256 of each file that Triton loads, by its path in the repository.
    """

    target: str
    engine_sha256: str | None
    files: dict[str, str]


class Entry(_Part):
    """A claim in a stamp: the verdict, its run, and the models of the repository that it is about."""

    verdict: WrittenVerdict
    verified_at: AwareDatetime
    confidence: FiniteFloat
    source: dict[str, Any]
    claims: dict[str, Any]
    environment: Environment
    artifacts: dict[str, Artifact]


class Stamp(_Part):
    """`claims.json`, less its seal."""

    format: Literal[1] = 1
    kind: Literal["rrr-claims"] = "rrr-claims"
    model: str
    claims: dict[str, Entry]

    @model_validator(mode="after")
    def _names_its_model(self) -> "Stamp":
        for name, entry in self.claims.items():
            if self.model not in entry.artifacts:
                raise ValueError(f"claim {name!r} is not about {self.model!r}")
        return self
