"""The claims that an artifact carries, judged by the machine, the versions and the files of here and now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrrbuild.manifest import MANIFEST
from rrrbuild.repository_document import Repository, ServedModel
from rrrbuild.targets import TARGETS
from rrrnet import sealed
from rrrnet.errors import ArtifactError
from rrrserve.stamps.environment import describe
from rrrserve.stamps.staleness import file_reasons, hardware_reasons, version_reasons
from rrrserve.stamps.stamp import REMEDY, STAMP, files_compared, read_stamp
from rrrserve.stamps.verdict_document import Entry

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class StampedClaim:
    """A claim as its artifact shows it.

    Attributes:
        name: the claim's name; `claims.json` for a stamp that cannot be read.
        sentence: what is claimed.
        verdict: "pass", "fail", "undecided" or "unreadable".
        estimate: the measured value, in `unit`.
        interval: confidence interval of the estimate.
        unit: "x", "ms", "1/s", "bytes", "points" or "".
        verified_at: when the measurement began, ISO 8601.
        stale_reasons: why the verdict may no longer hold; empty when nothing has changed.
        entry: all that the stamp holds of it.
    """

    name: str
    sentence: str
    verdict: str
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    verified_at: str | None = None
    stale_reasons: tuple[str, ...] = ()
    entry: Entry | None = field(default=None, repr=False)

    @property
    def stale(self) -> bool:
        """Whether something that the verdict depends on has changed."""
        return bool(self.stale_reasons)

    def to_json(self) -> dict[str, Any]:
        """As GET /v1/models shows it."""
        shown = {key: value for key, value in vars(self).items() if key != "entry"}
        return {**shown, "stale": self.stale}

    def line(self) -> str:
        """One line for people."""
        if self.verdict == UNREADABLE:
            return f"claims {UNREADABLE}: {'; '.join(self.stale_reasons)}; {REMEDY}"
        words = [
            self.verdict,
            *([measured] if (measured := measured_text(self.estimate, self.interval, self.unit)) else []),
        ]
        if self.stale:
            words = [f"stale ({'; '.join(self.stale_reasons)})", f"was {' '.join(words)}"]
        return f"claim: {self.sentence}: {', '.join(words)}"


def measured_text(estimate: float | None, interval: tuple[float, float] | None, unit: str) -> str:
    """Estimate and interval, if it has a width, for people: "5.31 x (5.18 to 5.44)"; empty without an estimate."""
    if estimate is None:
        return ""
    spread = f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval and interval[0] < interval[1] else ""
    return f"{estimate:.4g}{f' {unit}' if unit else ''}{spread}"


def served_claims(repository: Repository, model: ServedModel) -> tuple[StampedClaim, ...]:
    """The claims stamped on a served model. A stamp that cannot be read gives one claim of the verdict "unreadable"."""

    def changed(_: str, entry: Entry) -> list[str]:
        here = {served.name: files_compared(repository, served) for served in repository.models}
        return [
            reason
            for name, artifact in entry.artifacts.items()
            for reason in file_reasons(name, artifact.files, here.get(name, {}))
        ]

    return _claims(repository.path / model.name / STAMP, changed)


def engine_claims(folder: Path) -> tuple[StampedClaim, ...]:
    """As `served_claims`, of an engine folder. Only this engine is compared: the others' folders are not known here."""

    def changed(model: str, entry: Entry) -> list[str]:
        same = sealed.sha256_of(folder / MANIFEST) == entry.artifacts[model].engine_sha256
        return [] if same else ["the engine was built again since"]

    return _claims(folder / STAMP, changed)


def judged(entry: Entry, changed: Sequence[str]) -> StampedClaim:
    """A claim with all reasons why it is stale; `changed` are those that lie in its files."""
    verdict, then, here = entry.verdict, entry.environment, describe()
    runtimes = [TARGETS[item.target].family for item in entry.artifacts.values() if item.target in TARGETS]
    reasons = [
        *changed,
        *hardware_reasons(then.machine, here["machine"]),
        *version_reasons(then.versions, here["versions"], runtimes),
    ]
    return StampedClaim(
        name=_clean(verdict.name),
        sentence=_clean(verdict.sentence),
        verdict=verdict.verdict,
        estimate=verdict.estimate,
        interval=verdict.interval,
        unit=_clean(verdict.unit),
        verified_at=entry.verified_at.isoformat().replace("+00:00", "Z"),
        stale_reasons=tuple(_clean(reason) for reason in reasons),
        entry=entry,
    )


def _claims(path: Path, changed: Callable[[str, Entry], Sequence[str]]) -> tuple[StampedClaim, ...]:
    """`changed` is given the stamped model and a claim of it, and tells what differs in the files."""
    if not path.exists():
        return ()
    try:
        stamp = read_stamp(path)
        return tuple(judged(entry, changed(stamp.model, entry)) for entry in stamp.claims.values())
    except ArtifactError as error:
        return (StampedClaim(STAMP, "", UNREADABLE, stale_reasons=(_clean(str(error)),)),)


def _clean(text: str) -> str:
    """One line without control characters: it goes to terminals."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
