"""What a report says, as one JSON-ready document. What is missing is listed with the command that makes it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rrrbuild.engine import unfitness
from rrrbuild.manifest import Manifest
from rrrbuild.targets import TARGETS
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint
from rrrnet.commands.describe import summarise
from rrrnet.files import shown
from rrrnet.network.architecture import backbone_title
from rrrserve.bench.result_file import BenchResult
from rrrserve.report.calibration import calibration
from rrrserve.report.mistakes import mistakes
from rrrserve.report.sources import Sources
from rrrserve.report.training import resuming
from rrrserve.report.trust import Answers, trust_section
from rrrserve.report.verification import verified_elsewhere
from rrrserve.stamps.environment import describe

METHODS = {
    "ensemble": "ensemble of thin branches on a shared stem, RRR-Net [D]",
    "reduced": "{backbone} reduced to 5 blocks, RRR-Net [C]",
    "full": "{backbone}, RRR-Net [B]",
    "head": "{backbone} with a new classifier, RRR-Net [A]",
}
_RATE_FIELDS = {"model", "p99_ms_limit", "rate_per_second", "p99_ms"}
_NOT_SHOWN = {"rounds", "where", "repository", "engine_sha256"}
_OF_ENGINES = (
    *("target", "precision", "plan", "plan_by_batch", "verified", "unverified_reason"),
    *("latency_ms", "quantisation", "versions", "device", "command"),
)
LOADS = {"closed": "requests under way", "open": "requests sent a second"}


def model_section(sources: Sources) -> dict[str, Any]:
    """What the network is and costs."""
    shape = _shape(sources)
    method = shape.method if isinstance(shape, Checkpoint) else shape.checkpoint.get("method", "")
    architecture = shape.architecture
    backbone = backbone_title(architecture.backbone)
    return {
        "method": method,
        "method_text": METHODS.get(method, "").format(backbone=backbone) or method,
        "backbone": architecture.backbone,
        "backbone_text": backbone,
        "members": architecture.members,
        "num_classes": architecture.num_classes,
        "image_size": shape.preprocess.size,
        "blocks": list(architecture.blocks),
        "widths": list(architecture.widths),
        "labels": list(shape.labels),
        "preprocess": asdict(shape.preprocess),
        "preprocess_text": shape.preprocess.describe(),
        "costs": summarise(architecture, shape.preprocess.size),
    }


def _shape(sources: Sources) -> Checkpoint | Manifest:
    return sources.checkpoint or sources.engines[0]


def accuracy_section(checkpoint: Checkpoint | None, answers: Answers | None) -> list[dict[str, Any]]:
    """Scores of the ensemble and each member: when it was trained, and of the predictions."""
    rows = []
    recorded = checkpoint.training.get("metrics", {}).get("test") if checkpoint is not None else None
    if recorded:
        rows.append({"source": "PyTorch, test split, when it was trained", **recorded})
    if answers is not None:
        rows.append({"source": answers.source, **answers.scores()})
    return rows


def calibration_section(sources: Sources, answers: Answers | None) -> dict[str, Any] | None:
    """Reliability, coverage and the worst classes."""
    if answers is None:
        return None
    return calibration(answers.probabilities, answers.labels, _shape(sources).labels, answers.calibrated)


def mistakes_section(sources: Sources, answers: Answers | None) -> dict[str, Any] | None:
    """Each class, the confusion matrix and the surest wrong answers."""
    if answers is None:
        return None
    labels = _shape(sources).labels
    return mistakes(answers.probabilities, answers.labels, labels, answers.files, answers.calibrated)


def engine_section(engine: Manifest, sources: Sources) -> dict[str, Any]:
    """An engine by its manifest."""
    target = TARGETS.get(engine.target)
    obstacle = unfitness(engine, target) if target is not None else f"this rrr does not know the target {engine.target}"
    checkpoint = sources.checkpoint
    training = None if checkpoint is None else sealed.sha256_of(checkpoint.path / DOCUMENT)
    return {
        **{name: getattr(engine, name) for name in _OF_ENGINES},
        "path": shown(engine.path),
        "batch": asdict(engine.batch),
        "size_bytes": engine.engine_bytes,
        "files": {name: entry["sha256"] for name, entry in engine.files.items()},
        "verified_elsewhere": verified_elsewhere(engine),
        "fastest": _fastest(engine),
        **trust_section(engine),
        "runs_here": obstacle is None,
        "obstacle": obstacle,
        "of_this_checkpoint": None if training is None else engine.checkpoint["sha256"] == training,
    }


def _fastest(engine: Manifest) -> list[dict[str, Any]]:
    """Latency of the plan that is used, by batch size."""
    rows = []
    for size in engine.batch.sizes():
        plan = engine.plan_by_batch.get(str(size), engine.plan)
        if found := engine.latency_ms.get(plan, {}).get(str(size)):
            rows.append({"batch": size, "plan": plan, **found})
    return rows


def bench_section(benches: Mapping[str, BenchResult], names: set[str]) -> list[dict[str, Any]]:
    """Bench results, their runs in groups that can be compared: one level, one kind of load, one batch size."""
    return [
        {
            "path": path,
            "command": bench.command,
            "started": bench.started,
            "environment": bench.environment.model_dump(),
            "client": bench.client.model_dump(),
            "highest_rate": [row.model_dump(include=_RATE_FIELDS) for row in bench.highest_rate],
            "about_this_model": any(run.model in names for run in bench.runs),
            "groups": _groups(bench, names),
        }
        for path, bench in benches.items()
    ]


def _groups(bench: BenchResult, names: set[str]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, int], dict[str, list[dict[str, Any]]]] = {}
    runs = sorted(bench.runs, key=lambda run: (run.model not in names, run.model, run.target or "", run.load))
    for run in runs:
        series = groups.setdefault((run.level, run.mode, run.batch), {})
        targets = {other.target for other in bench.runs if other.model == run.model}
        name = f"{run.model}, {run.target}" if len(targets) > 1 else run.model
        row = {**run.model_dump(exclude=_NOT_SHOWN), "load": run.load, "failed": run.failed}
        series.setdefault(name, []).append(row)
    levels = {"http": "HTTP", "triton": "Triton (gRPC)", "engine": "engine"}
    return [
        {
            "title": f"{levels.get(level, level)}, {mode} loop, batch {batch}",
            "level": level,
            "mode": mode,
            "load_name": LOADS[mode],
            "series": series,
        }
        for (level, mode, batch), series in groups.items()
    ]


def environment_section() -> dict[str, Any]:
    """Where and when the report was made."""
    return {**describe(), "made": datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")}


def missing_section(document: Mapping[str, Any], damaged: Sequence[str]) -> list[dict[str, str]]:
    """What the report lacks: the section, a sentence, and the command that mends it."""
    name = document["name"]
    engines, trained = document["engines"], document["training"]
    subject = shlex.quote(trained["path"] if trained else engines[0]["path"])
    rows = [("damage", "Left out because it is damaged: " + reason, "") for reason in damaged]
    if trained is None:
        rows.append(
            ("model", "No checkpoint was found: training data, recipe and seed are not known.", "--checkpoint DIR")
        )
    elif trained["complete"] is False:
        how = trained["ended"] or "it was stopped"
        what = f"The training is not complete: {how}. All figures are of the network as it was then."
        rows.append(("model", what, resuming(trained["command"])))
    if not document["accuracy"]:
        rows.append(("accuracy", "No accuracy is known.", f"rrr evaluate {subject} --data DIR"))
    if document["calibration"] is None:
        command = f"rrr evaluate {subject} --predictions FILE.npz; rrr report {subject} --predictions FILE.npz ..."
        rows.append(("calibration", "No predictions were given.", command))
    if not engines:
        rows.append(("engines", "No engine was found.", f"rrr build {subject}"))
    for engine in engines:
        target, command = engine["target"], engine["command"]
        if not engine["verified"]:
            rows.append(("engines", f"{target} was not verified: {engine['unverified_reason']}", command))
        elif elsewhere := engine["verified_elsewhere"]:
            rows.append(("engines", f"{target} was not verified on this machine: {elsewhere}", command))
    if not document["bench"]:
        rows.append(
            ("latency", "No bench result was given.", "rrr bench --out FILE.json; rrr report ... --bench FILE.json")
        )
    rows += [
        ("latency", f"{bench['path']} has no run of {name}.", "rrr bench")
        for bench in document["bench"]
        if not bench["about_this_model"]
    ]
    if document["served"] is None:
        rows.append(("claims", "No repository serves it.", "rrr repository ENGINE --out REPO; --repository REPO"))
    if not document["claims"]:
        command = "rrr verify --claims FILE.yaml --stamp; or rrr verify --json > FILE.json and --verdicts FILE.json"
        rows.append(("claims", "No claim about it was verified.", command))
    return [{"section": section, "text": text, "command": command} for section, text, command in rows]
