"""A claims file to begin with: what a repository's documents show already, and bounds on time for a person to set."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rrrbuild.cascade_runner import AUTO, FULL
from rrrbuild.manifest import Manifest, read_engine
from rrrbuild.repository_document import Repository, ServedModel
from rrrnet.names import text_of
from rrrserve.claims.claims_file import DEFAULT_CONFIDENCE, VERSION
from rrrserve.claims.kinds import AccuracyDifference, Agreement, Size
from rrrserve.judge.artifacts import Artifacts
from rrrserve.judge.confidence import calibration_half_width, exact
from rrrserve.judge.verdicts import Interval

# A first bound on time: far enough from the engine's own time that the machine's moods do not decide.
_OF_THE_RATIO = {"triton": 0.7, "http": 0.5}
_TIMES, _PLUS_MS, _UNKNOWN_MS = 5, 30, 1000
_FEWEST_IMAGES = 50  # for a claim on sets or probabilities: fewer leave intervals that say nothing
_SIZES = {"parameters": "parameters", "macs": "multiply-accumulates", "engine_bytes": "size on disk"}
_HEAD = """\
# Claims of a repository's models, written by rrr claims init. They are yours to change: docs/claims.md lists all kinds.
#
{commands}
#
# Bounds on time are guesses from what the engines took when they were built: set those marked SET to what you promise.
# The others hold today, by the repository's own documents.
version: {version}
confidence: {confidence}
claims:
"""


@dataclass(frozen=True)
class _Entry:
    """One claim of the file: the remark above it, and its fields."""

    remark: str
    fields: dict[str, object]

    def text(self) -> str:
        """As YAML; words are quoted, since a model may be called 1 or true."""
        lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in self.fields.items()]
        return f"  # {self.remark}\n  - " + "\n    ".join(lines) + "\n"


def draft(repository: Repository, engines: Path, *, commands: Sequence[str]) -> str:
    """The text of a claims file about all models of a repository.

    A whole backbone (a ResNet50, 101 or 152) is what the others are compared with, each with its own if that is there;
    without one, bounds are absolute.

    Args:
        repository: has been checked.
        engines: where engines lie, as DIR/MODEL/TARGET: those of Triton ensembles are looked for there.
        commands: what is typed to serve the repository and to verify the claims, for the remarks.
    """
    artifacts = Artifacts(repository.path, engines)
    manifests = {model.name: _manifest(repository, model, engines) for model in repository.models}
    baselines = {model.name: _baseline(model, repository.models, manifests) for model in repository.models}
    others = [model for model in repository.models if baselines[model.name] is not model]
    entries: list[_Entry] = []
    for model in others or repository.models:
        reference = baselines[model.name] if others else None
        if reference is not None:
            entries += _speedups(model, reference, manifests)
        entries += [_latency(model, manifests[model.name]), *_documented(model, reference, artifacts)]
        entries += _answered(model, manifests[model.name])
    told = "\n".join(f"#   {text_of(command)}" for command in commands)
    head = _HEAD.format(commands=told, version=VERSION, confidence=DEFAULT_CONFIDENCE)
    return head + "\n".join(entry.text() for entry in entries)


def _manifest(repository: Repository, model: ServedModel, engines: Path) -> Manifest | None:
    """Of the engine that a model runs; of a Triton ensemble that of the engine it was made from, if it is there."""
    own = repository.path / model.name / model.version
    for folder in (own, engines / model.name / model.target):
        if (folder / "manifest.json").is_file():
            return read_engine(folder)
    return None


def _baseline(
    model: ServedModel, models: Sequence[ServedModel], manifests: dict[str, Manifest | None]
) -> ServedModel | None:
    """The first whole network of the model's own backbone (perhaps itself), else of another."""
    shapes = {name: manifest.architecture for name, manifest in manifests.items() if manifest is not None}
    whole = [other for other in models if other.name in shapes and shapes[other.name].is_full]
    backbone = shapes[model.name].backbone if model.name in shapes else None
    own = [other for other in whole if shapes[other.name].backbone == backbone]
    return next(iter(own or whole), None)


def _engine_ms(manifest: Manifest | None) -> float | None:
    """Median of one image in the engine alone; None where it was not measured."""
    if manifest is None:
        return None
    plan = manifest.plan_by_batch.get("1", manifest.plan)
    measured = manifest.latency_ms.get(plan, {}).get("1")
    return None if measured is None else float(measured["median"])


def _speedups(model: ServedModel, baseline: ServedModel, manifests: dict[str, Manifest | None]) -> Iterator[_Entry]:
    fast, slow = (_engine_ms(manifests[name]) for name in (model.name, baseline.name))
    ratio = slow / fast if fast and slow else None
    told = f"the engines alone: {slow:.3g} against {fast:.3g} ms" if ratio else "the engines' times are not known"
    for level, share in _OF_THE_RATIO.items():
        where = "behind Triton" if level == "triton" else "over HTTP"
        bound = _below(ratio * share) if ratio else 1.0
        yield _Entry(
            f"SET at_least; {told}",
            {
                "name": f"{model.name}: speed-up {where}",
                "kind": "speedup",
                "model": model.name,
                "baseline": baseline.name,
                "level": level,
                "at_least": bound,
            },
        )


def _latency(model: ServedModel, manifest: Manifest | None) -> _Entry:
    engine_ms = _engine_ms(manifest)
    told = f"the engine alone: {engine_ms:.3g} ms" if engine_ms else "the engine's time is not known"
    most = _above(_TIMES * engine_ms + _PLUS_MS) if engine_ms else _UNKNOWN_MS
    return _Entry(
        f"SET at_most_ms (and statistic: p99, if the slowest answers count); {told}",
        {
            "name": f"{model.name}: median over HTTP",
            "kind": "latency",
            "model": model.name,
            "level": "http",
            "statistic": "p50",
            "at_most_ms": most,
        },
    )


def _documented(model: ServedModel, baseline: ServedModel | None, artifacts: Artifacts) -> Iterator[_Entry]:
    """Claims on what the documents hold; what these do not decide is left out."""
    named = {"model": model.name} | ({} if baseline is None else {"baseline": baseline.name})
    alpha = 1 - DEFAULT_CONFIDENCE
    for kind, what in _SIZES.items():
        claim = Size.model_validate({"name": what, "kind": kind, **named, "at_least": 1e-9})
        found = artifacts.verdict(claim, alpha).interval
        if found is None:
            continue
        times = f"{baseline.name} has {found.value:.4g} times as many" if baseline else f"now {found.value:.0f}"
        bound = {"at_least": _below(found.value)} if baseline else {"at_most": _above(found.value, digits=3)}
        yield _Entry(times, {"name": f"{model.name}: {what}", "kind": kind, **named, **bound})
    accuracy = {"name": "accuracy", "kind": "accuracy_difference", **named, "at_least_points": -100.0}
    found = artifacts.verdict(AccuracyDifference.model_validate(accuracy), alpha).interval
    if found is not None:
        other = baseline.name if baseline else "its checkpoint"
        fields = accuracy | {"name": f"{model.name}: accuracy", "at_least_points": _floor(found.low, 1)}
        yield _Entry(f"percentage points against {other}: {_shown(found)}; more images narrow it", fields)
    agreement = {"name": "labels", "kind": "agreement", "model": model.name, "at_least": 0.0}
    found = artifacts.verdict(Agreement.model_validate(agreement), alpha).interval
    if found is not None:
        fields = agreement | {"name": f"{model.name}: labels of the checkpoint", "at_least": _floor(found.low, 2)}
        yield _Entry(f"share of images labelled as by the checkpoint: {_shown(found)}", fields)


def _answered(model: ServedModel, manifest: Manifest | None) -> Iterator[_Entry]:
    """Claims on sets and probabilities, if the build measured them on images enough; `rrr verify` takes the test split.

    Bounds leave room for another sample of half as many images.
    """
    confidence, verified = model.confidence, manifest.verified if manifest else False
    if confidence is None or not verified or verified["accuracy"] is None:
        return
    effort = FULL if model.cascade is None else AUTO
    images = min(int(verified["images"]), confidence.images) // 2
    if images < _FEWEST_IMAGES:
        return
    alpha = 1 - DEFAULT_CONFIDENCE
    sets = confidence.coverage.get(effort, {})
    nominal = max(sets, key=float, default=None)
    if nominal is not None:
        share = sets[nominal]["coverage"]
        low = exact(math.floor(share * images), images, alpha).low
        fields = {"kind": "coverage", "model": model.name, "coverage": float(nominal), "effort": effort}
        remark = f"share of sets that hold the right label; when it was built: {share:.3g}"
        yield _Entry(remark, {"name": f"{model.name}: sets", **fields, "at_least": _floor(low, 2)})
    if (after := confidence.after.get(effort)) is not None:
        room = calibration_half_width(max(1 - after["accuracy"], 0.0), images, alpha)
        most = math.ceil(100 * (after["ece"] + room))
        fields = {"kind": "calibration", "model": model.name, "effort": effort, "at_most_points": float(most)}
        remark = f"expected calibration error; when it was built: {100 * after['ece']:.2g} points"
        yield _Entry(remark, {"name": f"{model.name}: calibration", **fields})


def _shown(found: Interval) -> str:
    return f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"


def _floor(value: float, digits: int) -> float:
    """Rounded down to so many digits behind the point."""
    return math.floor(value * 10.0**digits) / 10.0**digits + 0.0  # no -0.0


def _below(value: float, digits: int = 2) -> float:
    """A positive number rounded down to so many significant digits."""
    return _floor(value, digits - 1 - math.floor(math.log10(value)))


def _above(value: float, digits: int = 2) -> float:
    """The same, rounded up; a whole number where it can be."""
    places = digits - 1 - math.floor(math.log10(value))
    unit = 10**-places
    return math.ceil(value * 10.0**places) / 10.0**places if places > 0 else math.ceil(value / unit) * unit
